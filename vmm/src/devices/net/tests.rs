//! The network card on the fake guest, with sockets in place of a tap.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{Read as _, Write as _};
use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;

use virtio_bindings::bindings::virtio_net as spec;

use super::worker::ALARM;
use super::*;
use crate::backend::tap::{HEADER_LEN, Tap};
use crate::virtio::rate_limit::RateLimit;
use crate::virtio::testing::{BUFFERS, FakeGuest};
use crate::virtio::{Device as _, Polled, Worker, WorkerError};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const MERGEABLE: u64 = 1 << spec::VIRTIO_NET_F_MRG_RXBUF;

/// A guest, its card, and the wire's far end: each read or write there is one frame with its header.
struct Bench {
    guest: FakeGuest,
    card: Net,
    workers: Vec<Box<dyn Worker>>,
    wires: Vec<UnixStream>,
}

fn bench(features: u64) -> Bench {
    bench_of(1, features)
}

fn bench_of(pairs: u16, features: u64) -> Bench {
    let (tap, far) = Tap::over_sockets(pairs).unwrap();
    let mut card = Net::new("net0", Some([2, 0, 0, 0, 0, 7]), tap).unwrap();
    let mut guest = FakeGuest::new();
    let workers = guest.activate(&mut card, features).unwrap();
    Bench { guest, card, workers, wires: far.into_iter().map(UnixStream::from).collect() }
}

impl Bench {
    /// Handles the events of every source of worker 0, ready or not.
    fn turn(&mut self) -> Result<(), WorkerError> {
        for source in self.workers[0].sources() {
            self.workers[0].on_event(source.token)?;
        }
        Ok(())
    }

    fn give(&mut self, address: u64, len: u32) {
        self.guest.queues[RECEIVE].add(&[(address, len, true)]);
    }

    fn send(&mut self, frame: &[u8]) {
        self.wires[0].write_all(frame).unwrap();
    }

    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut frame = vec![0; MAX_FRAME];
        let len = self.wires[0].read(&mut frame).ok()?;
        frame.truncate(len);
        Some(frame)
    }

    fn errors(&self, queue: usize) -> u64 {
        self.card.counters()[queue].snapshot().errors
    }
}

fn frame(len: usize) -> Vec<u8> {
    let body = (0..len).map(|i| (i * 7 + len) as u8);
    [0; HEADER_LEN].into_iter().chain(body).collect()
}

#[test]
fn frames_leave_in_order_with_one_interrupt_for_all() {
    let mut bench = bench(0);
    let lens = [60, 1514, 61];
    for (i, len) in (0..).zip(lens) {
        let (at, bytes) = (BUFFERS + i * 0x1000, frame(len));
        bench.guest.write(at, &bytes);
        let rest = bytes.len() as u32 - HEADER_LEN as u32;
        bench.guest.queues[TRANSMIT].add(&[(at, 12, false), (at + 12, 20, false), (at + 32, rest - 20, false)]);
    }
    bench.turn().unwrap();
    for len in lens {
        assert_eq!(bench.receive(), Some(frame(len)));
    }
    assert_eq!(std::iter::from_fn(|| bench.guest.queues[TRANSMIT].used()).count(), 3);
    assert_eq!(bench.guest.interrupt.queue_count(), 1);
    let counted = bench.card.counters()[TRANSMIT].snapshot();
    assert_eq!((counted.operations, counted.bytes), (3, 60 + 1514 + 61));
}

#[test]
fn a_received_frame_fills_one_buffer_and_says_so() {
    for features in [0, MERGEABLE] {
        let mut bench = bench(features);
        bench.give(BUFFERS, 2048);
        bench.send(&frame(1514));
        bench.turn().unwrap();
        assert_eq!(bench.guest.queues[RECEIVE].used(), Some((0, 1526)));
        let mut expected = frame(1514);
        expected[10] = 1;
        assert_eq!(bench.guest.read(BUFFERS, 1526), expected);
        assert_eq!(bench.guest.interrupt.queue_count(), 1);
    }
}

/// Receives one frame of `len` bytes into buffers of 1500 bytes and puts it together as a driver would.
fn merged(bench: &mut Bench, len: usize) -> Vec<u8> {
    bench.send(&frame(len));
    bench.turn().unwrap();
    let mut bytes = Vec::new();
    let mut buffers = 0;
    while let Some((head, written)) = bench.guest.queues[RECEIVE].used() {
        bytes.extend(bench.guest.read(BUFFERS + u64::from(head) * 1500, written as usize));
        buffers += 1;
    }
    assert_eq!(u16::from_le_bytes([bytes[10], bytes[11]]), buffers, "frame of {len}");
    bytes[10..12].fill(0);
    bytes
}

