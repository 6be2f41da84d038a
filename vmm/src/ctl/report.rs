//! `info`, and the short answers: as text and as JSON. Pure, but for looking at a descriptor that was taken.

use std::fmt::Write as _;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::sys::stat::{SFlag, fstat};
use quantix_vmm_api::v1::{Info, Phase, RateLimit, Sandbox};
use serde_json::{Value, json};

use super::figures::{bytes, count, word};
use super::style::{Style, Tone, harmless};
use super::table::Table;

pub(super) fn phase_word(phase: Phase) -> String {
    word(phase.as_str_name(), "PHASE_")
}

pub(super) fn info_json(info: &Info) -> Value {
    let devices: Vec<Value> = info
        .devices
        .iter()
        .map(|d| {
            json!({
                "id": d.id, "kind": d.kind, "queues": d.queues, "features": format!("{:#x}", d.features),
                "needs_reset": d.needs_reset,
            })
        })
        .collect();
    let sandbox = info.sandbox.as_ref().map(|s| {
        json!({
            "enabled": s.enabled, "no_new_privs": s.no_new_privs, "capabilities_dropped": s.capabilities_dropped,
            "landlock": s.landlock, "seccomp": s.seccomp, "namespaces": s.namespaces,
        })
    });
    json!({
        "version": info.version, "pid": info.pid, "phase": phase_word(info.phase()), "cpus": info.cpus,
        "memory_bytes": info.memory_bytes, "devices": devices, "sandbox": sandbox, "fds": info.fd_names,
    })
}

pub(super) fn info_text(info: &Info, style: &Style) -> String {
    let phase = info.phase();
    let tone = if phase == Phase::Running { Tone::Good } else { Tone::Warning };
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<9} {value}");
    };
    line("Phase", &style.paint(tone, &phase_word(phase)));
    line("vCPUs", &info.cpus.to_string());
    line("Memory", &bytes(info.memory_bytes));
    line("Sandbox", &sandbox_text(info.sandbox.as_ref(), *style));
    if !info.fd_names.is_empty() {
        line("Files", &harmless(&info.fd_names.join(", ")));
    }
    line("VMM", &format!("quantix-vmm {}, process {}", harmless(&info.version), info.pid));
    let mut table = Table::new(&["DEVICE", "KIND", ">QUEUES", ">FEATURES", "STATE"]);
    for device in &info.devices {
        let state = match (device.needs_reset, device.features) {
            (true, _) => "needs reset",
            (false, 0) => "no driver",
            (false, _) => "ok",
        };
        let features = format!("{:#x}", device.features);
        let id = harmless(&device.id);
        table.row([id, harmless(&device.kind), device.queues.to_string(), features, state.to_owned()]);
    }
    if !info.devices.is_empty() {
        text.push('\n');
    }
    text + &table.text(*style)
}

fn sandbox_text(sandbox: Option<&Sandbox>, style: Style) -> String {
    let Some(sandbox) = sandbox.filter(|sandbox| sandbox.enabled) else {
        return style.paint(Tone::Bad, "off");
    };
    let layers = [
        (sandbox.no_new_privs, "no new privileges"),
        (sandbox.capabilities_dropped, "no capabilities"),
        (sandbox.landlock, "Landlock"),
        (sandbox.seccomp, "seccomp"),
    ];
    let named = |wanted: bool| -> Vec<&str> {
        layers.iter().filter(|(there, _)| *there == wanted).map(|(_, name)| *name).collect()
    };
    let there = named(true).join(", ");
    let missing = named(false);
    if missing.is_empty() {
        return style.paint(Tone::Good, &there);
    }
    let missing = style.paint(Tone::Bad, &format!("without {}", missing.join(", ")));
    if there.is_empty() { missing } else { format!("{there}; {missing}") }
}

pub(super) fn limit_text(id: &str, limit: &RateLimit) -> String {
    let operations = match limit.operations_per_second {
        0 => "any number of operations".to_owned(),
        number => format!("{} operations", count(number)),
    };
    let size = match limit.bytes_per_second {
        0 => "any number of bytes".to_owned(),
        number => bytes(number),
    };
    format!("{id} may do {operations} and {size} a second")
}

/// What a descriptor is, as far as the kernel says.
pub(super) fn descriptor_json(fd: BorrowedFd<'_>) -> Value {
    let stat = fstat(fd).ok();
    let kind = stat.map(|stat| match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => "file",
        SFlag::S_IFBLK => "block device",
        SFlag::S_IFCHR => "character device",
        SFlag::S_IFSOCK => "socket",
        SFlag::S_IFIFO => "pipe",
        SFlag::S_IFDIR => "directory",
        _ => "anonymous file",
    });
    let path = std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    json!({ "kind": kind, "size_bytes": stat.map(|stat| stat.st_size), "path": path })
}

pub(super) fn descriptor_text(name: &str, descriptor: Option<&Value>) -> String {
    let field = |key: &str| descriptor.and_then(|d| d.get(key)).and_then(Value::as_str).unwrap_or("unknown");
    format!("Took fd:{name}: {} {}\n", field("kind"), harmless(field("path")))
}

#[cfg(test)]
mod tests {
    use quantix_vmm_api::v1::Device;

    use super::*;

    #[test]
    fn info_shows_what_matters_and_nothing_that_a_terminal_obeys() {
        let device = |id: &str, features, needs_reset| Device {
            id: id.into(),
            kind: "block".into(),
            queues: 1,
            features,
            needs_reset,
        };
        let info = Info {
            version: "0.1.0".into(),
            pid: 7,
            phase: Phase::Paused.into(),
            cpus: 2,
            memory_bytes: 1 << 30,
            devices: vec![device("disk0", 0x1_3000_0000, false), device("\x1b[2Jx", 0, true)],
            sandbox: Some(Sandbox { enabled: true, seccomp: true, landlock: true, ..Sandbox::default() }),
            fd_names: vec!["log".into()],
        };
        let expected = "\
Phase     paused
vCPUs     2
Memory    1 GiB
Sandbox   Landlock, seccomp; without no new privileges, no capabilities
Files     log
VMM       quantix-vmm 0.1.0, process 7

DEVICE  KIND   QUEUES     FEATURES  STATE
disk0   block       1  0x130000000  ok
\u{fffd}[2Jx   block       1          0x0  needs reset
";
        assert_eq!(info_text(&info, &Style::plain()), expected);
        assert_eq!(info_json(&info)["phase"], "paused");
    }

    #[test]
    fn no_sandbox_is_said_plainly() {
        assert_eq!(sandbox_text(None, Style::plain()), "off");
        assert_eq!(sandbox_text(Some(&Sandbox { seccomp: true, ..Sandbox::default() }), Style::plain()), "off");
    }
}
