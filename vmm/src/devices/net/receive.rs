//! Network to guest: one `readv` a frame, straight into the guest's buffers (virtio 1.3 sections 5.1.6.3 and 5.1.6.4).
//!
//! Runs on the worker's thread. The length of a frame is known only when it has been read. So the guest's buffers for an
//! ordinary frame are laid out, and behind them a buffer of ours; what spills over is copied into more of the guest's
//! buffers. A long frame makes us lay out enough for the longest from then on, until long frames have ceased.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::sync::Arc;

use super::{BUDGET, MAX_FRAME, Turn};
use crate::backend::IoVecs;
use crate::backend::iovecs::MAX_IOVECS;
use crate::backend::tap::{HEADER_LEN, TapQueue};
use crate::devices::limits::Meter;
use crate::telemetry::QueueCounters;
use crate::virtio::{Chain, GuestFault, Queue, WorkerError};

/// Room for an ordinary frame with its header, in bytes.
const ORDINARY_FRAME: usize = HEADER_LEN + 1514;
/// Ordinary frames in a row after which no long one is expected any more.
const ORDINARY_RUN: u32 = 64;
/// Where the header says over how many buffers the frame goes.
const NUM_BUFFERS_OFFSET: usize = 10;
/// Most frames that wait before they are shown to the driver together.
const BATCH: u16 = 16;

/// The receive queue of a pair.
pub(super) struct Receiver {
    queue: Queue,
    mergeable: bool,
    counters: Arc<QueueCounters>,
    vectors: IoVecs,
    overflow: Vec<u8>,
    /// Chains taken from the driver and not used yet, in order; `room` is their length in bytes.
    held: VecDeque<Chain>,
    room: usize,
    /// A frame of this length lies in `held` and `overflow` and waits for more buffers.
    stuck: Option<usize>,
    /// Ordinary frames still to be seen before long ones are no longer expected.
    expect_long: u32,
    /// Used entries written and not shown to the driver yet.
    unpublished: u16,
    bytes: u64,
    /// The tap may have frames: set by its edge, cleared when it says that it has none.
    readable: bool,
    polling: bool,
}