#[test]
fn long_frames_go_over_several_buffers_whether_expected_or_not() {
    let mut bench = bench(MERGEABLE);
    for len in [60_usize, 3000, 65_000, 60, 1488, 1489, 65_550] {
        while bench.guest.queues[RECEIVE].used().is_some() {}
        // 256 buffers; a buffer's address follows from its head.
        for _ in 0..=len.div_ceil(1500) {
            let head = bench.guest.queues[RECEIVE].add(&[(BUFFERS, 1, true)]);
            let at = BUFFERS + u64::from(head) * 1500;
            let d = crate::virtio::testing::FakeDescriptor { address: at, len: 1500, flags: 2, next: 0 };
            bench.guest.queues[RECEIVE].write_descriptor(head, d);
        }
        assert!(merged(&mut bench, len) == frame(len), "frame of {len}");
    }
    assert_eq!(bench.errors(RECEIVE), 0);
}

#[test]
fn a_long_frame_waits_for_buffers_and_asks_for_a_kick() {
    let mut bench = bench(MERGEABLE);
    bench.give(BUFFERS, 1000);
    bench.send(&frame(2500));
    bench.turn().unwrap();
    assert_eq!(bench.guest.queues[RECEIVE].used(), None);
    assert!(!bench.guest.queues[RECEIVE].kicks_unwanted(), "the driver must tell of new buffers");
    bench.give(BUFFERS + 1000, 1000);
    bench.workers[0].on_event(0).unwrap();
    assert_eq!(bench.guest.queues[RECEIVE].used(), None);
    bench.give(BUFFERS + 2000, 1000);
    bench.workers[0].on_event(0).unwrap();
    let mut expected = frame(2500);
    expected[10] = 3;
    assert_eq!(bench.guest.read(BUFFERS, 2512), expected);
}

#[test]
fn a_frame_longer_than_an_unmergeable_buffer_is_lost_and_counted() {
    let mut bench = bench(0);
    bench.give(BUFFERS, 200);
    bench.send(&frame(300));
    bench.send(&frame(100));
    bench.turn().unwrap();
    assert_eq!(bench.guest.queues[RECEIVE].used(), Some((0, 112)));
    assert_eq!(bench.errors(RECEIVE), 1);
}

#[test]
fn frames_wait_in_the_tap_while_the_driver_has_no_buffers() {
    let mut bench = bench(MERGEABLE);
    bench.send(&frame(100));
    bench.turn().unwrap();
    bench.give(BUFFERS, 2048);
    bench.workers[0].on_event(0).unwrap();
    assert_eq!(bench.guest.queues[RECEIVE].used(), Some((0, 112)));
}

#[test]
fn work_stops_at_the_budget_and_kicks_itself() {
    let mut bench = bench(0);
    for _ in 0..200 {
        bench.guest.queues[TRANSMIT].add(&[(BUFFERS, 72, false)]);
    }
    let kick = bench.workers[0].sources()[1].fd;
    for (sent, kicked) in [(u64::from(BUDGET), true), (200, false)] {
        bench.workers[0].on_event(1).unwrap();
        assert_eq!(bench.card.counters()[TRANSMIT].snapshot().operations, sent);
        let state = std::fs::read_to_string(format!("/proc/self/fdinfo/{kick}")).unwrap();
        let count = state.lines().find_map(|line| line.strip_prefix("eventfd-count:")).unwrap();
        assert_eq!(count.trim() != "0", kicked, "after {sent} frames");
    }
}

#[test]
fn a_closed_wire_loses_frames_and_nothing_else() {
    let mut bench = bench(0);
    bench.wires.clear();
    bench.guest.queues[TRANSMIT].add(&[(BUFFERS, 100, false)]);
    // The far end of a test socket is gone, so the send would raise SIGPIPE, which Rust programs ignore.
    bench.turn().unwrap();
    assert!(bench.guest.queues[TRANSMIT].used().is_some());
    assert_eq!(bench.errors(TRANSMIT), 1);
}

