//! virtio-blk on the fake guest and on real files.

use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;

use virtio_bindings::bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO};

use super::worker::{ALARM, COMPLETION, KICK};
use super::*;
use crate::backend::disk::open::{DiskAccess, DiskFile};
use crate::backend::disk::raw::{RawDisk, Ways};
use crate::virtio::rate_limit::RateLimit;
use crate::virtio::testing::{BUFFERS, FakeDescriptor, FakeGuest};
use crate::virtio::{Device as _, GuestFault, Polled, Worker, WorkerError};

const SIZE: u64 = 1 << 20;
const FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
const HEADER: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x20_0000;
const IN: u32 = 0;
const OUT: u32 = 1;
const SYNC: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const ZEROES: u32 = 13;

/// Address, length, device-writable.
type Buffers<'a> = &'a [(u64, u32, bool)];

struct Bench {
    guest: FakeGuest,
    block: Block,
    workers: Vec<Box<dyn Worker>>,
    file: tempfile::NamedTempFile,
}

fn attach(access: DiskAccess, queues: u16, limit: RateLimit) -> (Block, tempfile::NamedTempFile) {
    let binary = std::env::current_exe().unwrap();
    let file = tempfile::NamedTempFile::new_in(binary.parent().unwrap()).unwrap();
    file.as_file().write_all_at(&vec![0xaa; SIZE as usize], 0).unwrap();
    let disk = RawDisk::new(DiskFile::open(file.path(), access).unwrap(), Ways::Both).unwrap();
    let options = BlockOptions { id: "disk0".into(), serial: "QX-1".into(), queues, limit };
    (Block::new(Box::new(disk), options).unwrap(), file)
}

impl Bench {
    fn new(access: DiskAccess, features: u64) -> Self {
        let (mut block, file) = attach(access, 1, RateLimit::default());
        let mut guest = FakeGuest::new();
        let workers = guest.activate(&mut block, features).unwrap();
        Self { guest, block, workers, file }
    }

