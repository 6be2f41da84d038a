//! What leaving the guest costs: ports, memory, doorbells.

use payload_logic::latency::Latencies;
use virtio_drivers::transport::DeviceType;

use crate::clock::ticks;
use crate::machine::Machine;
use crate::measure::{Measured, measure_ms};
use crate::registers::{VERSION_1, common};
use crate::report::{Outcome, Report};
use crate::ring::Ring;
use crate::{mmio, port};

fn repeat(machine: &Machine<'_>, report: &mut Report, mut operation: impl FnMut()) {
    (0..64).for_each(|_| operation());
    let mut latencies = Latencies::default();
    let deadline = machine.clock.deadline(measure_ms(machine));
    let start = ticks();
    let mut operations = 0;
    while !deadline.passed() {
        let before = ticks();
        operation();
        latencies.record(ticks() - before);
        operations += 1;
    }
    Measured { operations, ticks: ticks() - start, latencies: Some(&latencies) }.report(machine.clock, report);
}

/// `pio`: writes a byte to a port that nobody has.
pub fn port_write(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let unclaimed = machine.options.number("port").map_or(0xed, |port| port as u16);
    repeat(machine, report, || port::outb(unclaimed, 0));
    Ok(())
}

/// `mmio`: reads the status of the first virtio device.
pub fn memory_read(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let registers = any(machine)?;
    repeat(machine, report, || {
        mmio::read8(registers.common.address + common::DEVICE_STATUS);
    });
    Ok(())
}

/// `notify`: rings the doorbell of a started device whose queue is empty.
pub fn notify(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let registers = any(machine)?;
    let features = registers.begin(VERSION_1)?;
    let ring = Ring::new(&registers, 0, 64, features)?;
    registers.go();
    repeat(machine, report, || ring.kick());
    Ok(())
}

fn any(machine: &mut Machine<'_>) -> Result<crate::registers::Registers, alloc::string::String> {
    let kinds = [DeviceType::EntropySource, DeviceType::Block, DeviceType::Network, DeviceType::Console];
    let present = kinds.into_iter().find(|kind| machine.devices().iter().any(|found| found.kind == *kind));
    machine.registers(present.unwrap_or(DeviceType::Block))
}
