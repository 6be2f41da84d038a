//! A queue whose chains are worked off in small steps, a bounded number a turn.
//!
//! A chain may describe 4 GiB, and a driver may add chains as fast as we take them: whoever works "until the queue is
//! empty" can be kept busy for ever, and with it every device on the same I/O thread. Here a turn ends after some steps
//! and the queue wakes its own worker for the next one. Runs on the worker's thread; never blocks.

use std::os::fd::RawFd;

use crate::virtio::{Chain, GuestFault, Queue, WorkerError};

/// Steps that [`SteppedQueue::settle`] still gives the chain that is being worked on.
const SETTLE_STEPS: u32 = 256;

/// How a step on a chain ended.
pub(super) enum Step {
    /// The chain is finished; so many bytes were written into it.
    Done(u32),
    /// There is more of it: go on at this offset.
    More(usize),
    /// Nothing can be done before another source fires.
    Wait,
}

/// A queue and how far its current chain has come.
pub(super) struct SteppedQueue {
    queue: Queue,
    current: Option<Chain>,
    done: usize,
}

impl SteppedQueue {
    pub(super) fn new(queue: Queue) -> Self {
        Self { queue, current: None, done: 0 }
    }

    pub(super) fn kick_fd(&self) -> RawFd {
        self.queue.kick_fd()
    }

    /// Takes `steps` steps at most, each by one call of `each(chain, offset)`, and interrupts the driver if it wants that.
    pub(super) fn turn(
        &mut self,
        steps: u32,
        mut each: impl FnMut(&Chain, usize) -> Result<Step, WorkerError>,
    ) -> Result<(), WorkerError> {
        self.queue.clear_kick();
        for _ in 0..steps {
            if !self.step(&mut each)? {
                return Ok(self.queue.signal()?);
            }
        }
        self.queue.kick_self();
        Ok(self.queue.signal()?)
    }

    /// One step; false when there is nothing to do until a kick, or until another source fires.
    fn step(&mut self, each: &mut impl FnMut(&Chain, usize) -> Result<Step, WorkerError>) -> Result<bool, WorkerError> {
        let Some(chain) = self.take()? else {
            return Ok(false);
        };
        match each(&chain, self.done)? {
            Step::Done(written) => {
                self.done = 0;
                self.queue.push(chain, written)?;
                return Ok(true);
            }
            Step::More(offset) => self.done = offset,
            Step::Wait => {
                self.current = Some(chain);
                return Ok(false);
            }
        }
        self.current = Some(chain);
        Ok(true)
    }

    /// The current chain, or the next; with none, kicks are asked for again.
    fn take(&mut self) -> Result<Option<Chain>, GuestFault> {
        if let Some(chain) = self.current.take() {
            return Ok(Some(chain));
        }
        loop {
            if let Some(chain) = self.queue.pop()? {
                return Ok(Some(chain));
            }
            if !self.queue.enable_kicks()? {
                return Ok(None);
            }
        }
    }

    /// Before a pause: finishes the current chain, or puts it back to be started anew where that would take too long.
    pub(super) fn settle(
        &mut self,
        mut each: impl FnMut(&Chain, usize) -> Result<Step, WorkerError>,
    ) -> Result<(), WorkerError> {
        let mut steps = 0;
        while self.current.is_some() && steps < SETTLE_STEPS && self.step(&mut each)? {
            // A finished chain leaves `current` empty, which ends the loop.
            steps += 1;
        }
        if let Some(chain) = self.current.take() {
            self.queue.unpop(chain);
            self.done = 0;
        }
        Ok(self.queue.signal()?)
    }
}
