//! Malformed vsock packets (virtio 1.2, section 5.10.6).

use super::{Cases, Victim};
use crate::machine::Machine;
use crate::report::Outcome;

pub(super) const CASES: Cases = &[
    ("op-none", |_, victim| packet(victim, |header| header.op = 0)),
    ("op-unknown", |_, victim| packet(victim, |header| header.op = u16::MAX)),
    ("type-unknown", |_, victim| packet(victim, |header| (header.op, header.kind) = (1, 99))),
    ("length-beyond-chain", |_, victim| packet(victim, |header| (header.op, header.length) = (5, u32::MAX))),
    ("cid-source", |_, victim| packet(victim, |header| (header.op, header.source) = (1, 2))),
    ("cid-destination", |_, victim| packet(victim, |header| (header.op, header.destination) = (1, u64::MAX))),
    ("data-unconnected", |_, victim| packet(victim, |header| header.op = 5)),
    ("response-unasked", |_, victim| packet(victim, |header| header.op = 2)),
    ("credit-unconnected", |_, victim| packet(victim, |header| header.op = 6)),
    ("shutdown-unconnected", |_, victim| packet(victim, |header| (header.op, header.flags) = (4, u32::MAX))),
    ("header-short", header_short),
    ("request-flood", request_flood),
];

/// The packet header.
pub(super) struct Header {
    source: u64,
    destination: u64,
    source_port: u32,
    destination_port: u32,
    length: u32,
    kind: u16,
    op: u16,
    flags: u32,
}

impl Header {
    /// A reset of a connection that does not exist: valid, and of no consequence.
    pub(super) fn reset(victim: &Victim) -> Self {
        const STREAM: u16 = 1;
        const RESET: u16 = 3;
        Self {
            source: u64::from(victim.registers.config32(0)),
            destination: 2,
            source_port: 1025,
            destination_port: 1,
            length: 0,
            kind: STREAM,
            op: RESET,
            flags: 0,
        }
    }

    /// As it goes over the queue.
    pub(super) fn bytes(&self) -> [u8; 44] {
        const BUFFER: u32 = 64 << 10;
        let mut bytes = [0; 44];
        bytes[..8].copy_from_slice(&self.source.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.destination.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.source_port.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.destination_port.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.length.to_le_bytes());
        bytes[28..30].copy_from_slice(&self.kind.to_le_bytes());
        bytes[30..32].copy_from_slice(&self.op.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.flags.to_le_bytes());
        bytes[36..40].copy_from_slice(&BUFFER.to_le_bytes());
        bytes
    }
}

fn packet(victim: &mut Victim, change: impl Fn(&mut Header)) -> Outcome {
    let chain = victim.good_request();
    let mut header = Header::reset(victim);
    change(&mut header);
    victim.memory.bytes(44).copy_from_slice(&header.bytes());
    victim.submit(&chain);
    Ok(())
}

fn header_short(_: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    let mut chain = victim.good_request();
    chain[0].length = 20;
    victim.submit(&chain);
    Ok(())
}

/// Connection requests from thousands of ports, none of which the guest ever reads an answer for.
fn request_flood(machine: &mut Machine<'_>, victim: &mut Victim) -> Outcome {
    const REQUESTS: u32 = 5000;
    let chain = victim.good_request();
    victim.write_chain(&chain);
    for port in 0..REQUESTS {
        let header = Header { op: 1, source_port: 2000 + port, destination_port: 9, ..Header::reset(victim) };
        victim.memory.bytes(44).copy_from_slice(&header.bytes());
        victim.ring.offer(0);
        victim.ring.publish();
        if !machine.clock.deadline(100).wait_for(|| victim.take().is_some()) {
            break;
        }
    }
    Ok(())
}
