//! Forbidden values in the virtio registers: the same cases for every device.

use payload_logic::pattern::Sequence;

use super::{Cases, Victim};
use crate::ensure;
use crate::machine::Machine;
use crate::registers::{Place, VERSION_1, common, status};
use crate::report::Outcome;
use crate::{mmio, ring::Ring};

pub(super) const CASES: Cases = &[
    ("queue-sizes", queue_sizes),
    ("queue-select", queue_select),
    ("queue-live-change", live_change),
    ("features-not-offered", features_not_offered),
    ("status-order", status_order),
    ("reset-in-flight", reset_in_flight),
    ("registers-random", registers_random),
    ("doorbells-random", doorbells_random),
];

/// Sizes that are none, each enabled and kicked.
fn queue_sizes(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    for size in [0, 3, 257, 0x8000, u16::MAX] {
        *victim = Victim::start(machine, victim.kind)?;
        let registers = victim.registers;
        registers.begin(VERSION_1)?;
        let parts = victim.ring.parts();
        registers.set_queue16(victim.queue, common::QUEUE_SIZE, size);
        registers.set_queue64(victim.queue, common::QUEUE_DESC, parts.descriptors);
        registers.set_queue64(victim.queue, common::QUEUE_DRIVER, parts.available);
        registers.set_queue64(victim.queue, common::QUEUE_DEVICE, parts.used);
        registers.set_queue16(victim.queue, common::QUEUE_ENABLE, 1);
        registers.go();
        let chain = victim.good_request();
        victim.submit(&chain);
    }
    Ok(())
}

/// Queues that do not exist read as size 0 and cannot be enabled.
fn queue_select(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let registers = victim.registers;
    for queue in [mmio::read16(registers.common.address + common::NUM_QUEUES), 0x7fff, u16::MAX] {
        let size = registers.queue16(queue, common::QUEUE_SIZE);
        ensure!(size == 0, "Queue {queue} does not exist and has size {size}");
        registers.set_queue16(queue, common::QUEUE_ENABLE, 1);
        registers.set_queue64(queue, common::QUEUE_DESC, victim.memory.address());
    }
    Ok(())
}

/// Size, addresses and enabling of a queue that is at work.
fn live_change(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let registers = victim.registers;
    registers.set_queue16(victim.queue, common::QUEUE_SIZE, 1);
    registers.set_queue64(victim.queue, common::QUEUE_DESC, 1 << 45);
    registers.set_queue16(victim.queue, common::QUEUE_ENABLE, 0);
    registers.set_queue16(victim.queue, common::QUEUE_ENABLE, 1);
    let chain = victim.good_request();
    victim.submit(&chain);
    Ok(())
}

fn features_not_offered(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let registers = victim.registers;
    ensure!(registers.reset(), "The device did not finish its reset");
    let offered = registers.device_features();
    registers.set_status(status::ACKNOWLEDGE | status::DRIVER);
    registers.set_driver_features(!offered | VERSION_1);
    registers.set_status(status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    let accepted = registers.status() & status::FEATURES_OK != 0;
    ensure!(!accepted || registers.device_features() == offered, "The offer changed");
    registers.go();
    Ok(())
}

/// Status bits in wrong orders, and bits that do not exist.
fn status_order(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let registers = victim.registers;
    for value in [0xff, 0, status::DRIVER_OK, 0, status::FEATURES_OK, status::DRIVER_OK, 0, status::NEEDS_RESET, 0x80] {
        registers.set_status(value);
        victim.ring.kick();
    }
    Ok(())
}

/// Many requests, and a reset before they can be done; what comes back must come before the reset ends.
fn reset_in_flight(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    const ROUNDS: u64 = 50;
    for round in 0..ROUNDS {
        let chain = victim.good_request();
        victim.write_chain(&chain);
        (0..victim.ring.size()).for_each(|_| victim.ring.offer(0));
        victim.ring.show();
        victim.ring.kick();
        ensure!(victim.registers.reset(), "Reset {round} did not end");
        // From here on the memory is the guest's alone.
        victim.memory.bytes(8192).fill(0xa5);
        machine.clock.deadline(1).wait_for(|| false);
        let untouched = victim.memory.bytes(8192).iter().all(|byte| *byte == 0xa5);
        ensure!(untouched, "Memory changed after reset {round}");
        *victim = Victim::start(machine, victim.kind)?;
    }
    Ok(())
}

fn scribble(machine: &Machine<'_>, sequence: &mut Sequence, place: Place) {
    let count = machine.options.number("writes").unwrap_or(500);
    for _ in 0..count {
        let width = 1_u64 << sequence.below(3);
        let offset = sequence.below(place.length.max(width)) / width * width;
        let (address, value) = (place.address + offset, sequence.draw());
        match width {
            1 => mmio::write8(address, value as u8),
            2 => mmio::write16(address, value as u16),
            _ => mmio::write32(address, value as u32),
        }
    }
}

/// Random writes of all widths over the common and the device's own configuration.
fn registers_random(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let mut sequence = Sequence::new(machine.options.number("seed").unwrap_or(1));
    let common = Place { length: common::LENGTH, ..victim.registers.common };
    scribble(machine, &mut sequence, common);
    if victim.registers.config.length > 0 {
        let config = Place { length: victim.registers.config.length.min(256), ..victim.registers.config };
        scribble(machine, &mut sequence, config);
    }
    Ok(())
}

/// Random writes over the doorbells, before and after the device is started.
fn doorbells_random(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let mut sequence = Sequence::new(machine.options.number("seed").unwrap_or(2));
    let doorbells = Place { length: victim.registers.notify.length.min(4096), ..victim.registers.notify };
    scribble(machine, &mut sequence, doorbells);
    ensure!(victim.registers.reset(), "The device did not finish its reset");
    scribble(machine, &mut sequence, doorbells);
    let features = victim.registers.begin(VERSION_1)?;
    victim.ring = Ring::new(&victim.registers, victim.queue, 64, features)?;
    scribble(machine, &mut sequence, doorbells);
    Ok(())
}
