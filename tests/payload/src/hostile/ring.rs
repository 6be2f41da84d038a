//! Forbidden things in the queue itself: the same cases for every device.

use super::{Cases, Victim};
use crate::machine::Machine;
use crate::registers::{VERSION_1, common};
use crate::report::Outcome;
use crate::ring::{Descriptor, INDIRECT, NEXT, WRITE};

/// Far outside of any guest's memory.
const NOWHERE: u64 = 1 << 45;
/// Where cases put indirect tables and other extras: behind the good request.
const EXTRA: u64 = 64 << 10;

pub(super) const CASES: Cases = &[
    ("loop", |_, victim| link_last_to(victim, 0)),
    ("loop-long", looped_through_all),
    ("next-outside", |_, victim| link_last_to(victim, u16::MAX)),
    ("address-wrap", |_, victim| data(victim, |data| (data.address, data.length) = (u64::MAX - 15, 4096))),
    ("address-outside", |_, victim| data(victim, |data| data.address = NOWHERE)),
    ("address-zero-length", |_, victim| data(victim, |data| data.length = 0)),
    ("address-straddle", straddle),
    ("direction", |_, victim| every(victim, |descriptor| descriptor.flags ^= WRITE)),
    ("length-huge", |_, victim| data(victim, |data| data.length = u32::MAX)),
    ("chain-of-huge", chain_of_huge),
    ("head-outside", |_, victim| head(victim, u16::MAX)),
    ("head-at-size", |_, victim| head(victim, victim.ring.size())),
    ("available-jump", |_, victim| jump(victim, 0x8000)),
    ("available-back", |_, victim| jump(victim, u16::MAX - 1)),
    ("available-full-of-one", full_of_one),
    ("indirect-length", |_, victim| indirect(victim, 17, INDIRECT, false)),
    ("indirect-empty", |_, victim| indirect(victim, 0, INDIRECT, false)),
    ("indirect-huge", |_, victim| indirect(victim, 0xffff_fff0, INDIRECT, false)),
    ("indirect-next", |_, victim| indirect(victim, 48, INDIRECT | NEXT, false)),
    ("indirect-nested", |_, victim| indirect(victim, 48, INDIRECT, true)),
    ("indirect-loop", indirect_loop),
    ("ring-outside", |machine, victim| moved(machine, victim, |parts| parts.used = NOWHERE)),
    ("ring-table-outside", |machine, victim| moved(machine, victim, |parts| parts.descriptors = NOWHERE)),
    ("ring-wrap", |machine, victim| moved(machine, victim, |parts| parts.available = u64::MAX - 63)),
    ("ring-unaligned", |machine, victim| moved(machine, victim, |parts| parts.used += 1)),
    ("ring-on-itself", |machine, victim| moved(machine, victim, |parts| parts.used = parts.descriptors)),
];

fn every(victim: &mut Victim, change: impl Fn(&mut Descriptor)) -> Outcome {
    let mut chain = victim.good_request();
    chain.iter_mut().for_each(change);
    victim.submit(&chain);
    Ok(())
}

fn data(victim: &mut Victim, change: impl Fn(&mut Descriptor)) -> Outcome {
    let mut chain = victim.good_request();
    let index = Victim::data_index(&chain);
    chain.get_mut(index).into_iter().for_each(change);
    victim.submit(&chain);
    Ok(())
}

fn link_last_to(victim: &mut Victim, next: u16) -> Outcome {
    let chain = victim.good_request();
    victim.write_chain(&chain);
    if let Some(last) = chain.last() {
        let index = chain.len() as u16 - 1;
        victim.ring.describe(index, Descriptor { flags: last.flags | NEXT, next, ..*last });
    }
    victim.offer(0);
    Ok(())
}

/// Every descriptor of the table, the last one leading to the first.
fn looped_through_all(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let first = victim.good_request().first().copied().unwrap_or_default();
    let size = victim.ring.size();
    for index in 0..size {
        victim.ring.describe(index, Descriptor { flags: first.flags | NEXT, next: (index + 1) % size, ..first });
    }
    victim.offer(0);
    Ok(())
}

/// Starts in memory and ends behind it.
fn straddle(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let end = machine.memory_end;
    data(victim, |data| (data.address, data.length) = (end - 16, 4096))
}

