//! virtio-balloon on the fake guest.

use super::device::{F_MUST_TELL_HOST, F_PAGE_REPORTING, F_STATS_VQ};
use super::worker::{DEFLATE, INFLATE, REPORTING, REQUESTED, STATISTICS};
use super::*;
use crate::memory::{GuestMemory, PAGE_SIZE};
use crate::virtio::testing::{BUFFERS, FakeDescriptor, FakeGuest, MEMORY_SIZE};
use crate::virtio::{Activation, Device as _, GuestFault, Worker, WorkerError};

const INFLATEQ: usize = 0;
const DEFLATEQ: usize = 1;
const STATSQ: usize = 2;
const REPORTINGQ: usize = 4;
const ALL: u64 = F_MUST_TELL_HOST | F_STATS_VQ | F_PAGE_REPORTING;

/// Where the tests' ballooned pages lie: behind the buffers.
const PAGES: u64 = 2 << 20;

struct Setup {
    guest: FakeGuest,
    balloon: Balloon,
    worker: Box<dyn Worker>,
}

fn active_with(options: BalloonOptions, features: u64) -> Setup {
    let mut guest = FakeGuest::new();
    let mut balloon = Balloon::new("balloon0", options).unwrap();
    let worker = guest.activate(&mut balloon, features).unwrap().remove(0);
    guest.memory.slice(PAGES, MEMORY_SIZE - PAGES).unwrap().write(0, &vec![7; (MEMORY_SIZE - PAGES) as usize]);
    Setup { guest, balloon, worker }
}

fn active() -> Setup {
    active_with(BalloonOptions::default(), ALL)
}

impl Setup {
    /// Lists pages by their addresses in one chain.
    fn list(&mut self, queue: usize, addresses: impl IntoIterator<Item = u64>) {
        let numbers: Vec<u8> =
            addresses.into_iter().flat_map(|a| u32::try_from(a / PAGE_SIZE).unwrap().to_le_bytes()).collect();
        self.guest.write(BUFFERS, &numbers);
        self.guest.queues[queue].add(&[(BUFFERS, numbers.len() as u32, false)]);
    }

    /// The balloon's queues are numbered as its first two tokens.
    fn inflate(&mut self, addresses: impl IntoIterator<Item = u64>) -> Result<(), WorkerError> {
        self.list(INFLATEQ, addresses);
        self.worker.on_event(INFLATE)
    }

    /// Which pages from [`PAGES`] on have been given back, of the first `count`.
    fn gone(&self, count: u64) -> Vec<u64> {
        (0..count).filter(|i| self.guest.read(PAGES + i * PAGE_SIZE, 1) == [0]).collect()
    }
}

#[test]
fn listed_pages_go_back_to_the_host_in_any_order() {
    let mut s = active();
    let page = |i: u64| PAGES + i * PAGE_SIZE;
    s.inflate([page(1), page(2), page(9), page(8), page(7), page(4), page(4)]).unwrap();
    assert_eq!(s.gone(12), [1, 2, 4, 7, 8, 9]);
    assert_eq!(s.guest.queues[INFLATEQ].used(), Some((0, 0)));
    assert_eq!(s.guest.interrupt.queue_count(), 1);
    s.list(DEFLATEQ, [page(1), page(9)]);
    s.worker.on_event(DEFLATE).unwrap();
    assert_eq!(s.guest.queues[DEFLATEQ].used(), Some((0, 0)));
    assert_eq!(s.balloon.counters()[INFLATEQ].snapshot().bytes, 7 * PAGE_SIZE);
}

#[test]
fn neighbours_in_two_regions_go_back_each_in_its_own() {
    use crate::memory::Backing;
    let memory = GuestMemory::map(&[(0, 0x4000), (0x4000, 0x4000)], Backing::default()).unwrap();
    for region in [0, 0x4000] {
        memory.slice(region, 0x4000).unwrap().write(0, &[7; 0x4000]);
    }
    let mut pages = pages::BalloonPages::new(memory, PAGE_SIZE);
    for number in 0..8 {
        pages.inflate(number).unwrap();
    }
    pages.flush().unwrap();
    for number in 0..8 {
        let page = memory.slice(number * PAGE_SIZE, 1).unwrap();
        assert_eq!(page.read_obj::<u8>(0), Some(0), "page {number}");
    }
}

#[test]
fn a_huge_page_goes_back_only_as_a_whole() {
    let mut s = active_with(BalloonOptions { page_bytes: 2 << 20, ..BalloonOptions::default() }, ALL);
    assert_ne!(s.balloon.features() & F_MUST_TELL_HOST, 0);
    let pages = |range: std::ops::Range<u64>| range.map(|i| PAGES + i * PAGE_SIZE);
    s.inflate(pages(0..500)).unwrap();
    s.list(DEFLATEQ, pages(3..4));
    s.worker.on_event(DEFLATE).unwrap();
    s.inflate(pages(500..512)).unwrap();
    assert!(s.gone(512).is_empty(), "page 3 is in use");
    s.inflate(pages(3..4)).unwrap();
    assert_eq!(s.gone(512).len(), 512);
}