#[test]
fn a_guest_that_breaks_the_rules_stops_its_device() {
    type Buffers<'a> = &'a [(u64, u32, bool)];
    let cases: [(&str, usize, Buffers<'_>); 7] = [
        ("no body", TRANSMIT, &[(BUFFERS, 12, false)]),
        ("short header", TRANSMIT, &[(BUFFERS, 3, false)]),
        ("oversize", TRANSMIT, &[(BUFFERS, 40_000, false), (BUFFERS, 40_000, false)]),
        ("writable frame", TRANSMIT, &[(BUFFERS, 100, false), (BUFFERS, 100, true)]),
        ("outside of memory", TRANSMIT, &[(u64::MAX - 50, 100, false)]),
        ("readable receive buffer", RECEIVE, &[(BUFFERS, 2048, false)]),
        ("tiny receive buffer", RECEIVE, &[(BUFFERS, 11, true)]),
    ];
    for (what, queue, buffers) in cases {
        let mut bench = bench(MERGEABLE);
        bench.guest.queues[queue].add(buffers);
        bench.send(&frame(100));
        assert!(matches!(bench.turn(), Err(WorkerError::Guest(_))), "{what}");
        assert_eq!(bench.card.counters()[queue].snapshot().guest_faults, 1, "{what}");
    }
}

#[test]
fn overlapping_buffers_hurt_only_the_guest() {
    let mut bench = bench(MERGEABLE);
    for _ in 0..4 {
        bench.give(BUFFERS, 1000);
    }
    bench.send(&frame(3500));
    bench.turn().unwrap();
    assert_eq!(std::iter::from_fn(|| bench.guest.queues[RECEIVE].used()).count(), 4);
}

#[test]
fn a_pause_puts_back_what_was_taken() {
    let mut bench = bench(MERGEABLE);
    for i in 0..4 {
        bench.give(BUFFERS + i * 0x1000, 1000);
    }
    bench.send(&frame(2500));
    bench.turn().unwrap();
    while bench.guest.queues[RECEIVE].used().is_some() {}
    // Expecting another long frame, the worker holds the last buffer.
    bench.workers[0].quiesce().unwrap();
    bench.give(BUFFERS + 0x5000, 1000);
    bench.workers[0].resume().unwrap();
    bench.send(&frame(100));
    bench.turn().unwrap();
    assert_eq!(bench.guest.queues[RECEIVE].used(), Some((3, 112)));
}

#[test]
fn a_reset_in_flight_leaves_the_card_usable() {
    let mut bench = bench(MERGEABLE);
    bench.give(BUFFERS, 1000);
    bench.send(&frame(2500));
    bench.turn().unwrap();
    bench.workers.clear();
    bench.card.reset();
    bench.guest = FakeGuest::new();
    bench.workers = bench.guest.activate(&mut bench.card, 0).unwrap();
    bench.give(BUFFERS, 2048);
    bench.send(&frame(80));
    bench.turn().unwrap();
    assert_eq!(bench.guest.queues[RECEIVE].used(), Some((0, 92)));
}

#[test]
fn while_polling_no_kick_is_asked_for() {
    let mut bench = bench(0);
    bench.workers[0].start_polling().unwrap();
    assert!(bench.guest.queues[TRANSMIT].kicks_unwanted());
    assert_eq!(bench.workers[0].poll().unwrap(), Polled::Idle);
    bench.guest.queues[TRANSMIT].add(&[(BUFFERS, 72, false)]);
    bench.give(BUFFERS + 0x1000, 2048);
    bench.send(&frame(80));
    assert_eq!(bench.workers[0].poll().unwrap(), Polled::Worked);
    assert!(bench.guest.queues[TRANSMIT].used().is_some() && bench.guest.queues[RECEIVE].used().is_some());
    bench.guest.queues[TRANSMIT].add(&[(BUFFERS, 72, false)]);
    assert_eq!(bench.workers[0].stop_polling().unwrap(), Polled::Worked, "a frame slipped in");
    assert!(!bench.guest.queues[TRANSMIT].kicks_unwanted());
    assert!(bench.guest.queues[TRANSMIT].used().is_some());
}

#[test]
fn the_control_queue_sets_the_number_of_pairs() {
    let mut bench = bench_of(2, 1 << spec::VIRTIO_NET_F_MQ | 1 << spec::VIRTIO_NET_F_CTRL_VQ);
    assert_eq!(bench.workers.len(), 3);
    let commands: [(&[u8], u8); 6] = [
        (&[4, 0, 2, 0], 0),
        (&[4, 0, 1, 0], 0),
        (&[4, 0, 3, 0], 1),
        (&[4, 0, 0, 0], 1),
        (&[4, 0, 2], 1),
        (&[0, 0, 1, 0], 1),
    ];
    for (command, status) in commands {
        bench.guest.write(BUFFERS, command);
        bench.guest.write(BUFFERS + 64, &[0xff]);
        bench.guest.queues[4].add(&[(BUFFERS, command.len() as u32, false), (BUFFERS + 64, 1, true)]);
        bench.workers[2].on_event(0).unwrap();
        assert_eq!(bench.guest.queues[4].used().map(|(_, len)| len), Some(1));
        assert_eq!(bench.guest.read(BUFFERS + 64, 1), [status], "{command:?}");
    }
    bench.guest.queues[4].add(&[(BUFFERS, 4, false)]);
    assert!(bench.workers[2].on_event(0).is_err(), "no room for the status");
}

#[test]
fn without_multi_queue_the_control_queue_follows_the_first_pair() {
    let mut bench = bench_of(2, 1 << spec::VIRTIO_NET_F_CTRL_VQ);
    assert_eq!(bench.workers.len(), 2);
    bench.guest.queues[2].add(&[(BUFFERS, 4, false), (BUFFERS + 64, 1, true)]);
    bench.workers[1].on_event(0).unwrap();
    assert!(bench.guest.queues[2].used().is_some());
}

#[test]
fn the_configuration_can_be_read_at_any_offset() {
    let (tap, _far) = Tap::over_sockets(2).unwrap();
    let card = Net::new("net0", Some([2, 3, 4, 5, 6, 7]), tap).unwrap();
    let mut bytes = [0xff; 16];
    card.read_config(0, &mut bytes);
    assert_eq!(bytes, [2, 3, 4, 5, 6, 7, 1, 0, 2, 0, 0xdc, 5, 0, 0, 0, 0]);
    for offset in [11, 12, 4096, u64::MAX] {
        let mut bytes = [0xff; 4];
        card.read_config(offset, &mut bytes);
        assert_eq!(bytes, [if offset == 11 { 5 } else { 0 }, 0, 0, 0], "{offset}");
    }
}

/// Waits until a limit's alarm has rung, and tells the worker.
fn alarm(bench: &mut Bench) {
    use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
    let fd = bench.workers[0].sources().iter().find(|source| source.token == ALARM).unwrap().fd;
    let epoll = Epoll::new().unwrap();
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).unwrap();
    assert_eq!(epoll.wait(10_000, &mut [EpollEvent::default()]).unwrap(), 1, "the alarm never rang");
    bench.workers[0].on_event(ALARM).unwrap();
}

