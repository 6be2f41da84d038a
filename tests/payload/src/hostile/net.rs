//! Forbidden frames for a network device.

use super::{Cases, Victim};
use crate::report::Outcome;

pub(super) const CASES: Cases = &[
    ("header-short", |_, victim| lengths(victim, 4, None)),
    ("header-only", |_, victim| lengths(victim, 12, None)),
    ("frame-empty", |_, victim| lengths(victim, 12, Some(0))),
    ("frame-tiny", |_, victim| lengths(victim, 12, Some(1))),
    ("frame-huge", |_, victim| lengths(victim, 12, Some(200 << 10))),
    ("gso-unknown", |_, victim| header(victim, &[0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])),
    ("gso-without-size", |_, victim| header(victim, &[1, 1, 0xff, 0xff, 0, 0, 0, 0, 0, 0])),
    ("checksum-outside", |_, victim| header(victim, &[1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])),
    ("buffers-many", |_, victim| header(victim, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff])),
];

fn lengths(victim: &mut Victim, header: u32, frame: Option<u32>) -> Outcome {
    let mut chain = victim.good_request();
    chain[0].length = header;
    match frame {
        Some(length) => chain[1].length = length,
        None => chain.truncate(1),
    }
    victim.submit(&chain);
    Ok(())
}

fn header(victim: &mut Victim, bytes: &[u8]) -> Outcome {
    let chain = victim.good_request();
    victim.memory.bytes(bytes.len()).copy_from_slice(bytes);
    victim.submit(&chain);
    Ok(())
}
