//! From the wire to a checked draft of a VM: defaults are applied, and every field that is at fault is named, not just the
//! first. Pure. Whether named volumes, images and networks exist is asked later, in the inventory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use quantix_api::v1;

use super::check_devices;
use crate::model::vm::{
    Autostart, BootSpec, CloudInit, CpuSpec, HugePages, MemorySpec, RestartMode, RestartPolicy, Topology, VmDraft,
};
use crate::model::{Failure, Violation};

const MAX_CPUS: u32 = 128;
const MIN_MEMORY: u64 = 16 << 20;
const MAX_MEMORY: u64 = 16 << 40;
/// What x86 Linux keeps of a command line.
const MAX_CMDLINE: usize = 2047;
/// Longest wait that a policy may ask for.
const MAX_WAIT: Duration = Duration::from_mins(5);
const MAX_DELAY: Duration = Duration::from_hours(1);
const MAX_DESCRIPTION: usize = 4096;
const MAX_LABELS: usize = 64;
/// All of a seed, in bytes.
const MAX_SEED: usize = 512 << 10;

/// Gathers what is at fault.
#[derive(Debug, Default)]
pub struct Faults(Vec<Violation>);

impl Faults {
    /// Notes that `field` has a value that it may not have; `reason` goes on after the value.
    pub fn add(&mut self, field: impl Into<String>, value: impl Display, reason: impl Display) {
        // One place decides how a value is shown.
        self.0.extend_from_slice(Failure::invalid(field, value, reason).fields());
    }

    /// Notes the fields of a failure.
    pub fn extend(&mut self, failure: &Failure) {
        self.0.extend_from_slice(failure.fields());
    }

    /// Reads a text; one that is not what it should be is noted, and an empty one is nothing.
    pub fn parse_given<'t, T>(&mut self, field: &str, text: &'t str) -> Option<T>
    where
        T: TryFrom<&'t str, Error: Display>,
    {
        if text.is_empty() { None } else { T::try_from(text).map_err(|reason| self.add(field, text, reason)).ok() }
    }

    /// Notes a number out of bounds; `default` stands for 0.
    pub fn bounded(&mut self, field: &str, number: u32, default: u32, max: u32) -> u32 {
        if number > max {
            self.add(field, number, format!("is too large: give 1 to {max}, or 0 for {default}"));
        }
        if number == 0 { default } else { number }
    }

    /// Notes a duration that is negative, malformed or longer than `max`.
    pub fn duration(
        &mut self,
        field: &str,
        given: Option<&prost_types::Duration>,
        default: Duration,
        max: Duration,
    ) -> Duration {
        let Some(given) = given else { return default };
        let duration = Duration::try_from(*given).ok().filter(|duration| *duration <= max);
        duration.unwrap_or_else(|| {
            self.add(field, given, format!("is not from 0 s to {} s", max.as_secs()));
            default
        })
    }

    /// The failure of all that was noted.
    ///
    /// # Errors
    /// When anything was.
    pub fn into_result(self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure::violations(self.0)) }
    }
}

/// A spec as the caller wrote it; `base` is its path in the request.
///
/// # Errors
/// All fields that are at fault.
pub fn draft(spec: Option<&v1::VmSpec>, base: &str) -> Result<VmDraft, Failure> {
    let mut faults = Faults::default();
    let empty = v1::VmSpec::default();
    let spec = spec.unwrap_or(&empty);
    let draft = VmDraft {
        cpus: cpus(spec.cpus.as_ref(), &mut faults),
        memory: memory(spec.memory.as_ref(), &mut faults),
        boot: boot(spec.boot.as_ref(), &mut faults),
        disks: check_devices::disks(&spec.disks, &mut faults),
        nics: check_devices::nics(&spec.nics, &mut faults),
        cloud_init: spec.cloud_init.as_ref().map(|seed| cloud_init(seed, &mut faults)),
        restart: restart(spec.restart.as_ref(), &mut faults),
        autostart: autostart(spec.autostart.as_ref(), &mut faults),
        rng: !spec.no_rng,
        balloon: !spec.no_balloon,
        vsock: !spec.no_vsock,
    };
    check_devices::together(&draft, &mut faults);
    faults.into_result().map_err(|failure| failure.under(base))?;
    Ok(draft)
}

