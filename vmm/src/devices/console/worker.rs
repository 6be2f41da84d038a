//! Moves bytes between the console's two queues, its sink and its input. Runs on an I/O thread; never blocks.

use std::sync::Arc;

use super::{ConsoleInput, ConsoleSink};
use crate::devices::{Step, SteppedQueue};
use crate::telemetry::QueueCounters;
use crate::virtio::{Chain, Interest, Queue, Source, Worker, WorkerError};

/// Bytes moved in one step.
const STEP_BYTES: usize = 4096;
/// Steps before other devices of the same thread get their turn.
const STEPS: u32 = 16;

pub(super) const RECEIVE: u32 = 0;
pub(super) const TRANSMIT: u32 = 1;
pub(super) const ARRIVED: u32 = 2;

/// The one worker of the device.
pub(super) struct ConsoleWorker {
    receive: SteppedQueue,
    transmit: SteppedQueue,
    input: ConsoleInput,
    sink: Arc<dyn ConsoleSink>,
    counters: [Arc<QueueCounters>; 2],
}

impl ConsoleWorker {
    pub(super) fn new(
        [receive, transmit]: [Queue; 2],
        input: ConsoleInput,
        sink: Arc<dyn ConsoleSink>,
        counters: [Arc<QueueCounters>; 2],
    ) -> Self {
        let (receive, transmit) = (SteppedQueue::new(receive), SteppedQueue::new(transmit));
        Self { receive, transmit, input, sink, counters }
    }

    fn receive(&mut self) -> Result<(), WorkerError> {
        let Self { receive, input, counters: [counters, _], .. } = self;
        receive.turn(STEPS, |chain, _| Ok(type_in(chain, input, counters)))
    }

    fn transmit(&mut self) -> Result<(), WorkerError> {
        let Self { transmit, sink, counters: [_, counters], .. } = self;
        transmit.turn(STEPS, |chain, done| Ok(print(chain, done, &**sink, counters)))
    }
}

/// Gives the guest what waits for it (section 5.3.6.1); a buffer without room goes back empty.
fn type_in(chain: &Chain, input: &ConsoleInput, counters: &QueueCounters) -> Step {
    if chain.writable.is_empty() {
        counters.add_error();
        return Step::Done(0);
    }
    let mut done = 0;
    input.take(|bytes| {
        let written = chain.writable.write(done, bytes);
        done += written;
        written
    });
    if done == 0 {
        return Step::Wait;
    }
    counters.add(1, done as u64);
    Step::Done(done as u32)
}

/// Prints the next piece of a buffer.
fn print(chain: &Chain, done: usize, sink: &dyn ConsoleSink, counters: &QueueCounters) -> Step {
    let mut bytes = [0; STEP_BYTES];
    let len = chain.readable.read(done, &mut bytes);
    sink.write(bytes.get(..len).unwrap_or_default());
    let end = done + len;
    if end < chain.readable.len() as usize {
        return Step::More(end);
    }
    counters.add(1, end as u64);
    Step::Done(0)
}

impl Worker for ConsoleWorker {
    fn sources(&self) -> Vec<Source> {
        let source = |fd, token| Source { fd, token, interest: Interest::Readable };
        vec![
            source(self.receive.kick_fd(), RECEIVE),
            source(self.transmit.kick_fd(), TRANSMIT),
            source(self.input.arrived_fd(), ARRIVED),
        ]
    }

    fn on_event(&mut self, token: u32) -> Result<(), WorkerError> {
        match token {
            TRANSMIT => return self.transmit(),
            ARRIVED => self.input.clear_arrived(),
            _ => {}
        }
        self.receive()
    }

    fn quiesce(&mut self) -> Result<(), WorkerError> {
        let Self { receive, transmit, input, sink, counters: [received, transmitted] } = self;
        receive.settle(|chain, _| Ok(type_in(chain, input, received)))?;
        transmit.settle(|chain, done| Ok(print(chain, done, &**sink, transmitted)))
    }

    fn resume(&mut self) -> Result<(), WorkerError> {
        self.receive()?;
        self.transmit()
    }
}
