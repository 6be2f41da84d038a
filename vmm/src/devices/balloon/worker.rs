//! Works the balloon's queues: pages in, pages out, statistics, free blocks. Runs on an I/O thread; never blocks.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::sync::Arc;
use std::time::Instant;

use super::handle::{BalloonHandle, Shared};
use super::pages::BalloonPages;
use super::statistics::{BUFFER_BYTES, BalloonStatistics};
use crate::devices::{Step, SteppedQueue};
use crate::memory::PAGE_SIZE;
use crate::telemetry::QueueCounters;
use crate::virtio::{Chain, GuestFault, Interest, Queue, Source, Worker, WorkerError};

/// Bytes of a page number in the queues.
const NUMBER_BYTES: usize = 4;
/// Page numbers looked at in one step; Linux sends 256 a chain.
const STEP_NUMBERS: usize = 256;
/// Bytes of reported memory given back in one step.
const REPORT_STEP_BYTES: usize = 16 << 20;
/// Steps before other devices of the same thread get their turn.
const STEPS: u32 = 4;

pub(super) const INFLATE: u32 = 0;
pub(super) const DEFLATE: u32 = 1;
pub(super) const STATISTICS: u32 = 2;
pub(super) const REPORTING: u32 = 3;
pub(super) const REQUESTED: u32 = 4;
pub(super) const INTERVAL: u32 = 5;

/// A queue and its counters.
type Counted = (Queue, Arc<QueueCounters>);

/// The queues of a balloon by their roles.
pub(super) struct BalloonQueues {
    pub(super) inflate: Counted,
    pub(super) deflate: Counted,
    pub(super) statistics: Option<Counted>,
    pub(super) reporting: Option<Counted>,
}

/// A queue worked in steps, and its counters.
struct Stepped {
    queue: SteppedQueue,
    counters: Arc<QueueCounters>,
}

impl From<Counted> for Stepped {
    fn from((queue, counters): Counted) -> Self {
        Self { queue: SteppedQueue::new(queue), counters }
    }
}

/// The statistics queue. Its one buffer stays with the device until somebody wants fresh numbers (section 5.5.6.3).
struct StatisticsQueue {
    queue: Queue,
    counters: Arc<QueueCounters>,
    held: Option<Chain>,
}

/// The one worker of the device.
pub(super) struct BalloonWorker {
    inflate: Stepped,
    deflate: Stepped,
    statistics: Option<StatisticsQueue>,
    reporting: Option<Stepped>,
    // None: pages are counted by the driver, but nothing can be given back.
    pages: Option<BalloonPages>,
    page_bytes: u64,
    shared: Arc<Shared>,
}

impl BalloonWorker {
    pub(super) fn new(
        queues: BalloonQueues,
        pages: Option<BalloonPages>,
        page_bytes: u64,
        shared: Arc<Shared>,
    ) -> Self {
        let BalloonQueues { inflate, deflate, statistics, reporting } = queues;
        let statistics = statistics.map(|(queue, counters)| StatisticsQueue { queue, counters, held: None });
        let (inflate, deflate, reporting) = (inflate.into(), deflate.into(), reporting.map(Stepped::from));
        Self { inflate, deflate, statistics, reporting, pages, page_bytes, shared }
    }

    fn inflate(&mut self) -> Result<(), WorkerError> {
        let Self { inflate: Stepped { queue, counters }, pages, .. } = self;
        queue.turn(STEPS, |chain, done| Ok(inflate_step(chain, done, pages.as_mut(), counters)?))
    }

    fn deflate(&mut self) -> Result<(), WorkerError> {
        let Self { deflate: Stepped { queue, counters }, pages, .. } = self;
        queue.turn(STEPS, |chain, done| Ok(deflate_step(chain, done, pages.as_mut(), counters)?))
    }

    fn report(&mut self) -> Result<(), WorkerError> {
        let page_bytes = self.page_bytes;
        let Some(Stepped { queue, counters }) = &mut self.reporting else { return Ok(()) };
        queue.turn(STEPS, |chain, done| Ok(report_step(chain, done, page_bytes, counters)))
    }

    fn take_statistics(&mut self) -> Result<(), GuestFault> {
        match &mut self.statistics {
            Some(statistics) => statistics.take(&BalloonHandle { shared: self.shared.clone() }),
            None => Ok(()),
        }
    }

    fn ask_for_statistics(&mut self) -> Result<(), GuestFault> {
        match &mut self.statistics {
            Some(statistics) => statistics.ask(),
            None => Ok(()),
        }
    }
}

impl StatisticsQueue {
    /// Reads what the driver filled in and keeps the buffer; one that it put behind it takes its place.
    fn take(&mut self, balloon: &BalloonHandle) -> Result<(), GuestFault> {
        self.queue.clear_kick();
        // At most one ring full a turn.
        for _ in 0..self.queue.size() {
            let Some(chain) = self.queue.pop()? else {
                if self.queue.enable_kicks()? {
                    continue;
                }
                return self.queue.signal();
            };
            let mut buffer = [0; BUFFER_BYTES];
            let len = chain.readable.read(0, &mut buffer);
            let buffer = buffer.get(..len).unwrap_or_default();
            balloon.answered(BalloonStatistics::parse(buffer, Instant::now()));
            self.counters.add(1, len as u64);
            if let Some(older) = self.held.replace(chain) {
                self.queue.push(older, 0)?;
            }
        }
        self.queue.kick_self();
        self.queue.signal()
    }

