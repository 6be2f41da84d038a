//! From facts to findings and one verdict. Pure.

use serde::Serialize;

use super::host::{Access, Host};
use crate::kvm::probe::{Offer, Outcome, Ring0};

#[cfg(test)]
mod tests;

/// Below this many simple instructions a second, code is not executed but emulated: 1.7 to 3 million are usual for KVM's
/// own emulator, and no processor is as slow.
const EMULATED: u64 = 20_000_000;

/// What came of opening and trying KVM.
#[derive(Clone, Debug)]
pub enum Kvm {
    /// It works as a device; the facts say how well.
    Open {
        /// What it says of itself.
        offer: Offer,
        /// What a guest in ring 0 experienced.
        ring0: Ring0,
    },
    /// There is no `/dev/kvm`.
    Absent,
    /// This user may not open it.
    Forbidden,
    /// It fails otherwise.
    Unusable {
        /// How.
        because: String,
    },
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// The KVM device and its capabilities.
    Kvm,
    /// What kernels need of a processor.
    Kernels,
    /// Devices and kernel features around it.
    Host,
}

/// How a thing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is there and works.
    Yes,
    /// It is not, and something is lost, but guests run.
    Limited,
    /// It is not, and guests do not run, or not ordinary ones.
    No,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub topic: Topic,
    /// A short name, stable for scripts.
    pub name: String,
    /// How it is.
    pub state: State,
    /// What that means.
    pub meaning: String,
}

/// Everything that `check` has to say.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether ordinary kernels can run: the exit status is 0 if so, 1 if not.
    pub ordinary_kernels: bool,
    /// The verdict in words, and what to do about it.
    pub verdict: String,
    /// What was found, in the order of the topics.
    pub findings: Vec<Finding>,
    /// Simple instructions a second in ring 0.
    pub ring0_instructions_per_second: Option<u64>,
    /// One exit to this program and back, in nanoseconds.
    pub exit_nanoseconds: Option<u64>,
    /// vCPUs a VM can have.
    pub vcpus_max: Option<usize>,
    /// The facts about the host.
    pub host: Host,
}

/// Judges the facts.
pub fn judge(kvm: &Kvm, host: &Host) -> Report {
    let mut findings = Vec::new();
    let mut report = Report {
        ordinary_kernels: false,
        verdict: String::new(),
        findings: Vec::new(),
        ring0_instructions_per_second: None,
        exit_nanoseconds: None,
        vcpus_max: None,
        host: host.clone(),
    };
    if let Kvm::Open { offer, ring0 } = kvm {
        findings.push(finding(Topic::Kvm, "/dev/kvm", State::Yes, &described(offer, host)));
        findings.extend(capabilities(offer));
        findings.extend(kernels(ring0));
        report.ring0_instructions_per_second = ring0.instructions_per_second;
        report.exit_nanoseconds = ring0.exit.map(|exit| exit.as_nanos() as u64);
        report.vcpus_max = Some(offer.vcpus.1);
    } else {
        findings.push(finding(Topic::Kvm, "/dev/kvm", State::No, "no guest runs without it"));
    }
    report.ordinary_kernels = findings.iter().all(|finding| finding.state != State::No);
    report.verdict = verdict(kvm, host, &findings);
    findings.extend(surroundings(host));
    report.findings = findings;
    report
}

fn finding(topic: Topic, name: &str, state: State, meaning: &str) -> Finding {
    Finding { topic, name: name.to_owned(), state, meaning: meaning.to_owned() }
}

fn described(offer: &Offer, host: &Host) -> String {
    let modules = if host.kvm_modules.is_empty() { "built in".to_owned() } else { host.kvm_modules.join(", ") };
    format!(
        "API {}, {modules}; guests see a {} processor; up to {} vCPUs ({} advised) and {} memory slots a guest",
        offer.api_version, offer.vendor, offer.vcpus.1, offer.vcpus.0, offer.memory_slots
    )
}

fn capabilities(offer: &Offer) -> Vec<Finding> {
    let state = |required, there| match (there, required) {
        (true, _) => State::Yes,
        (false, true) => State::No,
        (false, false) => State::Limited,
    };
    let one = |(capability, there): &(crate::kvm::probe::Capability, bool)| {
        let absent = if *there { "" } else { "absent; with it, " };
        let meaning = format!("{absent}{}", capability.purpose);
        finding(Topic::Kvm, capability.name, state(capability.required, *there), &meaning)
    };
    offer.capabilities.iter().map(one).collect()
}

fn kernels(ring0: &Ring0) -> Vec<Finding> {
    let mut findings = vec![match ring0.instructions_per_second {
        Some(speed) if speed >= EMULATED => finding(
            Topic::Kernels,
            "speed",
            State::Yes,
            &format!("ring 0 executes {} instructions a second", short(speed)),
        ),
        Some(speed) => finding(
            Topic::Kernels,
            "speed",
            State::Limited,
            &format!("ring 0 is emulated, at {} instructions a second", short(speed)),
        ),
        None => finding(Topic::Kernels, "speed", State::No, "not even a loop runs in ring 0"),
    }];
    for (instruction, outcome) in &ring0.instructions {
        let (state, how) = match outcome {
            Outcome::Ran => (State::Yes, ""),
            Outcome::GaveUp => (State::No, "KVM gives up at it; kernels use it for "),
            Outcome::Faulted => (State::No, "the processor faults at it; kernels use it for "),
            Outcome::Unexpected => (State::No, "KVM comes back with something else; kernels use it for "),
        };
        findings.push(finding(Topic::Kernels, instruction.name, state, &format!("{how}{}", instruction.purpose)));
    }
    if let Some(exit) = ring0.exit {
        let cost = format!("an exit to this program and back takes {:.1} µs", exit.as_secs_f64() * 1e6);
        findings.push(finding(Topic::Kernels, "exit", State::Yes, &cost));
    }
    findings
}