fn cpus(spec: Option<&v1::CpuSpec>, faults: &mut Faults) -> CpuSpec {
    let empty = v1::CpuSpec::default();
    let spec = spec.unwrap_or(&empty);
    if !(1..=MAX_CPUS).contains(&spec.count) {
        faults.add("cpus.count", spec.count, format!("is not a number of vCPUs: give 1 to {MAX_CPUS}"));
    }
    let parts = [spec.sockets, spec.cores, spec.threads];
    let topology = (parts != [0; 3]).then(|| {
        let [sockets, cores, threads] = parts.map(|part| part.max(1));
        let product = u64::from(sockets) * u64::from(cores) * u64::from(threads);
        if product != u64::from(spec.count) {
            let value = format!("{sockets} × {cores} × {threads}");
            faults.add(
                "cpus.sockets",
                value,
                format!("is not the number of vCPUs, {}: make the two equal", spec.count),
            );
        }
        Topology { sockets, cores, threads }
    });
    let pinning: Option<crate::model::vm::CpuSet> = faults.parse_given("cpus.pinning", &spec.pinning);
    if let Some(set) = &pinning
        && set.len() < spec.count as usize
    {
        let reason = format!("has {} CPUs for {} vCPUs: each vCPU that is pinned needs one", set.len(), spec.count);
        faults.add("cpus.pinning", &spec.pinning, reason);
    }
    let weight = faults.bounded("cpus.weight", spec.weight, 100, 10_000);
    if spec.quota_percent > MAX_CPUS * 100 {
        faults.add(
            "cpus.quota_percent",
            spec.quota_percent,
            "is more than 128 CPUs: give hundredths of a CPU, or 0 for none",
        );
    }
    let quota_percent = (spec.quota_percent > 0).then_some(spec.quota_percent);
    CpuSpec { count: spec.count, topology, weight, quota_percent, pinning }
}

fn memory(spec: Option<&v1::MemorySpec>, faults: &mut Faults) -> MemorySpec {
    let empty = v1::MemorySpec::default();
    let spec = spec.unwrap_or(&empty);
    let huge_pages = match v1::HugePages::try_from(spec.huge_pages) {
        Ok(v1::HugePages::Unspecified) => HugePages::None,
        Ok(v1::HugePages::HugePages2m) => HugePages::Size2M,
        Ok(v1::HugePages::HugePages1g) => HugePages::Size1G,
        Err(_) => {
            faults.add("memory.huge_pages", spec.huge_pages, "is not a size of pages that this node knows");
            HugePages::None
        }
    };
    let page = huge_pages.page_bytes().unwrap_or(4096);
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&spec.size_bytes) {
        faults.add("memory.size_bytes", spec.size_bytes, "is not a size of memory: give 16 MiB to 16 TiB, in bytes");
    } else if !spec.size_bytes.is_multiple_of(page) {
        faults.add("memory.size_bytes", spec.size_bytes, format!("is not a multiple of the page size, {page} bytes"));
    }
    MemorySpec { size_bytes: spec.size_bytes, huge_pages, prefault: spec.prefault }
}

/// Nothing for an empty text.
pub(super) fn given(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn boot(spec: Option<&v1::BootSpec>, faults: &mut Faults) -> BootSpec<String> {
    let Some(spec) = spec else { return BootSpec { kernel: None, initrd: None, cmdline: None } };
    if spec.cmdline.len() > MAX_CMDLINE {
        faults.add("boot.cmdline", &spec.cmdline, format!("is too long: a kernel keeps {MAX_CMDLINE} bytes"));
    }
    if spec.cmdline.chars().any(char::is_control) {
        faults.add("boot.cmdline", &spec.cmdline, "has a control character: take it out");
    }
    if spec.kernel.is_empty() && !spec.initrd.is_empty() {
        faults.add(
            "boot.initrd",
            &spec.initrd,
            "has no kernel beside it: name both, or neither for those of the first disk's image",
        );
    }
    BootSpec { kernel: given(&spec.kernel), initrd: given(&spec.initrd), cmdline: given(&spec.cmdline) }
}

fn cloud_init(seed: &v1::CloudInit, faults: &mut Faults) -> CloudInit {
    let texts = [&seed.user_data, &seed.meta_data, &seed.network_config];
    let size: usize = texts.iter().map(|text| text.len()).chain(seed.ssh_keys.iter().map(String::len)).sum();
    if size > MAX_SEED {
        faults.add("cloud_init", format!("{size} bytes"), "is too much: a seed has at most 512 KiB");
    }
    let label = |part: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        (1..=63).contains(&part.len()) && part.bytes().all(plain) && !part.starts_with('-') && !part.ends_with('-')
    };
    let good = seed.hostname.is_empty() || seed.hostname.len() <= 253 && seed.hostname.split('.').all(label);
    if !good {
        faults.add("cloud_init.hostname", &seed.hostname, "is not a host name: use letters, digits and - between dots");
    }
    let first = |b: u8| b.is_ascii_lowercase() || b == b'_';
    let user = seed.user.as_bytes();
    let good = user.len() <= 32
        && user.first().is_none_or(|b| first(*b))
        && user.iter().all(|b| first(*b) || b.is_ascii_digit() || *b == b'-');
    if !good {
        faults.add("cloud_init.user", &seed.user, "is not a user's name: use a-z, 0-9, _ and -, at most 32");
    }
    for (index, key) in seed.ssh_keys.iter().enumerate() {
        let words = key.split_whitespace().count();
        if words < 2 || key.trim().chars().any(char::is_control) {
            faults.add(
                format!("cloud_init.ssh_keys[{index}]"),
                key,
                "is not a public key: give one line as in id_ed25519.pub",
            );
        }
    }
    let hash = &seed.password_hash;
    if !hash.is_empty() && (!hash.starts_with('$') || !hash.bytes().all(|b| b.is_ascii_graphic() && b != b':')) {
        // A password that was given by mistake must not come back in an error that is logged.
        faults.add("cloud_init.password_hash", "…", "is not a hash of a password: make one with mkpasswd(1)");
    }
    CloudInit {
        user_data: given(&seed.user_data),
        meta_data: given(&seed.meta_data),
        network_config: given(&seed.network_config),
        hostname: given(&seed.hostname),
        user: given(&seed.user),
        ssh_keys: seed.ssh_keys.iter().map(|key| key.trim().to_owned()).collect(),
        password_hash: given(hash),
    }
}

