//! Reactor tests with a worker that echoes queue entries: kicks arrive, failures are told, stop and quiesce hold.

use std::sync::mpsc;

use super::*;
use crate::virtio::testing::{BUFFERS, FakeGuest};
use crate::virtio::{Interest, Polled, Queue, Source, WorkerError};

struct Echo {
    queue: Queue,
    done: mpsc::Sender<u32>,
}

impl Echo {
    fn work(&mut self) -> Result<Polled, WorkerError> {
        let mut polled = Polled::Idle;
        while let Some(chain) = self.queue.pop()? {
            polled = Polled::Worked;
            let len = chain.readable.len();
            self.queue.push(chain, len)?;
            self.queue.signal()?;
            let _ = self.done.send(len);
        }
        Ok(polled)
    }
}

impl Worker for Echo {
    fn sources(&self) -> Vec<Source> {
        vec![Source { fd: self.queue.kick_fd(), token: 7, interest: Interest::Readable }]
    }
    fn on_event(&mut self, token: u32) -> Result<(), WorkerError> {
        assert_eq!(token, 7);
        self.queue.clear_kick();
        self.work().map(drop)
    }
    fn poll(&mut self) -> Result<Polled, WorkerError> {
        self.work()
    }
    fn start_polling(&mut self) -> Result<(), WorkerError> {
        Ok(self.queue.disable_kicks()?)
    }
    fn stop_polling(&mut self) -> Result<Polled, WorkerError> {
        Ok(if self.queue.enable_kicks()? { Polled::Worked } else { Polled::Idle })
    }
    fn quiesce(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }
    fn resume(&mut self) -> Result<(), WorkerError> {
        self.work().map(drop)
    }
}

struct Setup {
    guest: FakeGuest,
    reactor: Reactor,
    group: WorkerGroup,
    done: mpsc::Receiver<u32>,
    failed: mpsc::Receiver<String>,
}

fn setup() -> Setup {
    let mut guest = FakeGuest::new();
    let queue = guest.add_queue(8, false);
    let (done_tx, done) = mpsc::channel();
    let (failed_tx, failed) = mpsc::channel();
    let reactor = Reactor::new(1, &(Arc::new(|| {}) as Entrance)).unwrap();
    let on_error = Arc::new(move |error: WorkerError| failed_tx.send(error.to_string()).unwrap());
    let group = reactor.start(vec![Box::new(Echo { queue, done: done_tx })], on_error);
    Setup { guest, reactor, group, done, failed }
}

const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

impl Setup {
    fn send(&mut self, len: u32) {
        let queue = &mut self.guest.queues[0];
        queue.add(&[(BUFFERS, len, false)]);
        // As a driver: no kick when the device says that it looks by itself.
        if !queue.kicks_unwanted() {
            queue.kick();
        }
    }
}

#[test]
fn a_thousand_requests_are_served_kicked_or_polled() {
    let mut s = setup();
    for len in 1..1000 {
        s.send(len);
        assert_eq!(s.done.recv_timeout(DEADLINE), Ok(len));
    }
}

#[test]
fn a_failing_worker_is_dropped_and_told() {
    let mut s = setup();
    s.guest.queues[0].set_avail_index(100);
    s.guest.queues[0].kick();
    assert!(s.failed.recv_timeout(DEADLINE).unwrap().contains("Available index 100"));
    // Its sender went with it.
    assert_eq!(s.done.recv_timeout(DEADLINE), Err(mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn stop_returns_when_the_worker_is_gone() {
    let s = setup();
    s.reactor.stop(s.group);
    assert_eq!(s.done.try_recv(), Err(mpsc::TryRecvError::Disconnected));
}

#[test]
fn a_quiesced_worker_holds_still_until_resumed() {
    let mut s = setup();
    s.reactor.quiesce();
    s.send(5);
    s.reactor.quiesce();
    assert_eq!(s.done.try_recv(), Err(mpsc::TryRecvError::Empty));
    s.reactor.resume();
    assert_eq!(s.done.recv_timeout(DEADLINE), Ok(5));
}