#[test]
fn a_limit_holds_frames_of_both_directions_until_its_alarm_and_can_be_lifted() {
    let mut bench = bench(0);
    let one = RateLimit { operations: NonZeroU64::new(1), bytes: None };
    bench.card.limits().unwrap().set(one).unwrap();
    bench.guest.write(BUFFERS, &frame(100));
    for _ in 0..20 {
        bench.guest.queues[TRANSMIT].add(&[(BUFFERS, 112, false)]);
        bench.give(BUFFERS + 0x1000, 2048);
        bench.send(&frame(60));
    }
    alarm(&mut bench);
    let sent = |bench: &mut Bench| std::iter::from_fn(|| bench.guest.queues[TRANSMIT].used()).count();
    let came = |bench: &mut Bench| std::iter::from_fn(|| bench.guest.queues[RECEIVE].used()).count();
    assert_eq!(sent(&mut bench) + came(&mut bench), 1, "the first goes into debt");
    bench.workers[0].on_event(0).unwrap();
    bench.workers[0].on_event(1).unwrap();
    assert_eq!(sent(&mut bench) + came(&mut bench), 0, "kicking does not help");
    bench.workers[0].start_polling().unwrap();
    assert_eq!(bench.workers[0].stop_polling().unwrap(), Polled::Idle, "what is held back is no reason to look on");
    bench.card.limits().unwrap().set(RateLimit::default()).unwrap();
    alarm(&mut bench);
    assert_eq!((sent(&mut bench), came(&mut bench)), (19, 20));
    assert_eq!(std::iter::from_fn(|| bench.receive()).count(), 20);
}
