//! virtio-net: correctness through the driver crate, speed through hand-made rings.
//!
//! The host end of every command is a peer on the tap (`quantix-bench frames`): it echoes, floods or counts frames of
//! `payload_logic::frame`.

mod bench;
mod echo;

pub use bench::{receive, round_trip, transmit};
pub use echo::{answer, echo};

use payload_logic::frame::Address;

use crate::report::Report;

/// Where frames go when nobody in particular is meant: the peer listens to everything.
const EVERYBODY: Address = [0xff; 6];

/// Tells the host side that frames may come now.
fn listening(address: Address) {
    let [a, b, c, d, e, f] = address;
    let text = format_args!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    Report::new("event", "listening").text("mac", text).print();
}

/// Milliseconds to wait for the host side (`wait_ms=`, default 10,000).
fn patience(machine: &crate::machine::Machine<'_>) -> u64 {
    machine.options.number("wait_ms").unwrap_or(10_000)
}