#[test]
fn no_huge_page_goes_back_when_the_driver_may_use_pages_before_it_tells() {
    let options = BalloonOptions { page_bytes: 2 << 20, ..BalloonOptions::default() };
    let mut s = active_with(options, ALL & !F_MUST_TELL_HOST);
    s.inflate((0..512).map(|i| PAGES + i * PAGE_SIZE)).unwrap();
    assert!(s.gone(512).is_empty());
    assert_eq!(s.guest.queues[INFLATEQ].used(), Some((0, 0)));
}

#[test]
fn bad_lists_are_the_guests_fault() {
    let mut s = active();
    let fault = s.inflate([MEMORY_SIZE]);
    assert!(
        matches!(fault, Err(WorkerError::Guest(GuestFault::OutsideMemory { address: MEMORY_SIZE, .. }))),
        "{fault:?}"
    );
    let fault = active().inflate([u64::from(u32::MAX) * PAGE_SIZE]);
    assert!(matches!(fault, Err(WorkerError::Guest(GuestFault::OutsideMemory { .. }))), "{fault:?}");
    for (queue, token) in [(INFLATEQ, INFLATE), (DEFLATEQ, DEFLATE)] {
        let mut s = active();
        s.guest.queues[queue].add(&[(BUFFERS, 7, false)]);
        let fault = s.worker.on_event(token);
        assert!(matches!(fault, Err(WorkerError::Guest(GuestFault::Length { .. }))), "{fault:?}");
    }
    for (queue, token) in [(INFLATEQ, INFLATE), (DEFLATEQ, DEFLATE), (STATSQ, STATISTICS), (REPORTINGQ, REPORTING)] {
        let mut s = active();
        s.guest.queues[queue].write_descriptor(9, FakeDescriptor { address: BUFFERS, len: 8, flags: 1, next: 9 });
        s.guest.queues[queue].offer(9);
        let fault = s.worker.on_event(token);
        assert!(matches!(fault, Err(WorkerError::Guest(GuestFault::Loop { head: 9 }))), "{fault:?}");
    }
}

#[test]
fn overlapping_and_writable_buffers_do_no_harm() {
    let mut s = active();
    // The same four numbers twice, of pages that hold the list itself.
    let numbers: Vec<u8> = [256_u32, 256, 257, 256].iter().flat_map(|n| n.to_le_bytes()).collect();
    s.guest.write(BUFFERS, &numbers);
    s.guest.queues[INFLATEQ].add(&[(BUFFERS, 16, false), (BUFFERS, 16, false), (BUFFERS, 64, true)]);
    s.worker.on_event(INFLATE).unwrap();
    assert_eq!(s.guest.queues[INFLATEQ].used(), Some((0, 0)));
}

#[test]
fn reported_blocks_go_back_and_their_edges_stay() {
    let mut s = active();
    let block = |first: u64, count: u64| (PAGES + first * PAGE_SIZE, (count * PAGE_SIZE) as u32, true);
    let (ragged, len, _) = block(8, 3);
    s.guest.queues[REPORTINGQ].add(&[block(0, 2), block(4, 1), (ragged + 1, len - 2, true), (PAGES, 8, true)]);
    s.worker.on_event(REPORTING).unwrap();
    assert_eq!(s.gone(12), [0, 1, 4, 9]);
    assert_eq!(s.guest.queues[REPORTINGQ].used(), Some((0, 0)));
}

#[test]
fn reporting_is_found_where_drivers_put_it() {
    for (features, enabled, reporting) in
        [(ALL, &[0, 1, 2, 4][..], 4), (ALL, &[0, 1, 2, 3], 3), (F_PAGE_REPORTING, &[0, 1, 2], 2)]
    {
        let mut guest = FakeGuest::new();
        let mut balloon = Balloon::new("balloon0", BalloonOptions::default()).unwrap();
        let queues = (0..5).map(|i| Some(guest.add_queue(8, false)).filter(|_| enabled.contains(&i))).collect();
        let (memory, interrupt) = (guest.memory, guest.interrupt.clone());
        let mut worker = balloon.activate(Activation { memory, queues, interrupt, features }).unwrap().remove(0);
        guest.write(PAGES, &[7]);
        guest.queues[reporting].add(&[(PAGES, 4096, true)]);
        worker.on_event(REPORTING).unwrap();
        assert_eq!(guest.read(PAGES, 1), [0], "{enabled:?}");
        assert!(guest.queues[reporting].used().is_some(), "{enabled:?}");
    }
}

/// Entries as a driver writes them.
fn entries(list: &[(u16, u64)]) -> Vec<u8> {
    list.iter().flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()).collect()
}

