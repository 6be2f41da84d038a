//! `io-pause`: disk work without end, every byte checked, so that the host can pause and resume in the middle of it.

use payload_logic::pattern::{self, Sequence};

use super::{Disk, Kind, OK, SECTOR};
use crate::clock::ticks;
use crate::ensure;
use crate::machine::Machine;
use crate::report::{Outcome, Report};

const DEPTH: u16 = 8;
const BLOCK: u32 = 16 << 10;

/// Writes blocks in all slots at once and reads them back, for `ms=` milliseconds of the guest's clock (default 3000),
/// with a progress line each `every_ms=` (default 500). Reports the longest time between two rounds: a pause shows there.
pub fn steady(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let mut disk = Disk::start(machine, DEPTH, BLOCK)?;
    let blocks = disk.sectors() * SECTOR / u64::from(BLOCK) / u64::from(DEPTH);
    ensure!(blocks > 0, "The disk is too small");
    let end = machine.clock.deadline(machine.options.number("ms").unwrap_or(3000));
    let every = machine.options.number("every_ms").unwrap_or(500);
    let mut progress = machine.clock.deadline(every);
    let mut sequence = Sequence::new(machine.options.number("seed").unwrap_or(5));
    let (mut rounds, mut longest, mut last) = (0_u64, 0, ticks());
    while !end.passed() {
        // Each slot has its own stretch of the disk, so nothing overlaps whatever the order.
        let block = sequence.below(blocks);
        for kind in [Kind::Write, Kind::Read] {
            for slot in 0..disk.slots {
                let data = disk.data(slot);
                if kind == Kind::Write { pattern::fill(data, seed(rounds, slot)) } else { data.fill(0) }
            }
            round(machine, &mut disk, kind, block, blocks)?;
        }
        for slot in 0..disk.slots {
            let wrong = pattern::first_difference(disk.data(slot), seed(rounds, slot));
            ensure!(wrong.is_none(), "Round {rounds}, slot {slot}: byte {wrong:?} is not what was written");
        }
        rounds += 1;
        let now = ticks();
        longest = longest.max(now - last);
        last = now;
        if progress.passed() {
            Report::new("event", "progress").value("rounds", rounds).print();
            progress = machine.clock.deadline(every);
        }
    }
    report.value("rounds", rounds).value("bytes", rounds * 2 * u64::from(disk.slots) * u64::from(BLOCK));
    report.value("longest_us", machine.clock.nanoseconds(longest) / 1000);
    Ok(())
}

fn seed(round: u64, slot: u16) -> u64 {
    round << 16 | u64::from(slot)
}

/// One request in every slot, all at once.
fn round(machine: &Machine<'_>, disk: &mut Disk, kind: Kind, block: u64, blocks: u64) -> Outcome {
    const PATIENCE_MS: u64 = 60_000;
    for slot in 0..disk.slots {
        let sector = (u64::from(slot) * blocks + block) * u64::from(BLOCK) / SECTOR;
        disk.offer(slot, kind, sector, BLOCK);
    }
    disk.ring.publish();
    let mut back = 0;
    let all = machine.clock.deadline(PATIENCE_MS).wait_for(|| {
        while disk.take().is_some() {
            back += 1;
        }
        back == disk.slots
    });
    ensure!(all, "{kind:?}: of {} requests {back} came back", disk.slots);
    for slot in 0..disk.slots {
        ensure!(disk.status(slot) == OK, "{kind:?} failed with status {}", disk.status(slot));
    }
    Ok(())
}
