//! Disk measurements: a fixed number of requests always in flight, for a fixed time.

use payload_logic::latency::Latencies;
use payload_logic::pattern::Sequence;

use super::{Disk, Kind, OK, SECTOR};
use crate::clock::{Deadline, ticks};
use crate::ensure;
use crate::machine::Machine;
use crate::measure::{Measured, measure_ms, warm_ms};
use crate::report::{Outcome, Report};

/// One kind of load.
#[derive(Clone, Copy)]
pub struct Load {
    kind: Kind,
    random: bool,
    block: u32,
    depth: u16,
}

impl Load {
    /// Random requests of 4 KiB.
    pub const fn random(kind: Kind, depth: u16) -> Self {
        Self { kind, random: true, block: 4096, depth }
    }

    /// Sequential requests of 128 KiB.
    pub const fn sequential(kind: Kind, depth: u16) -> Self {
        Self { kind, random: false, block: 128 << 10, depth }
    }
}

struct Run<'a> {
    disk: &'a mut Disk,
    load: Load,
    blocks: u64,
    sequence: Sequence,
    next: u64,
    started: [u64; 128],
}

impl Run<'_> {
    fn offer(&mut self, slot: u16) {
        let block = if self.load.random { self.sequence.below(self.blocks) } else { self.next % self.blocks };
        self.next += 1;
        if let Some(started) = self.started.get_mut(usize::from(slot)) {
            *started = ticks();
        }
        self.disk.offer(slot, self.load.kind, block * u64::from(self.load.block) / SECTOR, self.load.block);
    }

    /// Keeps all slots busy until the deadline, then lets them run dry.
    fn until(&mut self, deadline: Deadline, latencies: &mut Latencies) -> Result<u64, alloc::string::String> {
        const LOST: u64 = 1 << 28;
        let (mut operations, mut in_flight, mut idle) = (0, 0, 0_u64);
        for slot in 0..self.disk.slots {
            self.offer(slot);
            in_flight += 1;
        }
        self.disk.ring.publish();
        let mut over = false;
        while in_flight > 0 {
            let mut came_back = false;
            while let Some((slot, _)) = self.disk.take() {
                came_back = true;
                let now = ticks();
                let started = self.started.get(usize::from(slot)).copied().unwrap_or(now);
                latencies.record(now - started);
                ensure!(self.disk.status(slot) == OK, "A request failed with status {}", self.disk.status(slot));
                operations += 1;
                over = over || deadline.passed();
                if over {
                    in_flight -= 1;
                } else {
                    self.offer(slot);
                }
            }
            if came_back {
                self.disk.ring.publish();
                idle = 0;
            } else {
                core::hint::spin_loop();
                idle += 1;
                ensure!(idle < LOST, "{in_flight} requests did not come back");
            }
        }
        Ok(operations)
    }
}

/// Runs a load and reports it.
pub fn bench(machine: &mut Machine<'_>, report: &mut Report, load: Load) -> Outcome {
    let mut disk = Disk::start(machine, load.depth, load.block)?;
    let span = machine.options.number("span").unwrap_or(u64::MAX).min(disk.sectors() * SECTOR);
    let blocks = span / u64::from(load.block);
    ensure!(blocks > 0, "The disk has less than {} bytes", load.block);
    (0..disk.slots).for_each(|slot| disk.data(slot).fill(0x5a));
    let sequence = Sequence::new(machine.options.number("seed").unwrap_or(1));
    let mut run = Run { disk: &mut disk, load, blocks, sequence, next: 0, started: [0; 128] };
    let mut latencies = Latencies::default();
    run.until(machine.clock.deadline(warm_ms(machine)), &mut latencies)?;
    latencies = Latencies::default();
    let start = ticks();
    let operations = run.until(machine.clock.deadline(measure_ms(machine)), &mut latencies)?;
    let measured = Measured { operations, ticks: ticks() - start, latencies: Some(&latencies) };
    report.value("depth", disk.slots).value("bytes", operations * u64::from(load.block));
    measured.report(machine.clock, report);
    Ok(())
}
