//! A guest that means harm. Each case does one forbidden thing to one device, tells what the device's status became,
//! then resets the device and proves that it works again. That last step is the verdict: `ok` says nothing about
//! NEEDS_RESET, which some cases must lead to and others must not; the host side knows which.

mod blk;
mod function;
mod net;
mod registers;
mod ring;
mod victim;
mod vsock;

use alloc::format;
use alloc::string::String;

use virtio_drivers::transport::DeviceType;

use crate::ensure;
use crate::machine::Machine;
use crate::registers::status::NEEDS_RESET;
use crate::report::{Outcome, Report};
use victim::Victim;

/// Does the forbidden thing to a started device.
type Attack = fn(&mut Machine<'_>, &mut Victim) -> Outcome;
/// Cases by name.
type Cases = &'static [(&'static str, Attack)];

const DEVICES: &[(&str, DeviceType, Cases)] = &[
    ("blk", DeviceType::Block, blk::CASES),
    ("net", DeviceType::Network, net::CASES),
    ("vsock", DeviceType::Socket, vsock::CASES),
    ("rng", DeviceType::EntropySource, &[]),
    ("console", DeviceType::Console, &[]),
];

/// Runs `hostile-DEVICE-CASE`; `all` as the case runs every one, a line each.
pub fn run(machine: &mut Machine<'_>, name: &str, report: &mut Report) -> Outcome {
    let wanted = name.strip_prefix("hostile-").and_then(|rest| rest.split_once('-'));
    let device = wanted.and_then(|(device, case)| {
        DEVICES.iter().find(|(known, ..)| *known == device).map(|(_, kind, own)| (*kind, *own, case))
    });
    let Some((kind, own, wanted)) = device else {
        return Err(String::from("No such device"));
    };
    let cases = || [ring::CASES, registers::CASES, function::CASES, own].into_iter().flatten();
    if wanted != "all" {
        let (_, attack) = cases().find(|(case, _)| *case == wanted).ok_or("No such case")?;
        return one(machine, kind, *attack, report);
    }
    let mut failed = 0;
    for (case, attack) in cases() {
        let mut line = Report::new("case", &format!("{}{case}", name.trim_end_matches("all")));
        let outcome = one(machine, kind, *attack, &mut line);
        failed += u32::from(outcome.is_err());
        line.outcome(outcome).print();
    }
    report.value("cases", cases().count()).value("failed", failed);
    ensure!(failed == 0, "{failed} cases failed");
    Ok(())
}

fn one(machine: &mut Machine<'_>, kind: DeviceType, attack: Attack, report: &mut Report) -> Outcome {
    const REACTION_MS: u64 = 100;
    let mut victim = Victim::start(machine, kind)?;
    victim.prove(machine).map_err(|reason| format!("Before the attack: {reason}"))?;
    attack(machine, &mut victim)?;
    let (mut status, mut returned) = (0, None);
    machine.clock.deadline(REACTION_MS).wait_for(|| {
        status = victim.registers.status();
        returned = victim.take();
        status & NEEDS_RESET != 0 || returned.is_some()
    });
    report
        .value("status", status)
        .value("needs_reset", status & NEEDS_RESET != 0)
        .value("returned", returned.is_some());
    let mut again = Victim::start(machine, kind).map_err(|reason| format!("After the attack: {reason}"))?;
    again.prove(machine).map_err(|reason| format!("After the attack: {reason}"))
}
