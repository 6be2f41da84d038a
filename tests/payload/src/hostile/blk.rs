//! Forbidden requests to a disk.

use super::{Cases, Victim};
use crate::machine::Machine;
use crate::report::Outcome;
use crate::ring::Descriptor;

pub(super) const CASES: Cases = &[
    ("sector-beyond", |_, victim| header(victim, 0, 1 << 50)),
    ("sector-overflow", |_, victim| header(victim, 0, u64::MAX)),
    ("sector-overflow-bytes", |_, victim| header(victim, 0, u64::MAX / 512)),
    ("type-unknown", |_, victim| header(victim, 0x7777, 0)),
    ("write-into-writable", |_, victim| header(victim, 1, 0)),
    ("discard-writable", |_, victim| header(victim, 11, 0)),
    ("discard-overflow", |_, victim| range(victim, 11, 16)),
    ("write-zeroes-overflow", |_, victim| range(victim, 13, 16)),
    ("discard-odd-length", |_, victim| range(victim, 11, 17)),
    ("discard-many", |_, victim| range(victim, 11, 65536)),
    ("header-short", |_, victim| chain(victim, |chain| chain[0].length = 8)),
    ("header-only", |_, victim| chain(victim, |chain| chain.truncate(1))),
    ("status-missing", |_, victim| chain(victim, |chain| chain.truncate(2))),
    ("status-read-only", |_, victim| chain(victim, |chain| chain[2].flags = 0)),
    ("status-empty", |_, victim| chain(victim, |chain| chain[2].length = 0)),
    ("data-odd-length", |_, victim| chain(victim, |chain| chain[1].length = 513)),
    ("id-short", id_short),
];

fn header_only(victim: &Victim, kind: u32, sector: u64) {
    let bytes = victim.memory.bytes(16);
    bytes[..4].copy_from_slice(&kind.to_le_bytes());
    bytes[8..].copy_from_slice(&sector.to_le_bytes());
}

fn header(victim: &mut Victim, kind: u32, sector: u64) -> Outcome {
    let chain = victim.good_request();
    header_only(victim, kind, sector);
    victim.submit(&chain);
    Ok(())
}

type Chain = alloc::vec::Vec<Descriptor>;

fn chain(victim: &mut Victim, change: impl Fn(&mut Chain)) -> Outcome {
    let mut chain = victim.good_request();
    change(&mut chain);
    victim.submit(&chain);
    Ok(())
}

/// Asks for the serial number with room for one byte of it.
fn id_short(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let mut chain = victim.good_request();
    header_only(victim, 8, 0);
    chain[1].length = 1;
    victim.submit(&chain);
    Ok(())
}

/// A range request whose ranges are all ones, `length` bytes of them.
fn range(victim: &mut Victim, kind: u32, length: u32) -> Outcome {
    let mut chain = victim.good_request();
    header_only(victim, kind, 0);
    victim.memory.bytes(4096 + 65536)[4096..].fill(0xff);
    (chain[1].length, chain[1].flags) = (length, 0);
    victim.submit(&chain);
    Ok(())
}
