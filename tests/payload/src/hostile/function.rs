//! Forbidden things to the PCI function: BARs where they should not be, MSI-X, configuration space.

use payload_logic::pattern::Sequence;
use virtio_drivers::transport::pci::bus::{ConfigurationAccess, DeviceFunction};

use super::{Cases, Victim};
use crate::ensure;
use crate::machine::Machine;
use crate::mmio;
use crate::registers::{Registers, common};
use crate::report::Outcome;

const COMMAND: u8 = 0x04;
const FIRST_BAR: u8 = 0x10;
const BARS: u8 = 6;

pub(super) const CASES: Cases = &[
    ("bar-move", bar_move),
    ("bar-on-memory", |machine, victim| bar_to(machine, victim, machine.memory_end / 2)),
    ("bar-at-zero", |machine, victim| bar_to(machine, victim, 0)),
    ("bar-at-top", |machine, victim| bar_to(machine, victim, u64::MAX)),
    ("bar-on-apic", |machine, victim| bar_to(machine, victim, 0xfee0_0000)),
    ("bar-decode-off", decode_off),
    ("msix-scribble", msix_scribble),
    ("msix-vectors", msix_vectors),
    ("config-random", config_random),
];

/// The BARs and the command of a function, to put them back.
struct Saved {
    function: DeviceFunction,
    bars: [u32; BARS as usize],
    command: u32,
}

impl Saved {
    fn new(machine: &mut Machine<'_>, victim: &Victim) -> Result<Self, alloc::string::String> {
        let function = machine.function(victim.kind)?;
        let mut bars = [0; BARS as usize];
        for (index, bar) in (0..BARS).zip(&mut bars) {
            *bar = machine.config.read_word(function, FIRST_BAR + 4 * index);
        }
        Ok(Self { function, bars, command: machine.config.read_word(function, COMMAND) & 0xffff })
    }

    fn restore(&self, machine: &mut Machine<'_>) {
        machine.config.write_word(self.function, COMMAND, 0);
        for (index, bar) in (0..BARS).zip(self.bars) {
            machine.config.write_word(self.function, FIRST_BAR + 4 * index, bar);
        }
        machine.config.write_word(self.function, COMMAND, self.command);
    }

    /// Index, size and width of the BAR that holds the common configuration.
    fn common_bar(&self, machine: &mut Machine<'_>, victim: &Victim) -> Option<(u8, u64)> {
        for (index, bar) in (0..BARS).zip(self.bars) {
            let wide = bar & 7 == 4;
            let high = if wide { self.bars.get(usize::from(index) + 1).copied().unwrap_or(0) } else { 0 };
            let address = u64::from(high) << 32 | u64::from(bar & !0xf);
            if bar & 1 != 0 || address == 0 || victim.registers.common.address < address {
                continue;
            }
            machine.config.write_word(self.function, FIRST_BAR + 4 * index, u32::MAX);
            let mask = machine.config.read_word(self.function, FIRST_BAR + 4 * index) & !0xf;
            machine.config.write_word(self.function, FIRST_BAR + 4 * index, bar);
            let size = u64::from(!mask) + 1;
            if victim.registers.common.address < address + size {
                return Some((index, size));
            }
        }
        None
    }
}

fn set_bar(machine: &mut Machine<'_>, saved: &Saved, index: u8, address: u64) {
    machine.config.write_word(saved.function, FIRST_BAR + 4 * index, address as u32);
    if saved.bars.get(usize::from(index)).is_some_and(|bar| bar & 7 == 4) {
        machine.config.write_word(saved.function, FIRST_BAR + 4 * (index + 1), (address >> 32) as u32);
    }
}

