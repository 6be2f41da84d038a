//! How VMs look: the list, one with all that it has, and its isolation receipt. Pure.

use quantix_api::v1::{
    CloudInit, DiskSpec, ExitCause, FirewallRule, HugePages, NicSpec, NicStatus, OpenFd, RestartMode, Vm, VmIsolation,
    VmSpec, VmState, VmStatus, disk_spec,
};
use quantix_api::v1::{Direction, FirewallAction};

use crate::style::Tone;
use crate::table::{Cell, Column, Facts, Sheet, View, grid, labels, printable};
use crate::units;
use crate::vm::since;
use crate::words::{vm_tone, word};

/// The list of VMs.
pub const SHEET: Sheet<Vm> = Sheet {
    plural: "VMs",
    name: |vm| &vm.name,
    columns: &[
        Column::text("NAME", |vm, _| vm.name.as_str().into()),
        Column::text("STATE", |vm, _| state(vm)),
        Column::number("CPUS", |vm, _| cpus(vm).to_string().into()),
        Column::number("MEMORY", |vm, _| units::size(memory(vm)).into()),
        Column::text("ADDRESSES", |vm, _| addresses(vm).into()),
        Column::number("SINCE", |vm, view| {
            since(vm.status.as_ref().and_then(|status| status.since.as_ref()), view.now)
        }),
        Column::number("AGE", |vm, view| since(vm.create_time.as_ref(), view.now)),
        Column::wide_text("NETWORKS", |vm, _| networks(vm).into()),
        Column::wide_number("PID", |vm, _| blank_zero(vm.status.as_ref().map_or(0, |status| status.pid)).into()),
        Column::wide_number("RESTARTS", |vm, _| {
            vm.status.as_ref().map_or(0, |status| status.restarts).to_string().into()
        }),
        Column::wide_text("LABELS", |vm, _| labels(&vm.labels).into()),
        Column::wide_text("ID", |vm, _| vm.id.as_str().into()),
    ],
};

fn state(vm: &Vm) -> Cell {
    let Some(status) = &vm.status else { return Cell::default() };
    let word = word::<VmState>(status.state);
    // A star says that the guest does not have yet what the spec says.
    let text = if status.restart_needed { format!("{word}*") } else { word };
    Cell::toned(text, vm_tone(status.state))
}

fn cpus(vm: &Vm) -> u32 {
    vm.spec.as_ref().and_then(|spec| spec.cpus.as_ref()).map_or(0, |cpus| cpus.count)
}

fn memory(vm: &Vm) -> u64 {
    vm.spec.as_ref().and_then(|spec| spec.memory.as_ref()).map_or(0, |memory| memory.size_bytes)
}

