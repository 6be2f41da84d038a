//! The worker of one queue pair: which event leads to which work.
//!
//! Runs on a reactor thread. It must not block, and it stops after a budget of frames so that other devices on the same
//! thread are served; what is left it announces to itself by a kick.

use std::sync::Arc;

use super::receive::Receiver;
use super::transmit::Transmitter;
use crate::backend::tap::{Tap, TapQueue};
use crate::devices::limits::Meter;
use crate::telemetry::QueueCounters;
use crate::virtio::{GuestFault, Interest, Polled, Queue, Source, Worker, WorkerError};

const RECEIVE_KICK: u32 = 0;
const TRANSMIT_KICK: u32 = 1;
const TAP: u32 = 2;
pub(super) const ALARM: u32 = 3;

/// A receive queue, a transmit queue, and their queue of the tap.
pub(super) struct Pair {
    tap: Arc<Tap>,
    index: usize,
    receiver: Receiver,
    transmitter: Transmitter,
    meter: Meter,
    polling: bool,
}

/// The tap queue of a pair; activation made sure that there is one.
fn queue_of(tap: &Tap, index: usize) -> Result<&TapQueue, GuestFault> {
    tap.queues().get(index).ok_or(GuestFault::Protocol("More queue pairs than the network card has"))
}

fn count_fault(counters: &QueueCounters, error: &WorkerError) {
    if matches!(error, WorkerError::Guest(_)) {
        counters.add_guest_fault();
    }
}

impl Pair {
    /// Joins the (receive, transmit) queues with the queue of that number of the tap.
    pub(super) fn new(
        (tap, index): (Arc<Tap>, usize),
        meter: Meter,
        (receive, transmit): (Queue, Queue),
        counters: (Arc<QueueCounters>, Arc<QueueCounters>),
        mergeable: bool,
    ) -> Result<Self, GuestFault> {
        queue_of(&tap, index)?;
        Ok(Self {
            tap,
            index,
            receiver: Receiver::new(receive, counters.0, mergeable)?,
            transmitter: Transmitter::new(transmit, counters.1),
            meter,
            polling: false,
        })
    }

    /// True when frames are left for the next turn.
    fn receive(&mut self) -> Result<bool, WorkerError> {
        let turn = self.receiver.run(queue_of(&self.tap, self.index)?, &mut self.meter);
        let turn = turn.inspect_err(|error| count_fault(self.receiver.counters(), error))?;
        // While polling, the next poll finds the rest.
        if turn.more && !self.polling {
            self.receiver.queue().kick_self();
        }
        Ok(turn.more)
    }

    fn transmit(&mut self) -> Result<bool, WorkerError> {
        let turn = self.transmitter.run(queue_of(&self.tap, self.index)?, &mut self.meter);
        let turn = turn.inspect_err(|error| count_fault(self.transmitter.counters(), error))?;
        if turn.more && !self.polling {
            self.transmitter.queue().kick_self();
        }
        Ok(turn.frames > 0)
    }

    /// Looks everywhere, whether an event told to or not.
    ///
    /// What the guest sends is a reason to look on: a kick is dear. What it receives is not: the tap wakes us cheaply, and
    /// on a crowded host the time is better spent by who sends to it.
    fn look(&mut self) -> Result<Polled, WorkerError> {
        self.receiver.set_readable();
        let sent = self.transmit()?;
        let more = self.receive()?;
        Ok(if sent || more { Polled::Worked } else { Polled::Idle })
    }
}

impl Worker for Pair {
    fn sources(&self) -> Vec<Source> {
        let source = |fd, token, interest| Source { fd, token, interest };
        let mut sources = vec![
            source(self.receiver.queue().kick_fd(), RECEIVE_KICK, Interest::Readable),
            source(self.transmitter.queue().kick_fd(), TRANSMIT_KICK, Interest::Readable),
            source(self.meter.fd(), ALARM, Interest::Readable),
        ];
        if let Ok(queue) = queue_of(&self.tap, self.index) {
            sources.push(source(queue.as_raw_fd(), TAP, Interest::ReadableEdge));
        }
        sources
    }

    fn on_event(&mut self, token: u32) -> Result<(), WorkerError> {
        match token {
            RECEIVE_KICK => {
                self.receiver.queue().clear_kick();
                self.receive()?;
            }
            TRANSMIT_KICK => {
                self.transmitter.queue().clear_kick();
                self.transmit()?;
            }
            ALARM => {
                self.meter.release();
                self.look()?;
            }
            _ => {
                self.receiver.set_readable();
                self.receive()?;
            }
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<Polled, WorkerError> {
        self.look()
    }

    fn start_polling(&mut self) -> Result<(), WorkerError> {
        self.polling = true;
        self.receiver.set_polling(true);
        self.transmitter.set_polling(true)?;
        Ok(())
    }

    fn stop_polling(&mut self) -> Result<Polled, WorkerError> {
        self.polling = false;
        self.receiver.set_polling(false);
        let waiting = self.transmitter.set_polling(false)?;
        let found = self.look()?;
        // What a rate limit holds back waits for its alarm, not for us.
        Ok(if waiting && !self.meter.is_holding() { Polled::Worked } else { found })
    }

    fn quiesce(&mut self) -> Result<(), WorkerError> {
        self.receiver.quiesce();
        Ok(())
    }

    fn resume(&mut self) -> Result<(), WorkerError> {
        self.meter.release();
        self.look()?;
        Ok(())
    }
}