    fn header(&self, kind: u32, sector: u64) {
        self.guest.write(HEADER, &[&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat());
        self.guest.write(STATUS, &[0xff]);
    }

    /// Offers a request with these data buffers and runs it to its end; its status.
    fn request(&mut self, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> u8 {
        self.header(kind, sector);
        let chain = [&[(HEADER, 16, false)][..], data, &[(STATUS, 1, true)]].concat();
        let head = self.guest.queues[0].add(&chain);
        self.settle();
        let written: u32 = data.iter().filter(|d| d.2).map(|d| d.1).sum();
        assert_eq!(self.guest.queues[0].used(), Some((u32::from(head), written + 1)), "{kind} {sector} {data:?}");
        self.guest.read(STATUS, 1)[0]
    }

    fn settle(&mut self) {
        self.workers[0].on_event(KICK).unwrap();
        self.workers[0].quiesce().unwrap();
        self.workers[0].resume().unwrap();
    }

    fn fault(&mut self) -> GuestFault {
        match self.workers[0].on_event(KICK) {
            Err(WorkerError::Guest(fault)) => fault,
            other => panic!("no fault of the guest but {other:?}"),
        }
    }
}

const BUFFERED: DiskAccess = DiskAccess { read_only: false, direct: false };
const DIRECT: DiskAccess = DiskAccess { read_only: false, direct: true };
const READ_ONLY: DiskAccess = DiskAccess { read_only: true, direct: false };

#[test]
fn data_goes_to_the_disk_and_comes_back() {
    for access in [BUFFERED, DIRECT] {
        let mut bench = Bench::new(access, FLUSH);
        let bytes: Vec<u8> = (0..8192_u32).map(|i| (i / 3) as u8).collect();
        bench.guest.write(DATA, &bytes);
        assert_eq!(bench.request(OUT, 8, &[(DATA, 512, false), (DATA + 512, 7680, false)]), 0);
        assert_eq!(bench.request(SYNC, 0, &[]), 0);
        let mut on_disk = vec![0; 8192];
        bench.file.as_file().read_exact_at(&mut on_disk, 4096).unwrap();
        assert_eq!(on_disk, bytes, "{access:?}");
        bench.guest.write(DATA, &[0; 8192]);
        assert_eq!(bench.request(IN, 8, &[(DATA, 4096, true), (DATA + 4096, 4096, true)]), 0);
        assert_eq!(bench.guest.read(DATA, 8192), bytes);
        let counted = bench.block.counters()[0].snapshot();
        assert_eq!((counted.operations, counted.bytes, counted.errors), (3, 16384, 0));
        assert_eq!(counted.latency.iter().sum::<u64>(), 3);
        assert!(bench.guest.interrupt.queue_count() >= 3);
    }
}

#[test]
fn the_serial_number_is_told_cut_or_padded() {
    let mut bench = Bench::new(BUFFERED, FLUSH);
    bench.guest.write(DATA, &[0xee; 24]);
    assert_eq!(bench.request(GET_ID, 0, &[(DATA, 20, true)]), 0);
    assert_eq!(&bench.guest.read(DATA, 21)[..], b"QX-1\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xee");
    assert_eq!(bench.request(GET_ID, 0, &[(DATA, 2, true)]), 0);
    assert_eq!(bench.guest.read(STATUS, 1), [0]);
}

#[test]
fn discard_and_write_zeroes_take_one_checked_segment() {
    let mut bench = Bench::new(BUFFERED, FLUSH);
    let segment = |sector: u64, sectors: u32, flags: u32| {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    };
    let disk_end = SIZE / 512;
    for (kind, bytes, status) in [
        (ZEROES, segment(8, 8, 0), 0),
        (ZEROES, segment(8, 8, 1), 0),
        (DISCARD, segment(16, 8, 0), 0),
        (DISCARD, segment(16, 8, 1), 2),
        (ZEROES, segment(16, 8, 2), 2),
        (ZEROES, segment(disk_end, 1, 0), 1),
        (DISCARD, segment(u64::MAX, 1, 0), 1),
        (DISCARD, segment(0, u32::MAX, 0), 1),
        (DISCARD, segment(0, 1, 0)[..8].to_vec(), 1),
        (DISCARD, vec![0; 32], 1),
    ] {
        bench.guest.write(DATA, &bytes);
        assert_eq!(bench.request(kind, 0, &[(DATA, bytes.len() as u32, false)]), status, "{kind} {bytes:?}");
    }
    let disk = std::fs::read(bench.file.path()).unwrap();
    assert!(disk.iter().enumerate().all(|(i, b)| *b == if (4096..12288).contains(&i) { 0 } else { 0xaa }));
}

#[test]
fn a_request_off_the_disk_or_of_no_known_kind_is_answered_not_faulted() {
    let mut bench = Bench::new(BUFFERED, FLUSH);
    for (kind, sector, data, status) in [
        (IN, SIZE / 512, (DATA, 512, true), 1),
        (IN, SIZE / 512 - 1, (DATA, 1024, true), 1),
        (OUT, u64::MAX, (DATA, 512, false), 1),
        (OUT, u64::MAX / 512, (DATA, 512, false), 1),
        (IN, 0, (DATA, 511, true), 1),
        (99, 0, (DATA, 512, true), 2),
        (u32::MAX, 0, (DATA, 512, false), 2),
    ] {
        assert_eq!(bench.request(kind, sector, &[data]), status, "{kind} {sector}");
    }
    assert_eq!(bench.block.counters()[0].snapshot().errors, 7);
    let mut bench = Bench::new(READ_ONLY, FLUSH);
    assert_eq!(bench.request(IN, 0, &[(DATA, 512, true)]), 0);
    assert_eq!(bench.request(OUT, 0, &[(DATA, 512, false)]), 1);
    assert_eq!(bench.request(ZEROES, 0, &[(DATA, 16, false)]), 2);
    assert!(std::fs::read(bench.file.path()).unwrap().iter().all(|b| *b == 0xaa));
}

#[test]
fn short_and_misdirected_chains_are_the_guests_fault() {
    let status = (STATUS, 1, true);
    let cases: [(&str, u32, Buffers<'_>); 6] = [
        ("nothing to write to", IN, &[(HEADER, 16, false)]),
        ("an empty status", IN, &[(HEADER, 16, false), (STATUS, 0, true)]),
        ("half a header", IN, &[(HEADER, 15, false), status]),
        ("no header", IN, &[status]),
        ("a read from readable data", IN, &[(HEADER, 16, false), (DATA, 512, false), status]),
        ("a write to writable data", OUT, &[(HEADER, 16, false), (DATA, 512, true), status]),
    ];
    for (what, kind, chain) in cases {
        let mut bench = Bench::new(BUFFERED, FLUSH);
        bench.header(kind, 0);
        bench.guest.queues[0].add(chain);
        let fault = bench.fault();
        assert!(matches!(fault, GuestFault::Length { .. } | GuestFault::Protocol(_)), "{what}: {fault}");
        assert_eq!(bench.guest.queues[0].used(), None, "{what}");
    }
}

#[test]
fn a_looped_chain_faults_and_an_overlapping_one_hurts_only_the_guest() {
    let mut bench = Bench::new(BUFFERED, FLUSH);
    assert_eq!(bench.request(IN, 0, &[(DATA, 512, true), (DATA + 256, 512, true), (HEADER, 512, true)]), 0);
    bench.header(IN, 0);
    bench.guest.queues[0].write_descriptor(9, FakeDescriptor { address: HEADER, len: 16, flags: 1, next: 10 });
    bench.guest.queues[0].write_descriptor(10, FakeDescriptor { address: DATA, len: 512, flags: 3, next: 10 });
    bench.guest.queues[0].offer(9);
    assert_eq!(bench.fault(), GuestFault::Loop { head: 9 });
}

#[test]
fn a_scattered_header_and_a_status_behind_data_are_read_as_bytes() {
    let mut bench = Bench::new(BUFFERED, FLUSH);
    bench.header(IN, 0);
    let chain = [(HEADER, 3, false), (HEADER + 3, 13, false), (DATA, 300, true), (DATA + 300, 213, true)];
    bench.guest.queues[0].add(&chain);
    bench.settle();
    assert_eq!(bench.guest.queues[0].used(), Some((0, 513)));
    assert_eq!(bench.guest.read(DATA, 514), [&[0xaa; 512][..], &[0, 0]].concat());
}

#[test]
fn a_reset_in_flight_gives_the_back_end_to_the_next_worker() {
    let mut bench = Bench::new(DIRECT, FLUSH);
    bench.header(IN, 0);
    for _ in 0..32 {
        bench.guest.queues[0].add(&[(HEADER, 16, false), (DATA, 4096, true), (STATUS, 1, true)]);
    }
    bench.workers[0].on_event(KICK).unwrap();
    bench.workers.clear();
    // The kernel is done with the guest's memory: what the guest writes there now stays.
    bench.guest.write(DATA, &[0x11; 4096]);
    bench.block.reset();
    let mut guest = FakeGuest::new();
    bench.workers = guest.activate(&mut bench.block, FLUSH).unwrap();
    assert_eq!(bench.guest.read(DATA, 4096), [0x11; 4096]);
    bench.guest = guest;
    assert_eq!(bench.request(IN, 0, &[(DATA, 512, true)]), 0);
    assert_eq!(bench.guest.read(DATA, 512), [0xaa; 512]);
}

#[test]
fn a_pause_leaves_nothing_in_flight_and_work_goes_on_after_it() {
    let mut bench = Bench::new(DIRECT, FLUSH);
    bench.header(IN, 0);
    for _ in 0..16 {
        bench.guest.queues[0].add(&[(HEADER, 16, false), (DATA, 4096, true), (STATUS, 1, true)]);
    }
    bench.workers[0].on_event(KICK).unwrap();
    bench.workers[0].quiesce().unwrap();
    let mut answered: Vec<_> = std::iter::from_fn(|| bench.guest.queues[0].used()).collect();
    answered.sort_unstable();
    assert_eq!(answered, (0..16).map(|i| (i * 3, 4097)).collect::<Vec<_>>());
    bench.guest.queues[0].add(&[(HEADER, 16, false), (DATA, 4096, true), (STATUS, 1, true)]);
    bench.workers[0].resume().unwrap();
    bench.workers[0].quiesce().unwrap();
    assert!(bench.guest.queues[0].used().is_some());
}

#[test]
fn completions_arrive_by_their_fd_and_by_polling() {
    let mut bench = Bench::new(DIRECT, FLUSH);
    bench.header(IN, 0);
    let sources = bench.workers[0].sources();
    let completion = sources.iter().find(|s| s.token == COMPLETION).unwrap().fd;
    bench.workers[0].start_polling().unwrap();
    for round in 0..4 {
        bench.guest.queues[0].add(&[(HEADER, 16, false), (DATA, 4096, true), (STATUS, 1, true)]);
        let mut answered = None;
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while answered.is_none() {
            assert!(std::time::Instant::now() < deadline, "round {round}");
            if round % 2 == 0 {
                bench.workers[0].poll().unwrap();
            } else {
                assert_eq!(bench.workers[0].stop_polling().unwrap(), Polled::Worked);
                wait_readable(completion);
                bench.workers[0].on_event(COMPLETION).unwrap();
                bench.workers[0].start_polling().unwrap();
            }
            answered = bench.guest.queues[0].used();
        }
        assert_eq!(answered, Some((round * 3, 4097)));
    }
}

/// Waits until an fd is readable; fails after five seconds.
fn wait_readable(fd: std::os::fd::RawFd) {
    use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
    let epoll = Epoll::new().unwrap();
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, 0)).unwrap();
    let mut events = [EpollEvent::default()];
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while epoll.wait(1000, &mut events).unwrap_or(0) == 0 {
        assert!(std::time::Instant::now() < deadline, "fd {fd} does not become readable");
    }
}

#[test]
fn a_limit_holds_requests_back_until_its_alarm_and_can_be_lifted() {
    let limit = RateLimit { operations: NonZeroU64::new(1), bytes: None };
    let (mut block, _file) = attach(BUFFERED, 1, limit);
    let mut guest = FakeGuest::new();
    let mut workers = guest.activate(&mut block, FLUSH).unwrap();
    guest.write(HEADER, &[0; 16]);
    for _ in 0..40 {
        guest.queues[0].add(&[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    }
    workers[0].on_event(KICK).unwrap();
    let count = |guest: &mut FakeGuest| std::iter::from_fn(|| guest.queues[0].used()).count();
    assert_eq!(count(&mut guest), 1, "the first goes into debt");
    workers[0].on_event(KICK).unwrap();
    assert_eq!(count(&mut guest), 0, "kicking does not help");
    let alarm = workers[0].sources().iter().find(|s| s.token == ALARM).unwrap().fd;
    wait_readable(alarm);
    workers[0].on_event(ALARM).unwrap();
    assert_eq!(count(&mut guest), 1);
    block.limits().set(RateLimit::default()).unwrap();
    wait_readable(alarm);
    workers[0].on_event(ALARM).unwrap();
    assert_eq!(count(&mut guest), 38);
}

#[test]
fn a_driver_without_flush_gets_every_write_made_durable() {
    let mut bench = Bench::new(BUFFERED, 0);
    bench.guest.write(DATA, &[7; 512]);
    assert_eq!(bench.request(OUT, 0, &[(DATA, 512, false)]), 0);
    bench.header(OUT, 1);
    bench.guest.queues[0].add(&[(HEADER, 16, false), (DATA, 512, false), (STATUS, 1, true)]);
    bench.workers[0].on_event(KICK).unwrap();
    let answered_at_once = bench.guest.queues[0].used().is_some();
    bench.workers[0].quiesce().unwrap();
    assert!(!answered_at_once && bench.guest.queues[0].used().is_some(), "the answer waits for the flush");
}

#[test]
fn each_queue_has_a_worker_and_the_driver_is_told() {
    let (mut block, _file) = attach(READ_ONLY, 3, RateLimit::default());
    assert_eq!(
        block.features() & (1 << VIRTIO_BLK_F_MQ | 1 << VIRTIO_BLK_F_RO),
        1 << VIRTIO_BLK_F_MQ | 1 << VIRTIO_BLK_F_RO
    );
    let mut config = [0xff; 64];
    block.read_config(0, &mut config);
    assert_eq!(config[..8], (SIZE / 512).to_le_bytes());
    assert_eq!(config[34..36], 3_u16.to_le_bytes());
    assert_eq!(config[36..64], [0; 28], "no discard on a read-only disk, nothing behind the end");
    let mut guest = FakeGuest::new();
    let mut workers = guest.activate(&mut block, FLUSH).unwrap();
    assert_eq!(workers.len(), 3);
    guest.write(HEADER, &[0; 16]);
    for (queue, worker) in workers.iter_mut().enumerate() {
        guest.queues[queue].add(&[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
        worker.on_event(KICK).unwrap();
        worker.quiesce().unwrap();
        assert_eq!(guest.queues[queue].used(), Some((0, 513)));
    }
}