#[test]
fn statistics_are_read_kept_and_asked_for() {
    let mut s = active();
    let handle = s.balloon.handle();
    handle.request_statistics();
    s.worker.on_event(REQUESTED).unwrap();
    assert_eq!(handle.statistics().answered, None);

    let mut bytes = entries(&[(4, 1000), (5, 2000), (0xfff0, 3), (4, 1001)]);
    bytes.extend([6, 0, 1]);
    s.guest.write(BUFFERS, &bytes);
    s.guest.queues[STATSQ].add(&[(BUFFERS, bytes.len() as u32, false)]);
    s.worker.on_event(STATISTICS).unwrap();
    let said = handle.statistics();
    assert_eq!((said.free_bytes, said.total_bytes, said.available_bytes), (Some(1001), Some(2000), None));
    assert_eq!(s.guest.queues[STATSQ].used(), None, "the buffer stays until it is wanted");

    handle.request_statistics();
    s.worker.on_event(REQUESTED).unwrap();
    assert_eq!(s.guest.queues[STATSQ].used(), Some((0, 0)));
    s.guest.write(BUFFERS, &entries(&[(9, 5)]));
    s.guest.queues[STATSQ].add(&[(BUFFERS, 10, false)]);
    s.worker.on_event(STATISTICS).unwrap();
    let fresh = handle.statistics();
    assert_eq!((fresh.huge_page_failures, fresh.free_bytes), (Some(5), None));
    assert!(fresh.answered >= said.answered);
}

#[test]
fn of_two_statistics_buffers_the_first_goes_back() {
    let mut s = active();
    s.guest.queues[STATSQ].add(&[(BUFFERS, 10, false)]);
    s.guest.queues[STATSQ].add(&[(BUFFERS, 10, false)]);
    s.worker.on_event(STATISTICS).unwrap();
    assert_eq!(s.guest.queues[STATSQ].used(), Some((0, 0)));
    assert_eq!(s.guest.queues[STATSQ].used(), None);
}

#[test]
fn the_target_is_told_and_the_size_is_heard() {
    let mut s = active();
    let handle = s.balloon.handle();
    handle.set_target_bytes((64 << 20) + 5);
    handle.set_target_bytes(64 << 20);
    assert_eq!(s.guest.interrupt.config_count(), 1, "told once of one change");
    let mut config = [0xff; 12];
    s.balloon.read_config(0, &mut config);
    assert_eq!(config, [0, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    s.balloon.write_config(4, &0x1234_u32.to_le_bytes());
    assert_eq!(handle.actual_bytes(), 0x1234 << 12);
    // Byte by byte, beyond both ends, and where nothing can be written.
    s.balloon.write_config(5, &[0x56]);
    s.balloon.write_config(2, &[9, 9, 0x78]);
    s.balloon.write_config(7, &[0, 9, 9]);
    s.balloon.write_config(u64::MAX, &[9; 8]);
    assert_eq!(handle.actual_bytes(), 0x5678 << 12);
    assert_eq!(handle.target_bytes(), 64 << 20);
    handle.set_target_bytes(u64::MAX);
    assert_eq!(handle.target_bytes(), u64::from(u32::MAX) << 12);
}

#[test]
fn a_reset_in_flight_forgets_the_balloon_but_not_the_target() {
    let mut s = active();
    s.guest.queues[STATSQ].add(&[(BUFFERS, 10, false)]);
    s.worker.on_event(STATISTICS).unwrap();
    s.balloon.write_config(4, &[1, 0, 0, 0]);
    drop(s.worker);
    s.balloon.reset();
    let handle = s.balloon.handle();
    handle.set_target_bytes(PAGE_SIZE);
    assert_eq!((handle.actual_bytes(), s.guest.interrupt.config_count()), (0, 0));
    let mut guest = FakeGuest::new();
    let mut worker = guest.activate(&mut s.balloon, ALL).unwrap().remove(0);
    handle.request_statistics();
    worker.on_event(REQUESTED).unwrap();
    assert_eq!(guest.queues[STATSQ].used(), None, "the old driver's buffer is gone");
    assert_eq!(handle.target_bytes(), PAGE_SIZE);
}

#[test]
fn a_pause_leaves_nothing_half_done() {
    let mut s = active();
    s.guest.queues[STATSQ].add(&[(BUFFERS, 10, false)]);
    s.worker.on_event(STATISTICS).unwrap();
    // More numbers than one turn takes.
    let list = 0x18_0000;
    let numbers: Vec<u8> = (0..2000).flat_map(|i| (512 + i % 512_u32).to_le_bytes()).collect();
    s.guest.write(list, &numbers);
    s.guest.queues[INFLATEQ].add(&[(list, 8000, false)]);
    s.worker.on_event(INFLATE).unwrap();
    assert_eq!(s.guest.queues[INFLATEQ].used(), None);
    s.worker.quiesce().unwrap();
    assert_eq!(s.guest.queues[INFLATEQ].used(), Some((0, 0)));
    s.worker.resume().unwrap();
    s.balloon.handle().request_statistics();
    s.worker.on_event(REQUESTED).unwrap();
    assert_eq!(s.guest.queues[STATSQ].used(), Some((0, 0)), "the buffer was kept over the pause");
}
