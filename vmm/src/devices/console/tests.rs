//! virtio-console on the fake guest.

use std::sync::{Arc, Mutex};

use super::worker::{ARRIVED, RECEIVE, TRANSMIT};
use super::*;
use crate::virtio::testing::{BUFFERS, FakeDescriptor, FakeGuest};
use crate::virtio::{Device as _, GuestFault, Worker, WorkerError};

const RX: usize = 0;
const TX: usize = 1;

/// Keeps everything that was printed.
#[derive(Default)]
struct Paper(Mutex<Vec<u8>>);

impl ConsoleSink for Paper {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

struct Setup {
    guest: FakeGuest,
    console: Console,
    paper: Arc<Paper>,
    worker: Box<dyn Worker>,
}

fn active() -> Setup {
    let mut guest = FakeGuest::new();
    let paper = Arc::new(Paper::default());
    let mut console = Console::new("console0", paper.clone()).unwrap();
    let worker = guest.activate(&mut console, 0).unwrap().remove(0);
    Setup { guest, console, paper, worker }
}

impl Setup {
    fn printed(&self) -> Vec<u8> {
        std::mem::take(&mut *self.paper.0.lock().unwrap())
    }
}

#[test]
fn output_of_several_buffers_is_printed_in_order() {
    let mut s = active();
    s.guest.write(BUFFERS, b"hello, ");
    s.guest.write(BUFFERS + 0x100, b"world\n");
    s.guest.queues[TX].add(&[(BUFFERS, 7, false), (BUFFERS + 0x100, 6, false)]);
    s.worker.on_event(TRANSMIT).unwrap();
    assert_eq!(s.printed(), b"hello, world\n");
    assert_eq!(s.guest.queues[TX].used(), Some((0, 0)));
    assert_eq!(s.guest.interrupt.queue_count(), 1);
}

#[test]
fn a_huge_buffer_is_printed_over_several_turns() {
    let mut s = active();
    s.guest.write(BUFFERS, &vec![b'a'; 1 << 20]);
    s.guest.queues[TX].add(&[(BUFFERS, 1 << 20, false)]);
    let mut turns = 0;
    while s.guest.queues[TX].used().is_none() {
        s.worker.on_event(TRANSMIT).unwrap();
        turns += 1;
    }
    assert_eq!(turns, 16);
    assert_eq!(s.printed(), vec![b'a'; 1 << 20]);
}

#[test]
fn input_waits_for_buffers_and_buffers_wait_for_input() {
    let mut s = active();
    let input = s.console.handle().input();
    assert_eq!(input.push(b"ls -l\n"), 6);
    s.worker.on_event(ARRIVED).unwrap();
    s.guest.queues[RX].add(&[(BUFFERS, 2, true), (BUFFERS + 0x100, 2, true)]);
    s.guest.queues[RX].add(&[(BUFFERS + 0x200, 64, true)]);
    s.guest.queues[RX].add(&[(BUFFERS + 0x300, 64, true)]);
    s.worker.on_event(RECEIVE).unwrap();
    assert_eq!(s.guest.queues[RX].used(), Some((0, 4)));
    assert_eq!(s.guest.queues[RX].used(), Some((2, 2)));
    assert_eq!(s.guest.queues[RX].used(), None);
    assert_eq!([s.guest.read(BUFFERS, 2), s.guest.read(BUFFERS + 0x100, 2)].concat(), b"ls -");
    assert_eq!(s.guest.read(BUFFERS + 0x200, 2), b"l\n");
    input.push(b"q");
    s.worker.on_event(ARRIVED).unwrap();
    assert_eq!(s.guest.queues[RX].used(), Some((3, 1)));
}

#[test]
fn a_guest_that_does_not_read_holds_its_input_back() {
    let mut s = active();
    let input = s.console.handle().input();
    let typed = vec![b'x'; INPUT_BYTES + 10];
    assert_eq!(input.push(&typed), INPUT_BYTES);
    assert_eq!(input.push(b"y"), 0);
    s.worker.on_event(ARRIVED).unwrap();
    assert!(!readable(&input), "no room yet");
    s.guest.queues[RX].add(&[(BUFFERS, INPUT_BYTES as u32, true)]);
    s.worker.on_event(RECEIVE).unwrap();
    assert!(readable(&input), "room, and somebody was refused");
    input.clear_room();
    assert!(!readable(&input));
    assert_eq!(input.push(b"y"), 1);
}

/// Whether the room fd would wake a viewer.
fn readable(input: &ConsoleInput) -> bool {
    let before = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", input.room_fd())).unwrap();
    !before.contains("eventfd-count:                0")
}

#[test]
fn the_configuration_holds_the_size_and_takes_emergency_writes() {
    let mut s = active();
    s.console.handle().resize(ConsoleSize { columns: 132, rows: 43 });
    s.console.handle().resize(ConsoleSize { columns: 132, rows: 43 });
    assert_eq!(s.guest.interrupt.config_count(), 1, "told once of one change");
    let mut config = [0xff; 16];
    s.console.read_config(0, &mut config);
    assert_eq!(config, [132, 0, 43, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let mut high = [0xff; 2];
    s.console.read_config(2, &mut high);
    assert_eq!(high, [43, 0]);
    s.console.read_config(u64::MAX - 1, &mut config);
    assert_eq!(config, [0; 16]);
    for (offset, data) in [(8, &b"!\0\0\0"[..]), (8, b"?"), (0, b"x"), (9, b"x"), (8, b""), (u64::MAX, b"x")] {
        s.console.write_config(offset, data);
    }
    assert_eq!(s.printed(), b"!?");
}

#[test]
fn wrong_directions_go_back_without_effect() {
    let mut s = active();
    s.console.handle().input().push(b"in");
    s.guest.queues[RX].add(&[(BUFFERS, 8, false)]);
    s.guest.queues[TX].add(&[(BUFFERS, 8, true)]);
    s.worker.on_event(RECEIVE).unwrap();
    s.worker.on_event(TRANSMIT).unwrap();
    assert_eq!(s.guest.queues[RX].used(), Some((0, 0)));
    assert_eq!(s.guest.queues[TX].used(), Some((0, 0)));
    assert_eq!(s.printed(), b"");
    s.guest.queues[RX].add(&[(BUFFERS, 8, true)]);
    s.worker.on_event(RECEIVE).unwrap();
    assert_eq!(s.guest.queues[RX].used(), Some((1, 2)), "the input is still there");
}

#[test]
fn a_looped_chain_is_the_guests_fault_and_an_overlapping_one_is_not() {
    let mut s = active();
    s.guest.write(BUFFERS, b"abcd");
    s.guest.queues[TX].add(&[(BUFFERS, 4, false), (BUFFERS + 1, 2, false)]);
    s.worker.on_event(TRANSMIT).unwrap();
    assert_eq!(s.printed(), b"abcdbc");
    for (queue, token, flags) in [(RX, RECEIVE, 3), (TX, TRANSMIT, 1)] {
        s.guest.queues[queue].write_descriptor(9, FakeDescriptor { address: BUFFERS, len: 8, flags, next: 9 });
        s.guest.queues[queue].offer(9);
        let fault = s.worker.on_event(token);
        assert!(matches!(fault, Err(WorkerError::Guest(GuestFault::Loop { head: 9 }))), "{fault:?}");
    }
}

#[test]
fn a_reset_in_flight_keeps_what_was_typed() {
    let mut s = active();
    s.guest.queues[RX].add(&[(BUFFERS, 8, true)]);
    s.worker.on_event(RECEIVE).unwrap();
    drop(s.worker);
    s.console.reset();
    let handle = s.console.handle();
    handle.resize(ConsoleSize { columns: 80, rows: 25 });
    assert_eq!(s.guest.interrupt.config_count(), 0, "no driver, no interrupt");
    handle.input().push(b"later");
    let mut guest = FakeGuest::new();
    let mut worker = guest.activate(&mut s.console, 0).unwrap().remove(0);
    guest.queues[RX].add(&[(BUFFERS, 8, true)]);
    worker.on_event(RECEIVE).unwrap();
    assert_eq!(guest.queues[RX].used(), Some((0, 5)));
}

#[test]
fn a_pause_finishes_the_line_being_printed() {
    let mut s = active();
    s.guest.write(BUFFERS, &vec![b'a'; 100_000]);
    s.guest.queues[TX].add(&[(BUFFERS, 100_000, false)]);
    s.guest.queues[RX].add(&[(BUFFERS, 8, true)]);
    s.worker.on_event(RECEIVE).unwrap();
    s.worker.on_event(TRANSMIT).unwrap();
    s.worker.quiesce().unwrap();
    assert_eq!(s.printed(), vec![b'a'; 100_000]);
    s.console.handle().input().push(b"now");
    s.worker.resume().unwrap();
    assert_eq!(s.guest.queues[TX].used(), Some((0, 0)));
    assert_eq!(s.guest.queues[RX].used(), Some((0, 3)));
    assert_eq!(s.printed(), b"");
}
