//! Measures disk back ends without a guest: which way costs what for a request.
//!
//! `cargo run --release --example disk_ways FILE [qcow2] [direct]`. FILE is overwritten. Its page cache is warmed first, unless
//! I/O is direct.

#![allow(clippy::unwrap_used, clippy::cast_precision_loss)]

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use quantix_vmm::backend::disk::chain::Backing as BackingFiles;
use quantix_vmm::backend::disk::open::{DiskAccess, DiskFile};
use quantix_vmm::backend::disk::qcow2::Qcow2Disk;
use quantix_vmm::backend::disk::raw::{RawDisk, Ways};
use quantix_vmm::backend::disk::{Disk, DiskQueue, DiskRequest, Started};
use quantix_vmm::memory::{Backing, GuestMemory, GuestSlice};

/// How long each figure is measured.
const TIME: Duration = Duration::from_millis(700);
const DEPTH: u16 = 32;

/// One kind of load.
struct Load {
    name: &'static str,
    size: u64,
    depth: u16,
    write: bool,
    random: bool,
}

const LOADS: [Load; 6] = [
    Load { name: "4k random read", size: 4096, depth: 1, write: false, random: true },
    Load { name: "4k random read", size: 4096, depth: 32, write: false, random: true },
    Load { name: "4k random write", size: 4096, depth: 1, write: true, random: true },
    Load { name: "4k random write", size: 4096, depth: 32, write: true, random: true },
    Load { name: "128k sequential read", size: 128 << 10, depth: 8, write: false, random: false },
    Load { name: "128k sequential write", size: 128 << 10, depth: 8, write: true, random: false },
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = Path::new(arguments.first().expect("the first argument is the file to use"));
    let has = |word: &str| arguments.iter().any(|a| a == word);
    let access = DiskAccess { read_only: false, direct: has("direct") };
    if has("qcow2") {
        measure_all("qcow2", &Qcow2Disk::open(path, access, BackingFiles::Beside).unwrap());
        return;
    }
    for ways in [Ways::Both, Ways::RingOnly, Ways::InlineOnly] {
        let disk = RawDisk::new(DiskFile::open(path, access).unwrap(), ways).unwrap();
        measure_all(&format!("{ways:?}"), &disk);
    }
}

fn measure_all(name: &str, disk: &dyn Disk) {
    let memory = GuestMemory::map(&[(0, 8 << 20)], Backing { prefault: true, ..Backing::default() }).unwrap();
    let mut queue = disk.open_queue(DEPTH).unwrap();
    let capacity = disk.shape().capacity_bytes;
    let whole = memory.slice(0, 1 << 20).unwrap();
    for at in 0..capacity >> 20 {
        finish(queue.as_mut(), DiskRequest::Read { offset: at << 20, to: &[whole] });
    }
    for load in &LOADS {
        let buffers: Vec<_> =
            (0..u64::from(load.depth)).map(|i| memory.slice(i * load.size, load.size).unwrap()).collect();
        let (cpu, start) = (cpu_time(), Instant::now());
        let count = run(queue.as_mut(), load, &buffers, capacity);
        let (cpu, elapsed) = (cpu_time().saturating_sub(cpu), start.elapsed());
        let each = |time: Duration| time.as_secs_f64() * 1e6 / count as f64;
        println!(
            "{name:<11} {:<22} depth {:<3} {:>8.0} kIOPS {:>6.2} GB/s {:>7.2} µs each, {:>6.2} µs of it CPU",
            load.name,
            load.depth,
            count as f64 / elapsed.as_secs_f64() / 1e3,
            (count * load.size) as f64 / elapsed.as_secs_f64() / 1e9,
            each(elapsed),
            each(cpu),
        );
    }
    finish(queue.as_mut(), DiskRequest::Flush);
}

fn run(queue: &mut dyn DiskQueue, load: &Load, buffers: &[GuestSlice], capacity: u64) -> u64 {
    let blocks = capacity / load.size;
    let (mut count, mut random) = (0_u64, 0x1234_5678_9abc_def1_u64);
    let end = Instant::now() + TIME;
    while Instant::now() < end {
        for buffer in buffers {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let offset = if load.random { random % blocks } else { count % blocks } * load.size;
            let buffers = std::slice::from_ref(buffer);
            let request = if load.write {
                DiskRequest::Write { offset, from: buffers }
            } else {
                DiskRequest::Read { offset, to: buffers }
            };
            if let Started::Done(result) = queue.start(request, 0) {
                result.unwrap();
            }
            count += 1;
        }
        queue.submit().unwrap();
        queue.drain(&mut |_, result| assert!(result.is_ok())).unwrap();
    }
    count
}

fn finish(queue: &mut dyn DiskQueue, request: DiskRequest<'_>) {
    if let Started::Done(result) = queue.start(request, 0) {
        result.unwrap();
        return;
    }
    queue.submit().unwrap();
    queue.drain(&mut |_, result| assert!(result.is_ok())).unwrap();
}

/// CPU time of the process, the kernel's threads for its rings included.
fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let time =
        |t: nix::sys::time::TimeVal| Duration::from_micros((t.tv_sec() * 1_000_000 + t.tv_usec()).cast_unsigned());
    time(usage.user_time()) + time(usage.system_time())
}