/// Moves the BAR of a working device to a free place, finds it there, and moves it back.
fn bar_move(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let saved = Saved::new(machine, victim)?;
    let Some((index, size)) = saved.common_bar(machine, victim) else {
        return Err("The common configuration is in no BAR".into());
    };
    let target = machine.free_window(size);
    let before = victim.registers.common.address;
    for enabled in [true, false] {
        if !enabled {
            machine.config.write_word(saved.function, COMMAND, 0);
        }
        set_bar(machine, &saved, index, target);
        machine.config.write_word(saved.function, COMMAND, saved.command);
        let moved = Registers::find(&machine.config, saved.function).ok_or("The capabilities are gone")?;
        let queues = mmio::read16(moved.common.address + common::NUM_QUEUES);
        let old = mmio::read16(before + common::NUM_QUEUES);
        saved.restore(machine);
        ensure!(moved.common.address != before, "The BAR did not move");
        ensure!(queues != u16::MAX && queues != 0, "The registers are not at the new address");
        ensure!(old == u16::MAX, "The registers are still at the old address");
    }
    Ok(())
}

fn bar_to(machine: &mut Machine<'_>, victim: &mut Victim, address: u64) -> Outcome {
    let saved = Saved::new(machine, victim)?;
    for index in (0..BARS).filter(|index| saved.bars.get(usize::from(*index)).is_some_and(|bar| *bar != 0)) {
        set_bar(machine, &saved, index, address);
    }
    victim.ring.kick();
    saved.restore(machine);
    Ok(())
}

/// Without memory decoding nobody answers; with it the device is as before.
fn decode_off(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let saved = Saved::new(machine, victim)?;
    machine.config.write_word(saved.function, COMMAND, 0);
    victim.ring.kick();
    let status = victim.registers.status();
    saved.restore(machine);
    ensure!(status == u8::MAX, "A function without memory decoding answers {status}");
    let chain = victim.good_request();
    victim.submit(&chain);
    Ok(())
}

/// Random words all over the MSI-X table and behind it, while it is enabled.
fn msix_scribble(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let function = machine.function(victim.kind)?;
    let Some(msix) = victim.registers.msix else {
        return Err("The function has no MSI-X".into());
    };
    let control = machine.config.read_word(function, msix.capability);
    machine.config.write_word(function, msix.capability, control | 1 << 31);
    let mut sequence = Sequence::new(machine.options.number("seed").unwrap_or(3));
    for _ in 0..machine.options.number("writes").unwrap_or(500) {
        // Masked always: a random message that is sent would be an interrupt of any kind for the payload.
        let word = sequence.below(msix.entries * 4);
        let value = if word % 4 == 3 { sequence.draw() as u32 | 1 } else { sequence.draw() as u32 };
        mmio::write32(msix.table + word * 4, value);
    }
    let chain = victim.good_request();
    victim.submit(&chain);
    machine.config.write_word(function, msix.capability, control);
    Ok(())
}

/// Vectors that the table does not have.
fn msix_vectors(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let registers = victim.registers;
    let entries = registers.msix.map_or(0, |msix| msix.entries as u16);
    for vector in [entries, 0x7ff, u16::MAX - 1] {
        registers.set_queue16(victim.queue, common::QUEUE_MSIX_VECTOR, vector);
        let found = registers.queue16(victim.queue, common::QUEUE_MSIX_VECTOR);
        ensure!(found == u16::MAX, "Vector {vector} does not exist and was taken as {found}");
    }
    let chain = victim.good_request();
    victim.submit(&chain);
    Ok(())
}

/// Random words all over the function's configuration space.
fn config_random(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let saved = Saved::new(machine, victim)?;
    let msix =
        victim.registers.msix.map(|msix| (msix.capability, machine.config.read_word(saved.function, msix.capability)));
    let mut sequence = Sequence::new(machine.options.number("seed").unwrap_or(4));
    for _ in 0..machine.options.number("writes").unwrap_or(500) {
        let offset = sequence.below(64) as u8 * 4;
        // A BAR on the payload's own pages would hide them: those are the cases above, one at a time.
        let value = if offset == COMMAND { 0 } else { sequence.draw() as u32 & 0x7fff_ffff };
        machine.config.write_word(saved.function, offset, value);
        machine.config.read_word(saved.function, offset);
    }
    if let Some((capability, control)) = msix {
        machine.config.write_word(saved.function, capability, control);
    }
    saved.restore(machine);
    Ok(())
}
