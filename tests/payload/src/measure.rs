//! What every measurement has in common: its times and its figures.

use payload_logic::latency::Latencies;

use crate::clock::Clock;
use crate::machine::Machine;
use crate::report::Report;

/// Milliseconds that are measured (`ms=`, default 1000).
pub fn measure_ms(machine: &Machine<'_>) -> u64 {
    machine.options.number("ms").unwrap_or(1000)
}

/// Milliseconds before them that are not (`warm_ms=`, default 200).
pub fn warm_ms(machine: &Machine<'_>) -> u64 {
    machine.options.number("warm_ms").unwrap_or(200)
}

/// What was measured.
pub struct Measured<'a> {
    /// How many operations.
    pub operations: u64,
    /// In how many TSC ticks.
    pub ticks: u64,
    /// The time each took, where it was taken.
    pub latencies: Option<&'a Latencies>,
}

impl Measured<'_> {
    /// Adds operations, seconds, operations a second, and latencies in nanoseconds.
    pub fn report(&self, clock: Clock, report: &mut Report) {
        let nanoseconds = clock.nanoseconds(self.ticks);
        let rate = u128::from(self.operations) * 1_000_000_000 / u128::from(nanoseconds.max(1));
        report.value("ops", self.operations).seconds("seconds", nanoseconds).value("ops_per_s", rate);
        if let Some(latencies) = self.latencies {
            report.value("p50_ns", clock.nanoseconds(latencies.quantile(500)));
            report.value("p99_ns", clock.nanoseconds(latencies.quantile(990)));
        }
    }
}