    /// Gives the buffer back: the driver fills it anew. Without a buffer the driver is at it already.
    fn ask(&mut self) -> Result<(), GuestFault> {
        if let Some(chain) = self.held.take() {
            self.queue.push(chain, 0)?;
        }
        self.queue.signal()
    }
}

/// Reads the next page numbers of a chain, calls `each` on them, and tells where the chain stands.
fn number_step(
    chain: &Chain,
    done: usize,
    counters: &QueueCounters,
    mut each: impl FnMut(u32) -> Result<(), GuestFault>,
) -> Result<Step, GuestFault> {
    let len = chain.readable.len() as usize;
    if !len.is_multiple_of(NUMBER_BYTES) {
        return Err(GuestFault::Length { head: chain.head(), reason: "not a whole number of page numbers" });
    }
    let mut bytes = [0; STEP_NUMBERS * NUMBER_BYTES];
    let got = chain.readable.read(done, &mut bytes);
    for number in bytes.get(..got).unwrap_or_default().as_chunks().0 {
        each(u32::from_le_bytes(*number))?;
    }
    counters.add(0, (got / NUMBER_BYTES) as u64 * PAGE_SIZE);
    let end = done + got;
    if end < len {
        return Ok(Step::More(end));
    }
    counters.add(1, 0);
    Ok(Step::Done(0))
}

/// Pages go into the balloon (section 5.5.6.1).
fn inflate_step(
    chain: &Chain,
    done: usize,
    pages: Option<&mut BalloonPages>,
    counters: &QueueCounters,
) -> Result<Step, GuestFault> {
    let Some(pages) = pages else { return Ok(Step::Done(0)) };
    let step = number_step(chain, done, counters, |number| pages.inflate(number))?;
    // Before the driver gets its buffer back: from then on it may take the pages out again.
    pages.flush()?;
    Ok(step)
}

/// Pages come out of the balloon (section 5.5.6.2).
fn deflate_step(
    chain: &Chain,
    done: usize,
    pages: Option<&mut BalloonPages>,
    counters: &QueueCounters,
) -> Result<Step, GuestFault> {
    let Some(pages) = pages else { return Ok(Step::Done(0)) };
    number_step(chain, done, counters, |number| pages.deflate(number))
}

/// The buffers are memory that the guest does not use until it has them back (section 5.5.6.7).
fn report_step(chain: &Chain, done: usize, page_bytes: u64, counters: &QueueCounters) -> Step {
    let left = (chain.writable.len() as usize).saturating_sub(done);
    let len = left.min(REPORT_STEP_BYTES.max(page_bytes as usize));
    let mut blocks = crate::virtio::SliceList::default();
    if chain.writable.sub_into(done, len, &mut blocks).is_some() {
        blocks.slices().iter().for_each(|block| block.discard(page_bytes));
    }
    counters.add(0, len as u64);
    if left > len {
        return Step::More(done + len);
    }
    counters.add(1, 0);
    Step::Done(0)
}

impl Worker for BalloonWorker {
    fn sources(&self) -> Vec<Source> {
        let source = |fd, token| Source { fd, token, interest: Interest::Readable };
        let mut sources = vec![
            source(self.inflate.queue.kick_fd(), INFLATE),
            source(self.deflate.queue.kick_fd(), DEFLATE),
            source(self.shared.requested.as_raw_fd(), REQUESTED),
            source(self.shared.interval.as_fd().as_raw_fd(), INTERVAL),
        ];
        sources.extend(self.statistics.as_ref().map(|s| source(s.queue.kick_fd(), STATISTICS)));
        sources.extend(self.reporting.as_ref().map(|r| source(r.queue.kick_fd(), REPORTING)));
        sources
    }

    fn on_event(&mut self, token: u32) -> Result<(), WorkerError> {
        match token {
            INFLATE => self.inflate(),
            DEFLATE => self.deflate(),
            STATISTICS => Ok(self.take_statistics()?),
            REPORTING => self.report(),
            REQUESTED => {
                // An error here, and below, is EAGAIN: it was taken note of already.
                let _ = self.shared.requested.read();
                Ok(self.ask_for_statistics()?)
            }
            _ => {
                let _ = self.shared.interval.wait();
                Ok(self.ask_for_statistics()?)
            }
        }
    }

    fn quiesce(&mut self) -> Result<(), WorkerError> {
        let Self { inflate, deflate, statistics, reporting, pages, page_bytes, .. } = self;
        let Stepped { queue, counters } = inflate;
        queue.settle(|chain, done| Ok(inflate_step(chain, done, pages.as_mut(), counters)?))?;
        let Stepped { queue, counters } = deflate;
        queue.settle(|chain, done| Ok(deflate_step(chain, done, pages.as_mut(), counters)?))?;
        if let Some(Stepped { queue, counters }) = reporting {
            queue.settle(|chain, done| Ok(report_step(chain, done, *page_bytes, counters)))?;
        }
        // Put back to be read again: saved state knows no buffers in flight.
        if let Some((queue, held)) = statistics.as_mut().and_then(|s| Some((&mut s.queue, s.held.take()?))) {
            queue.unpop(held);
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), WorkerError> {
        self.inflate()?;
        self.deflate()?;
        self.take_statistics()?;
        self.report()
    }
}