/// A number as people say it.
fn short(number: u64) -> String {
    let tenths = |unit: u64| format!("{}.{}", number / unit, number % unit * 10 / unit);
    match number {
        0..1_000_000 => format!("{} thousand", number / 1000),
        1_000_000..1_000_000_000 => format!("{} million", tenths(1_000_000)),
        _ => format!("{} billion", tenths(1_000_000_000)),
    }
}

fn surroundings(host: &Host) -> Vec<Finding> {
    let pages = |host: &Host| {
        let one =
            |pages: &super::HugePages| format!("{} × {} MiB, {} free", pages.total, pages.size_bytes >> 20, pages.free);
        host.huge_pages.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let on = |there| if there { State::Yes } else { State::Limited };
    let any_huge = host.huge_pages.iter().any(|pages| pages.free > 0);
    let transparent = host.transparent_huge_pages.as_deref().unwrap_or("absent");
    let shared = host.transparent_huge_pages_shared.as_deref().unwrap_or("absent");
    let usable = |mode: &str| !matches!(mode, "absent" | "never" | "deny");
    let landlock = match host.landlock_abi {
        0 => "none: the sandbox is without its second lock on files".to_owned(),
        abi => format!("ABI {abi}: the sandbox forbids {}", crate::sandbox::Landlock { abi }.covers()),
    };
    let row = |name, state, meaning: &str| finding(Topic::Host, name, state, meaning);
    vec![
        row("tun", on(host.tun == Access::Usable), device(host.tun, "guests can have a network")),
        row(
            "vhost-net",
            on(host.vhost_net == Access::Usable),
            device(host.vhost_net, "the host's kernel moves packets"),
        ),
        row(
            "io_uring",
            on(host.io_uring),
            if host.io_uring { "disk requests in batches" } else { "absent or forbidden: disk requests one by one" },
        ),
        row(
            "seccomp",
            on(host.seccomp),
            if host.seccomp { "system calls are filtered" } else { "absent: only --no-sandbox works" },
        ),
        row("landlock", on(host.landlock_abi > 0), &landlock),
        row(
            "hugepages",
            on(any_huge),
            &if any_huge { pages(host) } else { "none free; --memory …,hugepages needs some".to_owned() },
        ),
        row(
            "thp",
            on(usable(transparent)),
            &format!("transparent huge pages: {transparent}; in shared memory: {shared}"),
        ),
    ]
}

fn device(access: Access, usable: &'static str) -> &'static str {
    match access {
        Access::Usable => usable,
        Access::Forbidden => "there, but this user may not open it",
        Access::Absent => "absent",
    }
}

/// One or two sentences: can ordinary kernels run, and what is to be done if not.
fn verdict(kvm: &Kvm, host: &Host, findings: &[Finding]) -> String {
    let failed = |topic| {
        let names = findings.iter().filter(|finding| finding.topic == topic && finding.state == State::No);
        names.map(|finding| finding.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    match kvm {
        Kvm::Absent => format!("No guest can run here: there is no /dev/kvm. {}", enable(host)),
        Kvm::Forbidden => {
            "No guest can run here: this user may not open /dev/kvm. Run as root, or join the group that owns the device.".to_owned()
        }
        Kvm::Unusable { because } => format!("No guest can run here: {because}."),
        Kvm::Open { ring0, .. } => {
            let (capabilities, instructions) = (failed(Topic::Kvm), failed(Topic::Kernels));
            if !capabilities.is_empty() {
                return format!("No guest can run here: this KVM lacks {capabilities}. Use a newer host kernel.");
            }
            if !instructions.is_empty() {
                return format!(
                    "Ordinary kernels cannot run here: in ring 0, KVM fails at {instructions}. Programs made for ring 3 run. {}",
                    enable(host)
                );
            }
            match ring0.instructions_per_second {
                Some(speed) if speed < EMULATED => format!(
                    "Ordinary kernels can run here, but very slowly: their code is emulated. {}",
                    enable(host)
                ),
                _ => "Ordinary kernels can run here.".to_owned(),
            }
        }
    }
}

/// How to get hardware virtualisation on this host.
fn enable(host: &Host) -> &'static str {
    match (host.virtualization.as_deref(), host.is_virtual) {
        (Some("vmx"), _) => {
            "The processor has Intel VT-x: load the module kvm_intel, and switch VT-x on in the firmware."
        }
        (Some(_), _) => "The processor has AMD-V: load the module kvm_amd, and switch SVM on in the firmware.",
        (None, true) => {
            "This host is itself a virtual machine without hardware virtualisation: switch nested virtualisation on for it, or use a physical machine."
        }
        (None, false) => {
            "The processor shows no hardware virtualisation: switch Intel VT-x or AMD-V on in the firmware."
        }
    }
}