impl Receiver {
    pub(super) fn new(mut queue: Queue, counters: Arc<QueueCounters>, mergeable: bool) -> Result<Self, GuestFault> {
        // Kicks tell of fresh buffers; they matter only when we have run out of them.
        queue.disable_kicks()?;
        Ok(Self {
            queue,
            mergeable,
            counters,
            vectors: IoVecs::default(),
            overflow: vec![0; MAX_FRAME],
            held: VecDeque::new(),
            room: 0,
            stuck: None,
            expect_long: 0,
            unpublished: 0,
            bytes: 0,
            readable: true,
            polling: false,
        })
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn counters(&self) -> &QueueCounters {
        &self.counters
    }

    /// The tap has, or may have, frames.
    pub(super) fn set_readable(&mut self) {
        self.readable = true;
    }

    /// While polling, the driver is not asked for kicks even when there are no buffers.
    pub(super) fn set_polling(&mut self, polling: bool) {
        self.polling = polling;
    }

    /// Receives what is waiting, at most [`BUDGET`] frames, as far as `meter` lets them pass.
    pub(super) fn run(&mut self, tap: &TapQueue, meter: &mut Meter) -> Result<Turn, WorkerError> {
        let mut turn = Turn::default();
        self.bytes = 0;
        let mut batch = 1;
        self.queue.disable_kicks()?;
        while self.readable {
            if turn.frames >= BUDGET {
                turn.more = true;
                break;
            }
            if !meter.may_pass()? {
                break;
            }
            let before = self.bytes;
            if !self.step(tap)? {
                let starved = self.readable;
                if !starved || self.polling || !self.queue.enable_kicks()? {
                    break;
                }
                self.queue.disable_kicks()?;
                continue;
            }
            turn.frames += 1;
            meter.charge(self.bytes - before);
            // The first frame of a burst is shown at once, later ones in growing batches.
            if self.unpublished >= batch {
                self.publish()?;
                batch = (batch * 2).min(BATCH);
            }
        }
        self.publish()?;
        if turn.frames > 0 {
            self.counters.add(u64::from(turn.frames), self.bytes);
            self.queue.signal()?;
        }
        Ok(turn)
    }

    /// Moves one frame; false when there is no frame (then `readable` is cleared) or no buffer.
    fn step(&mut self, tap: &TapQueue) -> Result<bool, GuestFault> {
        if let Some(len) = self.stuck {
            return self.spill(len);
        }
        let wanted = if self.mergeable && self.expect_long > 0 { MAX_FRAME } else { ORDINARY_FRAME };
        self.gather(wanted)?;
        if self.held.is_empty() {
            return Ok(false);
        }
        self.vectors.clear();
        self.vectors.extend(self.held.iter().flat_map(|chain| chain.writable.slices()));
        match tap.receive(&mut self.vectors, &mut self.overflow) {
            Ok(len) if len <= HEADER_LEN => self.counters.add_error(),
            Ok(len) if len <= self.room => {
                self.expect_long = if len > ORDINARY_FRAME { ORDINARY_RUN } else { self.expect_long.saturating_sub(1) };
                self.deliver(len)?;
            }
            Ok(len) if self.mergeable => {
                self.expect_long = ORDINARY_RUN;
                self.stuck = Some(len);
                return self.spill(len);
            }
            // The driver's buffer is shorter than the frame: the frame is lost (section 5.1.6.3.1 asks for 1526 bytes).
            Ok(_) => self.counters.add_error(),
            Err(e) => {
                self.readable = false;
                if e.kind() != ErrorKind::WouldBlock {
                    self.counters.add_error();
                }
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes chains until `wanted` bytes have room, or the driver has no more. Without mergeable buffers, one.
    fn gather(&mut self, wanted: usize) -> Result<(), GuestFault> {
        while self.held.is_empty() || (self.mergeable && self.room < wanted) {
            let Some(chain) = self.queue.pop()? else { break };
            let fault = |reason| GuestFault::Length { head: chain.head(), reason };
            if !chain.readable.is_empty() {
                return Err(GuestFault::Protocol("A receive buffer is not device-writable"));
            }
            if (chain.writable.len() as usize) < HEADER_LEN {
                return Err(fault("a receive buffer is shorter than a frame's header"));
            }
            if chain.writable.slices().len() + self.vectors_held() >= MAX_IOVECS {
                return Err(fault("receive buffers are in more than 1023 pieces"));
            }
            self.room += chain.writable.len() as usize;
            self.held.push_back(chain);
        }
        Ok(())
    }

    fn vectors_held(&self) -> usize {
        self.held.iter().map(|chain| chain.writable.slices().len()).sum()
    }

    /// Finds room for the part of a frame of `len` bytes that lies in `overflow`; false when buffers are missing.
    fn spill(&mut self, len: usize) -> Result<bool, GuestFault> {
        let filled = self.room;
        let chains = self.held.len();
        self.gather(len)?;
        // Copied piece by piece, so that a frame that waits again has its first `room` bytes in place.
        let mut from = 0;
        for chain in self.held.iter().skip(chains) {
            let rest = self.overflow.get(from..len.saturating_sub(filled)).unwrap_or_default();
            from += chain.writable.write(0, rest);
        }
        self.overflow.copy_within(from.., 0);
        if self.room >= len {
            self.stuck = None;
            self.deliver(len)?;
            return Ok(true);
        }
        if self.held.len() >= usize::from(self.queue.size()) {
            // The whole ring is too short for this frame: it can never be delivered.
            self.stuck = None;
            self.counters.add_error();
            return Ok(true);
        }
        Ok(false)
    }

    /// Gives the chains that a frame of `len` bytes fills back to the driver.
    fn deliver(&mut self, len: usize) -> Result<(), GuestFault> {
        let mut ends = 0;
        let used = self.held.iter().take_while(|chain| {
            let before = ends;
            ends += chain.writable.len() as usize;
            before < len
        });
        let count = used.count();
        if let Some(first) = self.held.front() {
            first.writable.write(NUM_BUFFERS_OFFSET, &(count as u16).to_le_bytes());
        }
        let mut left = len;
        for chain in self.held.drain(..count) {
            let room = chain.writable.len() as usize;
            let written = left.min(room);
            left -= written;
            self.room -= room;
            self.queue.push_unpublished(chain, written as u32, self.unpublished)?;
            self.unpublished += 1;
        }
        self.bytes += (len - HEADER_LEN) as u64;
        Ok(())
    }

    fn publish(&mut self) -> Result<(), GuestFault> {
        match std::mem::take(&mut self.unpublished) {
            0 => Ok(()),
            count => self.queue.publish(count),
        }
    }

    /// Puts back what was taken and not used; a frame that waits for buffers is lost.
    pub(super) fn quiesce(&mut self) {
        if self.stuck.take().is_some() {
            self.counters.add_error();
        }
        while let Some(chain) = self.held.pop_back() {
            self.queue.unpop(chain);
        }
        self.room = 0;
    }
}
