//! virtio-rng on the fake guest.

use super::worker::{KICK, WINDOW_END};
use super::*;
use crate::virtio::testing::{BUFFERS, FakeDescriptor, FakeGuest};
use crate::virtio::{Device as _, GuestFault, Worker, WorkerError};

fn active() -> (FakeGuest, Rng, Box<dyn Worker>) {
    let mut guest = FakeGuest::new();
    let mut rng = Rng::new("rng0").unwrap();
    let worker = guest.activate(&mut rng, 0).unwrap().remove(0);
    (guest, rng, worker)
}

#[test]
fn buffers_fill_with_different_bytes() {
    let (mut guest, rng, mut worker) = active();
    let head = guest.queues[0].add(&[(BUFFERS, 100, true), (BUFFERS + 0x1000, 400, true)]);
    worker.on_event(KICK).unwrap();
    assert_eq!(guest.queues[0].used(), Some((u32::from(head), 500)));
    assert_eq!(guest.interrupt.queue_count(), 1);
    let (first, second) = (guest.read(BUFFERS, 100), guest.read(BUFFERS + 0x1000, 400));
    assert!(first.iter().any(|b| *b != 0) && second[300..].iter().any(|b| *b != 0));
    assert_ne!(first, second[..100]);
    assert_eq!(guest.read(BUFFERS + 100, 4), [0; 4], "nothing behind the buffer");
    assert_eq!(rng.counters()[0].snapshot().bytes, 500);
}

#[test]
fn a_request_is_answered_short_and_a_window_ends() {
    let (mut guest, _rng, mut worker) = active();
    let requests = WINDOW_BYTES / REQUEST_BYTES;
    let mut answered = 0;
    for _ in 0..requests + 10 {
        guest.queues[0].add(&[(BUFFERS, 1 << 20, true)]);
        worker.on_event(KICK).unwrap();
        while let Some((_, len)) = guest.queues[0].used() {
            assert_eq!(len, REQUEST_BYTES);
            answered += 1;
        }
    }
    assert_eq!(answered, requests, "the budget of one window");
    worker.on_event(WINDOW_END).unwrap();
    while guest.queues[0].used().is_some() {
        answered += 1;
    }
    assert_eq!(answered, requests + 10);
}

#[test]
fn a_reset_gives_no_fresh_budget() {
    let (mut guest, mut rng, mut worker) = active();
    for _ in 0..=WINDOW_BYTES / REQUEST_BYTES {
        guest.queues[0].add(&[(BUFFERS, REQUEST_BYTES, true)]);
        worker.on_event(KICK).unwrap();
    }
    // One request waits: it is in flight.
    drop(worker);
    rng.reset();
    let mut guest = FakeGuest::new();
    let mut worker = guest.activate(&mut rng, 0).unwrap().remove(0);
    guest.queues[0].add(&[(BUFFERS, 8, true)]);
    worker.on_event(KICK).unwrap();
    assert_eq!(guest.queues[0].used(), None);
    worker.on_event(WINDOW_END).unwrap();
    assert_eq!(guest.queues[0].used(), Some((0, 8)));
}

#[test]
fn a_waiting_request_survives_a_pause() {
    let (mut guest, _rng, mut worker) = active();
    for _ in 0..=WINDOW_BYTES / REQUEST_BYTES {
        guest.queues[0].add(&[(BUFFERS, REQUEST_BYTES, true)]);
        worker.on_event(KICK).unwrap();
    }
    worker.quiesce().unwrap();
    while guest.queues[0].used().is_some() {}
    worker.resume().unwrap();
    assert_eq!(guest.queues[0].used(), None, "still no budget");
    worker.on_event(WINDOW_END).unwrap();
    assert!(guest.queues[0].used().is_some());
}

#[test]
fn empty_and_readable_chains_go_back_without_a_byte() {
    let (mut guest, rng, mut worker) = active();
    guest.queues[0].add(&[(BUFFERS, 16, false)]);
    guest.queues[0].add(&[(BUFFERS, 0, true)]);
    worker.on_event(KICK).unwrap();
    assert_eq!(guest.queues[0].used(), Some((0, 0)));
    assert_eq!(guest.queues[0].used(), Some((1, 0)));
    assert_eq!(rng.counters()[0].snapshot().errors, 2);
}

#[test]
fn a_looped_chain_is_the_guests_fault_and_an_overlapping_one_is_not() {
    let (mut guest, _rng, mut worker) = active();
    guest.queues[0].add(&[(BUFFERS, 64, true), (BUFFERS + 32, 64, true)]);
    worker.on_event(KICK).unwrap();
    assert_eq!(guest.queues[0].used(), Some((0, 128)));
    guest.queues[0].write_descriptor(5, FakeDescriptor { address: BUFFERS, len: 8, flags: 3, next: 5 });
    guest.queues[0].offer(5);
    let fault = worker.on_event(KICK);
    assert!(matches!(fault, Err(WorkerError::Guest(GuestFault::Loop { head: 5 }))), "{fault:?}");
}
