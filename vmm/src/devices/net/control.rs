//! The control queue (virtio 1.3 section 5.1.6.5): how many queue pairs are in use.
//!
//! Runs on a reactor thread. Commands that were not offered are answered with an error, as section 5.1.6.5 wants.

use std::sync::Arc;

use virtio_bindings::bindings::virtio_net as spec;

use crate::backend::tap::Tap;
use crate::telemetry::QueueCounters;
use crate::virtio::{Chain, GuestFault, Interest, Queue, Source, Worker, WorkerError};

const KICK: u32 = 0;
/// Commands before other devices of the thread get their turn.
const BUDGET: u32 = 16;

/// A command as the driver wrote it (section 5.1.6.5), checked as far as its kind goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    /// Use this many queue pairs (section 5.1.6.5.5).
    SetPairs(u16),
    /// Nothing that was offered.
    Unknown,
}

impl From<[u8; 4]> for Command {
    fn from([class, command, low, high]: [u8; 4]) -> Self {
        match (u32::from(class), u32::from(command)) {
            (spec::VIRTIO_NET_CTRL_MQ, spec::VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) => {
                Self::SetPairs(u16::from_le_bytes([low, high]))
            }
            _ => Self::Unknown,
        }
    }
}

/// The control queue's worker.
pub(super) struct Control {
    tap: Arc<Tap>,
    queue: Queue,
    counters: Arc<QueueCounters>,
    pairs: u16,
}

impl Control {
    /// A control queue that may bring at most `pairs` queue pairs into use.
    pub(super) fn new(tap: Arc<Tap>, queue: Queue, counters: Arc<QueueCounters>, pairs: u16) -> Self {
        Self { tap, queue, counters, pairs }
    }

    /// Does one command; returns its status byte.
    fn execute(&self, chain: &Chain) -> Result<u8, GuestFault> {
        if chain.writable.is_empty() {
            let reason = "a control command has no room for its status";
            return Err(GuestFault::Length { head: chain.head(), reason });
        }
        let mut bytes = [0; 4];
        let complete = chain.readable.read(0, &mut bytes) == bytes.len();
        let done = match Command::from(bytes) {
            Command::SetPairs(pairs) if complete && (1..=self.pairs).contains(&pairs) => {
                self.tap.use_pairs(pairs).is_ok()
            }
            Command::SetPairs(_) | Command::Unknown => false,
        };
        if !done {
            self.counters.add_error();
        }
        Ok(if done { spec::VIRTIO_NET_OK } else { spec::VIRTIO_NET_ERR } as u8)
    }

    fn run(&mut self) -> Result<(), GuestFault> {
        for _ in 0..BUDGET {
            let Some(chain) = self.queue.pop()? else {
                if self.queue.enable_kicks()? {
                    continue;
                }
                return self.queue.signal();
            };
            let status = self.execute(&chain)?;
            chain.writable.write(0, &[status]);
            self.queue.push(chain, 1)?;
            self.counters.add(1, 0);
        }
        self.queue.kick_self();
        self.queue.signal()
    }
}

impl Worker for Control {
    fn sources(&self) -> Vec<Source> {
        vec![Source { fd: self.queue.kick_fd(), token: KICK, interest: Interest::Readable }]
    }

    fn on_event(&mut self, _token: u32) -> Result<(), WorkerError> {
        self.queue.clear_kick();
        self.run().inspect_err(|_| self.counters.add_guest_fault())?;
        Ok(())
    }

    fn quiesce(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), WorkerError> {
        self.on_event(KICK)
    }
}
