//! The round trip of 64 bytes to an echoing host.

use payload_logic::latency::Latencies;

use super::{Connection, patience};
use crate::clock::ticks;
use crate::ensure;
use crate::machine::Machine;
use crate::measure::{Measured, measure_ms, warm_ms};
use crate::report::{Outcome, Report};

/// `vsock-rtt`.
pub fn round_trip(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let mut connection = Connection::connect(machine)?;
    let message = [0x5a; 64];
    let mut latencies = Latencies::default();
    let (mut start, mut trips) = (ticks(), 0_u64);
    for milliseconds in [warm_ms(machine), measure_ms(machine)] {
        let over = machine.clock.deadline(milliseconds);
        latencies = Latencies::default();
        (start, trips) = (ticks(), 0);
        while !over.passed() {
            let before = ticks();
            let (mut back, mut buffer) = (0, [0; 64]);
            let mut sent = false;
            let lost = machine.clock.deadline(patience(machine));
            while back < message.len() {
                sent = sent || connection.send(&message)?;
                connection.poll()?;
                back += connection.receive(&mut buffer)?;
                ensure!(!connection.closed && !lost.passed(), "After {trips} round trips a message did not come back");
            }
            latencies.record(ticks() - before);
            trips += 1;
        }
    }
    Measured { operations: trips, ticks: ticks() - start, latencies: Some(&latencies) }.report(machine.clock, report);
    connection.close(machine)
}