/// Lengths whose sum does not fit 32 bits, each of them inside memory.
fn chain_of_huge(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let whole = u32::try_from(machine.memory_end - (1 << 20)).unwrap_or(u32::MAX);
    let mut chain = victim.good_request();
    let middle = Victim::data_index(&chain);
    let data = chain.get(middle).copied().unwrap_or_default();
    // Reading all memory harms nobody; a device told to write there would overwrite the payload itself.
    if data.flags & WRITE != 0 {
        return every(victim, |descriptor| descriptor.length = u32::MAX);
    }
    for _ in 0..usize::from(victim.ring.size()) - chain.len() {
        chain.insert(middle, Descriptor { address: 1 << 20, length: whole, ..data });
    }
    victim.submit(&chain);
    Ok(())
}

fn head(victim: &mut Victim, head: u16) -> Outcome {
    victim.good_request();
    victim.offer(head);
    Ok(())
}

fn jump(victim: &mut Victim, by: u16) -> Outcome {
    let chain = victim.good_request();
    victim.write_chain(&chain);
    victim.ring.set_available_index(by.wrapping_add(1));
    victim.ring.kick();
    Ok(())
}

/// The same chain in every place of the ring, as if all were different.
fn full_of_one(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let chain = victim.good_request();
    victim.write_chain(&chain);
    (0..victim.ring.size()).for_each(|_| victim.ring.offer(0));
    victim.ring.show();
    victim.ring.kick();
    Ok(())
}

/// The good request through an indirect table of `length` bytes; `nested` makes its entries tables again.
fn indirect(victim: &mut Victim, length: u32, flags: u16, nested: bool) -> Outcome {
    let chain = victim.good_request();
    let last = chain.len() - 1;
    let entries = chain.iter().enumerate().map(|(index, descriptor)| {
        let more = if index < last { NEXT } else { 0 };
        let nest = if nested { INDIRECT } else { 0 };
        Descriptor { flags: descriptor.flags | more | nest, next: index as u16 + 1, ..*descriptor }
    });
    write_table(victim, entries);
    let table = Descriptor { address: victim.memory.address() + EXTRA, length, flags, next: 1 };
    victim.ring.describe(0, table);
    victim.offer(0);
    Ok(())
}

fn indirect_loop(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let first = victim.good_request().first().copied().unwrap_or_default();
    write_table(victim, (0..3).map(|index| Descriptor { flags: first.flags | NEXT, next: (index + 1) % 3, ..first }));
    let table = Descriptor { address: victim.memory.address() + EXTRA, length: 48, flags: INDIRECT, next: 0 };
    victim.ring.describe(0, table);
    victim.offer(0);
    Ok(())
}

fn write_table(victim: &Victim, entries: impl Iterator<Item = Descriptor>) {
    let table = &mut victim.memory.bytes(EXTRA as usize + 4096)[EXTRA as usize..];
    for (bytes, entry) in table.chunks_exact_mut(16).zip(entries) {
        bytes[..8].copy_from_slice(&entry.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&entry.length.to_le_bytes());
        bytes[12..14].copy_from_slice(&entry.flags.to_le_bytes());
        bytes[14..].copy_from_slice(&entry.next.to_le_bytes());
    }
}

/// Starts the device again with a part of the attacked queue in a wrong place, and makes it look there.
fn moved(machine: &mut Machine<'_>, victim: &mut Victim, change: impl Fn(&mut crate::ring::Parts)) -> Outcome {
    *victim = Victim::start(machine, victim.kind)?;
    let registers = victim.registers;
    registers.begin(VERSION_1)?;
    let mut parts = victim.ring.parts();
    change(&mut parts);
    registers.set_queue16(victim.queue, common::QUEUE_SIZE, victim.ring.size());
    registers.set_queue64(victim.queue, common::QUEUE_DESC, parts.descriptors);
    registers.set_queue64(victim.queue, common::QUEUE_DRIVER, parts.available);
    registers.set_queue64(victim.queue, common::QUEUE_DEVICE, parts.used);
    registers.set_queue16(victim.queue, common::QUEUE_ENABLE, 1);
    registers.go();
    let chain = victim.good_request();
    victim.submit(&chain);
    Ok(())
}