fn addresses(vm: &Vm) -> String {
    let nics = vm.status.iter().flat_map(|status| &status.nics);
    nics.flat_map(|nic| &nic.addresses).map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn networks(vm: &Vm) -> String {
    let nics = vm.spec.iter().flat_map(|spec| &spec.nics);
    nics.map(|nic| nic.network.as_str()).collect::<Vec<_>>().join(" ")
}

fn blank_zero(number: u32) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

/// One VM.
pub fn facts(vm: &Vm, view: &View) -> Facts {
    let mut facts = Facts::default();
    facts
        .add("Name", Cell::toned(vm.name.as_str(), Tone::Strong))
        .add("Id", vm.id.as_str())
        .add("Description", vm.description.as_str())
        .add("Labels", labels(&vm.labels));
    let status = vm.status.clone().unwrap_or_default();
    status_facts(&mut facts, vm, &status, view);
    let spec = vm.spec.clone().unwrap_or_default();
    spec_facts(&mut facts, &spec);
    facts.add("Created", units::when(vm.create_time.as_ref()));
    if !spec.disks.is_empty() {
        facts.section("Disks").block(disks(&spec, view));
    }
    if !spec.nics.is_empty() {
        facts.section("NICs").block(nics(&spec, &status, view));
    }
    if let Some(seed) = &spec.cloud_init {
        facts.section("cloud-init").block(cloud_init(seed));
    }
    facts
}

fn status_facts(facts: &mut Facts, vm: &Vm, status: &VmStatus, view: &View) {
    let mut state = state(vm);
    if status.since.is_some() {
        state.text = format!("{} for {}", state.text, units::age(status.since.as_ref(), view.now));
    }
    facts.add("State", state).add("Reason", status.reason.as_str());
    if status.restart_needed {
        facts.add("Changes", Cell::toned("some take effect at the next start", Tone::Warn));
    }
    if let Some(next) = &status.next_restart_time {
        facts.add("Next try", format!("in {}", units::until(Some(next), view.now)));
    }
    if status.restarts > 0 {
        facts.add("Restarts", status.restarts.to_string());
    }
    if status.pid > 0 {
        facts.add("Process", format!("{}, vsock {}", status.pid, blank_zero(status.cid)));
    }
    if let Some(exit) = &status.last_exit {
        let cause = word::<ExitCause>(exit.cause);
        let message = printable(&exit.message);
        facts.add("Last exit", format!("{} {cause}: {message}", units::when(exit.time.as_ref())));
    }
}

fn spec_facts(facts: &mut Facts, spec: &VmSpec) {
    if let Some(cpus) = &spec.cpus {
        let mut text = cpus.count.to_string();
        if cpus.sockets + cpus.cores + cpus.threads > 0 {
            text.push_str(&format!(" ({} sockets, {} cores, {} threads)", cpus.sockets, cpus.cores, cpus.threads));
        }
        let more = [
            (cpus.weight > 0, format!("weight {}", cpus.weight)),
            (cpus.quota_percent > 0, format!("at most {} %", cpus.quota_percent)),
            (!cpus.pinning.is_empty(), format!("on {}", cpus.pinning)),
        ];
        facts.add("CPUs", with_more(text, &more));
    }
    if let Some(memory) = &spec.memory {
        let pages = word::<HugePages>(memory.huge_pages).to_uppercase();
        let more = [
            (memory.huge_pages != 0, format!("in pages of {pages}")),
            (memory.prefault, "touched before the start".to_owned()),
        ];
        facts.add("Memory", with_more(units::size(memory.size_bytes), &more));
    }
    if let Some(boot) = &spec.boot {
        facts
            .add("Kernel", boot.kernel.as_str())
            .add("Initrd", boot.initrd.as_str())
            .add("Command line", boot.cmdline.as_str());
    }
    if let Some(restart) = &spec.restart
        && restart.mode != 0
    {
        facts.add("Restart", word::<RestartMode>(restart.mode));
    }
    if let Some(autostart) = spec.autostart.as_ref().filter(|autostart| autostart.enabled) {
        facts.add("Autostart", format!("yes, order {}", autostart.order));
    }
    let without = [(spec.no_rng, "rng"), (spec.no_balloon, "balloon"), (spec.no_vsock, "vsock")];
    let without: Vec<&str> = without.iter().filter(|(left_out, _)| *left_out).map(|(_, device)| *device).collect();
    facts.add("Without", without.join(", "));
}

/// Text, and what else is so.
fn with_more(text: String, more: &[(bool, String)]) -> String {
    more.iter().filter(|(so, _)| *so).fold(text, |text, (_, more)| format!("{text}, {more}"))
}

fn disks(spec: &VmSpec, view: &View) -> String {
    let heads = [("DISK", false), ("SOURCE", false), ("OPTIONS", false)];
    let rows = spec.disks.iter().map(|disk| {
        let source = match &disk.source {
            Some(disk_spec::Source::Volume(volume)) => format!("volume {}", view.name(volume)),
            Some(disk_spec::Source::Image(image)) => format!("ISO {image}"),
            Some(disk_spec::Source::NewVolume(new)) => format!("new volume {}", new.name),
            None => String::new(),
        };
        vec![disk.id.as_str().into(), source.into(), disk_options(disk).into()]
    });
    grid(&heads, rows, view)
}

fn disk_options(disk: &DiskSpec) -> String {
    let options = [
        (disk.readonly, "readonly".to_owned()),
        (disk.direct, "direct".to_owned()),
        (disk.queues > 1, format!("{} queues", disk.queues)),
        (disk.max_operations_per_second > 0, format!("at most {}/s", units::count(disk.max_operations_per_second))),
        (disk.max_bytes_per_second > 0, format!("at most {}/s", units::size(disk.max_bytes_per_second))),
    ];
    joined(&options)
}

fn joined(options: &[(bool, String)]) -> String {
    options.iter().filter(|(so, _)| *so).map(|(_, text)| text.as_str()).collect::<Vec<_>>().join(", ")
}

fn nics(spec: &VmSpec, status: &VmStatus, view: &View) -> String {
    let heads = [("NIC", false), ("NETWORK", false), ("MAC", false), ("ADDRESSES", false), ("OPTIONS", false)];
    let rows = spec.nics.iter().enumerate().map(|(index, nic)| {
        let now = status
            .nics
            .get(index)
            .cloned()
            .unwrap_or_else(|| NicStatus { mac: nic.mac.clone(), ..NicStatus::default() });
        // The network's name as it is now; the spec may have its id.
        let network = if now.network.is_empty() { &nic.network } else { &now.network };
        vec![
            nic.id.as_str().into(),
            network.as_str().into(),
            now.mac.as_str().into(),
            now.addresses.join(" ").into(),
            nic_options(nic).into(),
        ]
    });
    let mut text = grid(&heads, rows, view);
    for nic in &spec.nics {
        for rule in &nic.rules {
            text.push_str(&format!("{}: {}\n", nic.id, spelt(rule)));
        }
    }
    text
}

fn nic_options(nic: &NicSpec) -> String {
    let options = [
        (!nic.address.is_empty(), format!("fixed {}", nic.address)),
        (nic.queues > 1, format!("{} queues", nic.queues)),
        (nic.allow_spoofing, "may spoof".to_owned()),
        (nic.max_packets_per_second > 0, format!("at most {} packets/s", units::count(nic.max_packets_per_second))),
        (nic.max_bytes_per_second > 0, format!("at most {}/s", units::size(nic.max_bytes_per_second))),
    ];
    joined(&options)
}

/// A rule in the words in which it was given.
fn spelt(rule: &FirewallRule) -> String {
    let mut text = format!("{},{}", word::<Direction>(rule.direction), word::<FirewallAction>(rule.action));
    for (key, value) in [("protocol", &rule.protocol), ("remote", &rule.remote), ("ports", &rule.ports)] {
        if !value.is_empty() {
            text.push_str(&format!(",{key}={}", printable(value)));
        }
    }
    text
}

fn cloud_init(seed: &CloudInit) -> String {
    let given = [
        (!seed.user_data.is_empty(), "own user-data".to_owned()),
        (!seed.meta_data.is_empty(), "own meta-data".to_owned()),
        (!seed.network_config.is_empty(), "own network-config".to_owned()),
        (!seed.hostname.is_empty(), format!("hostname {}", printable(&seed.hostname))),
        (!seed.user.is_empty(), format!("user {}", printable(&seed.user))),
        (!seed.ssh_keys.is_empty(), format!("{} SSH keys", seed.ssh_keys.len())),
        (!seed.password_hash.is_empty(), "a password".to_owned()),
    ];
    joined(&given)
}

/// The isolation receipt: each fact with a mark, what it must be only where it is not.
pub fn isolation(receipt: &VmIsolation, all_fds: bool, view: &View) -> String {
    let verdict = if receipt.intact {
        Tone::Good.paint("✓ intact", view.colour)
    } else {
        Tone::Bad.paint("✗ NOT INTACT", view.colour)
    };
    let mut text = format!("{verdict}  process {}, measured {}\n\n", receipt.pid, units::when(receipt.time.as_ref()));
    let heads = [("", false), ("FACT", false), ("MEASURED", false), ("MUST BE", false)];
    let rows = receipt.facts.iter().map(|fact| {
        let tone = if fact.ok { Tone::Dim } else { Tone::Bad };
        vec![
            Cell::mark(fact.ok),
            fact.name.as_str().into(),
            fact.measured.as_str().into(),
            Cell::toned(fact.expected.as_str(), tone),
        ]
    });
    text.push_str(&grid(&heads, rows, view));
    let unexpected = receipt.fds.iter().filter(|fd| fd.unexpected).count();
    let fds: Vec<&OpenFd> = receipt.fds.iter().filter(|fd| all_fds || fd.unexpected).collect();
    text.push_str(&format!("\n{} open file descriptors, {unexpected} of them unexpected\n", receipt.fds.len()));
    if !fds.is_empty() {
        let heads = [("", false), ("FD", true), ("NAME", false), ("WHAT THE KERNEL CALLS IT", false)];
        let rows = fds.iter().map(|fd| {
            vec![
                Cell::mark(!fd.unexpected),
                fd.number.to_string().into(),
                fd.name.as_str().into(),
                fd.target.as_str().into(),
            ]
        });
        text.push_str(&grid(&heads, rows, view));
    }
    text
}

#[cfg(test)]
mod tests;