fn restart(policy: Option<&v1::RestartPolicy>, faults: &mut Faults) -> RestartPolicy {
    let empty = v1::RestartPolicy::default();
    let policy = policy.unwrap_or(&empty);
    let mode = match v1::RestartMode::try_from(policy.mode) {
        Ok(v1::RestartMode::Unspecified | v1::RestartMode::OnFailure) => RestartMode::OnFailure,
        Ok(v1::RestartMode::Never) => RestartMode::Never,
        Ok(v1::RestartMode::Always) => RestartMode::Always,
        Err(_) => {
            faults.add("restart.mode", policy.mode, "is not a mode that this node knows");
            RestartMode::OnFailure
        }
    };
    RestartPolicy {
        mode,
        max_attempts: faults.bounded("restart.max_attempts", policy.max_attempts, 5, 1000),
        backoff: faults.duration("restart.backoff", policy.backoff.as_ref(), Duration::from_secs(1), MAX_WAIT),
    }
}

fn autostart(autostart: Option<&v1::Autostart>, faults: &mut Faults) -> Autostart {
    let empty = v1::Autostart::default();
    let given = autostart.unwrap_or(&empty);
    let delay = faults.duration("autostart.delay", given.delay.as_ref(), Duration::ZERO, MAX_DELAY);
    Autostart { enabled: given.enabled, order: given.order, delay }
}

/// Checks what is said about a VM beside its spec.
///
/// # Errors
/// All fields that are at fault.
pub fn words(description: &str, labels: &BTreeMap<String, String>) -> Result<(), Failure> {
    let mut faults = Faults::default();
    if description.len() > MAX_DESCRIPTION {
        faults.add("description", description, format!("is too long: at most {MAX_DESCRIPTION} bytes"));
    }
    if labels.len() > MAX_LABELS {
        faults.add("labels", labels.len(), format!("are too many: at most {MAX_LABELS}"));
    }
    for (key, value) in labels {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let inner = |b: u8| plain(b) || b"-_./".contains(&b);
        let ends = [key.bytes().next(), key.bytes().last()].into_iter().all(|b| b.is_some_and(plain));
        if key.len() > 63 || !ends || !key.bytes().all(inner) {
            faults.add(
                format!("labels[{key:?}]"),
                key,
                "is not a label: use a-z, 0-9 and, inside, - _ . /, at most 63",
            );
        }
        if value.len() > 256 || value.chars().any(char::is_control) {
            faults.add(
                format!("labels[{key:?}]"),
                value,
                "is not a value: at most 256 bytes without control characters",
            );
        }
    }
    faults.into_result()
}

/// Names that devices may not have: the daemon and the VMM give them themselves.
pub(super) fn reserved() -> BTreeSet<&'static str> {
    BTreeSet::from(["cidata", "vsock0", "rng0", "balloon0", "console0"])
}
