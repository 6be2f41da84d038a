//! What no honest guest does. The guest must be able to reset the device and use it again, the VMM must live on in its
//! sandbox and end with 0; where the specification asks for it, the device must have said `NEEDS_RESET`.

use anyhow::{Result, ensure};
use quantix_e2e::native::{Case, Native, TAP, in_own_network};

/// Cases that must end in `NEEDS_RESET` whatever the device is: virtio 1.2, 2.1.2 and 2.7.
const BREAKING: &[&str] = &[
    "address-outside",
    "address-straddle",
    "address-wrap",
    "available-back",
    "available-jump",
    "chain-of-huge",
    "features-not-offered",
    "head-at-size",
    "head-outside",
    "indirect-empty",
    "indirect-huge",
    "indirect-length",
    "indirect-loop",
    "indirect-nested",
    "indirect-next",
    "length-huge",
    "loop",
    "loop-long",
    "next-outside",
    "queue-live-change",
    "ring-outside",
    "ring-table-outside",
    "ring-unaligned",
    "ring-wrap",
];

/// The devices, each with the number of its cases at least and those that must end in `NEEDS_RESET` beside [`BREAKING`].
const DEVICES: &[(&str, u64, &[&str])] = &[
    ("blk", 60, &["direction", "header-only", "header-short", "status-read-only", "write-into-writable"]),
    ("net", 52, &["direction", "frame-empty", "frame-huge", "header-only", "header-short"]),
    ("vsock", 55, &["direction", "header-short", "length-beyond-chain"]),
    ("rng", 43, &[]),
    ("console", 43, &[]),
];

/// The cases of this file: one guest a device.
pub fn cases() -> Vec<Case> {
    let devices = DEVICES.iter();
    devices
        .map(|(device, least, more)| -> Case {
            let run = move |native: &Native| in_own_network(|| survives(native, device, *least, more));
            (format!("hostile::{device}"), Box::new(run))
        })
        .collect()
}

fn survives(native: &Native, device: &str, least: u64, more: &[&str]) -> Result<()> {
    let (vm, _) = native.vm().disk(&native.raw("disk", 64)?, "").vsock();
    let vm = vm.option("--net", format!("tap={TAP}")).flag("--rng");
    let vm = vm.option("--console", format!("file={}", native.path("console").display()));
    let all = format!("hostile-{device}-all");
    let ended = vm.does(&format!("test={all}")).run()?.exited(0)?.passed(&all)?;
    let cases = ended.line("test", &all)?["cases"].as_u64();
    ensure!(cases.is_some_and(|cases| cases >= least), "There were {cases:?} cases, not {least}");
    for case in BREAKING.iter().chain(more) {
        let line = ended.line("case", &format!("hostile-{device}-{case}"))?;
        ensure!(line["needs_reset"] == true, "The device did not ask for a reset: {line}");
    }
    ensure!(ended.errors.contains("The guest broke the device"), "The log is silent{}", ended.words());
    Ok(())
}
