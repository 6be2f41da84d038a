//! Guest to network: one `writev` a frame, straight from the guest's buffers (virtio 1.3 section 5.1.6.2).
//!
//! Runs on the worker's thread.

use std::sync::Arc;

use super::{BUDGET, MAX_FRAME, Turn};
use crate::backend::IoVecs;
use crate::backend::iovecs::MAX_IOVECS;
use crate::backend::tap::{HEADER_LEN, TapQueue};
use crate::devices::limits::Meter;
use crate::telemetry::QueueCounters;
use crate::virtio::{Chain, GuestFault, Queue, WorkerError};

/// Buffers given back together: one store that the driver's core has to fetch, instead of one for each.
const BATCH: u16 = 16;

/// The transmit queue of a pair.
pub(super) struct Transmitter {
    queue: Queue,
    vectors: IoVecs,
    counters: Arc<QueueCounters>,
    polling: bool,
}

impl Transmitter {
    pub(super) fn new(queue: Queue, counters: Arc<QueueCounters>) -> Self {
        Self { queue, vectors: IoVecs::default(), counters, polling: false }
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.queue
    }

    pub(super) fn counters(&self) -> &QueueCounters {
        &self.counters
    }

    /// Stops or starts asking the driver for kicks; true when frames are waiting for which no kick may come.
    pub(super) fn set_polling(&mut self, polling: bool) -> Result<bool, GuestFault> {
        self.polling = polling;
        if polling { self.queue.disable_kicks().map(|()| false) } else { self.queue.enable_kicks() }
    }

    /// Sends what is waiting, at most [`BUDGET`] frames, as far as `meter` lets them pass. What it holds back stays in the
    /// ring, and the driver is not asked for kicks: the meter's alarm will tell.
    pub(super) fn run(&mut self, tap: &TapQueue, meter: &mut Meter) -> Result<Turn, WorkerError> {
        let mut turn = Turn::default();
        let mut bytes = 0;
        self.queue.disable_kicks()?;
        loop {
            turn.frames += self.send_waiting(tap, BUDGET - turn.frames, &mut bytes, meter)?;
            turn.more = turn.frames >= BUDGET;
            if turn.more || self.polling || meter.is_holding() || !self.queue.enable_kicks()? {
                break;
            }
            self.queue.disable_kicks()?;
        }
        if turn.frames > 0 {
            self.counters.add(u64::from(turn.frames), bytes);
            self.queue.signal()?;
        }
        Ok(turn)
    }

    fn send_waiting(
        &mut self,
        tap: &TapQueue,
        budget: u32,
        bytes: &mut u64,
        meter: &mut Meter,
    ) -> Result<u32, WorkerError> {
        let mut frames = 0;
        let mut unpublished = 0;
        while frames < budget
            && meter.may_pass()?
            && let Some(chain) = self.queue.pop()?
        {
            let sent = self.send(tap, &chain)?;
            meter.charge(sent);
            *bytes += sent;
            self.queue.push_unpublished(chain, 0, unpublished)?;
            frames += 1;
            unpublished += 1;
            if unpublished == BATCH {
                self.queue.publish(unpublished)?;
                unpublished = 0;
            }
        }
        if unpublished > 0 {
            self.queue.publish(unpublished)?;
        }
        Ok(frames)
    }

    /// Sends one frame; returns its bytes without header, zero when it was dropped.
    fn send(&mut self, tap: &TapQueue, chain: &Chain) -> Result<u64, GuestFault> {
        let frame = &chain.readable;
        let fault = |reason| GuestFault::Length { head: chain.head(), reason };
        if !chain.writable.is_empty() {
            return Err(GuestFault::Protocol("A frame to transmit has a device-writable buffer"));
        }
        let len = frame.len() as usize;
        if len <= HEADER_LEN {
            return Err(fault("a frame to transmit is not longer than its header"));
        }
        if len > MAX_FRAME {
            return Err(fault("a frame to transmit is longer than 65562 bytes with its header"));
        }
        if frame.slices().len() > MAX_IOVECS {
            return Err(fault("a frame to transmit has more than 1024 buffers"));
        }
        self.vectors.clear();
        self.vectors.extend(frame.slices());
        // A tap that is down, full or unhappy with the header drops the frame, as a wire would.
        if tap.send(&self.vectors).is_err() {
            self.counters.add_error();
            return Ok(0);
        }
        Ok((len - HEADER_LEN) as u64)
    }
}
