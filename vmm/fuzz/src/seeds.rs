//! The seed corpus: for each target some inputs that reach its ordinary paths, so that mutation starts behind them.
//!
//! `make seeds` writes them to `corpus/TARGET/NAME`. They are committed: fuzzing needs no generator, and a change of an
//! operation's encoding shows as a change of files.

use serde::Serialize;

use crate::bus::{BusOp, FIRST_BAR};
use crate::driver::{Buffer, DriverOp, RingOp};
use crate::legacy::LegacyOp;
use crate::vsock::{PacketOp, driver_ops, header};
use quantix_vmm::virtio::testing::BUFFERS;

/// One input.
pub struct Seed {
    /// The fuzz target it is for.
    pub target: &'static str,
    /// Its file's name.
    pub name: &'static str,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// All seeds of all targets.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let mut add = |target, name, bytes| seeds.push(Seed { target, name, bytes });
    for (target, list) in devices() {
        for (name, ops) in list.into_iter().chain([("loop", broken_rings()), ("indirect", indirect())]) {
            add(target, name, encode(&ops));
        }
    }
    for (how, name, ops) in block() {
        // Its first byte says what disk it is on.
        add("queue_block", name, [vec![how], encode(&ops)].concat());
    }
    for (name, ops) in packets() {
        add("vsock_packets", name, encode(&ops));
    }
    for (name, ops) in registers() {
        add("pci_registers", name, encode(&ops));
        add("pci_config", name, encode(&ops));
    }
    for (name, ops) in legacy() {
        add("legacy_devices", name, encode(&ops));
    }
    for (name, bytes) in images() {
        add("boot_image", name, bytes);
    }
    for (name, text) in CONFIGURATIONS {
        add("machine_config", name, text.as_bytes().to_vec());
    }
    seeds
}

fn encode<T: Serialize>(ops: &[T]) -> Vec<u8> {
    let encoded = ops.iter().map(|op| postcard::to_stdvec(op).expect("plain data can be encoded"));
    encoded.collect::<Vec<_>>().concat()
}

fn readable(at: u32, len: u32) -> Buffer {
    Buffer { at, len, writable: false }
}

fn writable(at: u32, len: u32) -> Buffer {
    Buffer { at, len, writable: true }
}

fn ring(queue: u8, op: RingOp) -> DriverOp {
    DriverOp::Ring { queue, op }
}

fn chain(queue: u8, buffers: &[Buffer]) -> DriverOp {
    ring(queue, RingOp::Chain(buffers.to_vec()))
}

/// Writes into the buffer area.
fn buffer(at: u32, bytes: &[u8]) -> DriverOp {
    DriverOp::Memory { at: BUFFERS as u32 + at, bytes: bytes.to_vec() }
}

fn reset(event_idx: bool) -> DriverOp {
    DriverOp::Reset { features: u64::MAX, queues: u16::MAX, event_idx }
}

type Named = Vec<(&'static str, Vec<DriverOp>)>;

/// What an honest driver of each device sends.
fn devices() -> Vec<(&'static str, Named)> {
    vec![
        ("queue_rng", rng()),
        ("queue_console", console()),
        ("queue_balloon", balloon()),
        ("queue_net", net()),
        ("queue_vsock", vsock()),
    ]
}

fn rng() -> Named {
    let request = chain(0, &[writable(0, 64), writable(0x1000, 5000)]);
    let many = [vec![request.clone(); 20], vec![DriverOp::Event(0), DriverOp::Event(1)]].concat();
    vec![
        ("honest", vec![request.clone(), DriverOp::Event(0), DriverOp::Event(1)]),
        ("many", many),
        ("lifecycle", vec![reset(true), request.clone(), DriverOp::Pause, request, DriverOp::Event(0), reset(false)]),
    ]
}

fn console() -> Named {
    let print = [buffer(0, b"login: "), chain(1, &[readable(0, 7), readable(2, 2)]), DriverOp::Event(1)];
    let typed = [DriverOp::Host(b"root\n".to_vec()), chain(0, &[writable(0x100, 3), writable(0x200, 64)])];
    let config = DriverOp::WriteConfig { offset: 8, bytes: vec![b'!', 0, 0, 0] };
    vec![
        ("print", print.to_vec()),
        ("type", [typed.to_vec(), vec![DriverOp::Event(2), DriverOp::Event(0)]].concat()),
        ("emergency", vec![config, DriverOp::ReadConfig { offset: 0, len: 12 }]),
        ("long", vec![chain(1, &[readable(0, 200_000)]), DriverOp::Event(1), DriverOp::Pause, reset(true)]),
    ]
}

fn balloon() -> Named {
    let first = (BUFFERS >> 12) as u32;
    let numbers: Vec<u8> = (first..first + 64).flat_map(u32::to_le_bytes).collect();
    let pages =
        |queue, event| [buffer(0x8000, &numbers), chain(queue, &[readable(0x8000, 256)]), DriverOp::Event(event)];
    let statistics: Vec<u8> = (0..12_u16).flat_map(|tag| [&tag.to_le_bytes()[..], &[1; 8]].concat()).collect();
    let ask =
        [buffer(0, &statistics), chain(2, &[readable(0, 120)]), DriverOp::Event(4), DriverOp::Host(vec![1, 0, 0])];
    vec![
        ("inflate", pages(0, 0).to_vec()),
        ("deflate", [pages(0, 0), pages(1, 1)].concat()),
        ("huge", [pages(0, 0).to_vec(), vec![DriverOp::Host(vec![1; 3])]].concat()),
        ("statistics", [ask.to_vec(), vec![DriverOp::Event(2), DriverOp::Event(4), DriverOp::Pause]].concat()),
        ("report", vec![chain(4, &[writable(0, 0x8000), writable(0x9001, 0x1fff)]), DriverOp::Event(5)]),
        (
            "config",
            vec![DriverOp::WriteConfig { offset: 4, bytes: vec![9; 4] }, DriverOp::ReadConfig { offset: 0, len: 16 }],
        ),
    ]
}

/// Two pairs: receive queues 0 and 2, transmit queues 1 and 3, control queue 4. Worker 0 has three sources: kicks of both
/// its queues and its wire; so has worker 1.
fn net() -> Named {
    let events: Vec<_> = (0..7).map(DriverOp::Event).collect();
    let frame = [vec![0; 12], vec![0xff; 6], vec![2, 0, 0, 0, 0, 1, 8, 0], vec![0x45; 50]].concat();
    let send = [buffer(0, &frame), chain(1, &[readable(0, 12), readable(12, 64)]), chain(3, &[readable(0, 76)])];
    // A header that asks for a checksum and for segmentation (section 5.1.6).
    let segmented = [buffer(0, &[1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]), chain(1, &[readable(0, 3000)])];
    let receive =
        [chain(0, &[writable(0x1000, 1600)]), chain(0, &[writable(0x2000, 40)]), chain(2, &[writable(0x3000, 70)])];
    // Class 4 (queue pairs), command 0 (set), 2 pairs.
    let control =
        [buffer(0x400, &[4, 0, 2, 0]), chain(4, &[readable(0x400, 2), readable(0x402, 2), writable(0x410, 1)])];
    let host = [DriverOp::Host(frame)];
    vec![
        ("send", [&send[..], &events, &[DriverOp::Pause]].concat()),
        ("segmented", [&segmented[..], &events].concat()),
        ("receive", [&receive[..], &host, &events, &host, &events].concat()),
        ("control", [&control[..], &events, &[DriverOp::Poll(0), DriverOp::Poll(1), reset(true)]].concat()),
    ]
}

/// Requests on a disk in memory (2), on a file (0), past the page cache (4), on one that is read-only (1), by the ring alone (8).
fn block() -> Vec<(u8, &'static str, Vec<DriverOp>)> {
    // Section 5.2.6: kind and sector, data, a status byte. Each request has a header of its own.
    let request = |place: u32, kind: u32, sector: u64, data: Buffer| {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let at = place * 0x100;
        [buffer(at, &header), chain(0, &[readable(at, 16), data, writable(at + 0x80, 1)])]
    };
    let requests = [
        request(0, 1, 0, readable(0x2000, 4096)),
        request(1, 0, 0, writable(0x4000, 4096)),
        request(2, 0, 1, writable(0x6001, 1024)),
        request(3, 4, 0, readable(0x2000, 0)),
        request(4, 8, 0, writable(0x8000, 20)),
        request(5, 0, 128, writable(0x9000, 512)),
    ];
    // Section 5.2.6.2: a sector, a number of sectors, flags.
    let range = [&8_u64.to_le_bytes()[..], &16_u32.to_le_bytes(), &1_u32.to_le_bytes()].concat();
    let ranges =
        [vec![buffer(0xa000, &range)], [11, 13].map(|kind| request(kind, kind, 0, readable(0xa000, 16))).concat()];
    let events = [DriverOp::Event(0), DriverOp::Event(2), DriverOp::Poll(0), DriverOp::Pause];
    let all = [requests.concat(), ranges.concat(), events.to_vec(), vec![reset(true)]].concat();
    vec![
        (0, "file", all.clone()),
        (1, "read-only", all.clone()),
        (2, "memory", all.clone()),
        (4, "direct", all.clone()),
        (8, "ring", all),
        (2, "loop", broken_rings()),
        (2, "indirect", indirect()),
    ]
}

/// Three sources before there is a connection: receive, transmit, listener; then the broker, then streams.
fn vsock() -> Named {
    let raw: Vec<_> = driver_ops(packets().swap_remove(0).1.into_iter()).collect();
    let split = [buffer(0, &header([5000, 1234, 0], 1, [0; 3])), chain(1, &[readable(0, 20), readable(20, 24)])];
    vec![("guest-connects", raw), ("split-header", [&split[..], &[DriverOp::Event(1), reset(true)]].concat())]
}

/// Connections from both sides, through their whole lives.
fn packets() -> Vec<(&'static str, Vec<PacketOp>)> {
    let send = |op: u8, port: (u32, u32), data: &[u8]| PacketOp::Send {
        op,
        port,
        flags: 3,
        credit: (4096, 0),
        lie: 0,
        data: data.to_vec(),
    };
    let host = |what: u8, which: u8, rest: &[u8]| PacketOp::Other(DriverOp::Host([&[what, which], rest].concat()));
    let events = |range: std::ops::Range<u8>| range.map(|e| PacketOp::Other(DriverOp::Event(e))).collect::<Vec<_>>();
    let guest = (5000, 1234);
    // Host ports are handed out from 2^30 on.
    let program = (1 << 30, 80);
    let guest_connects = [PacketOp::Room(8), send(1, guest, b""), host(1, 0, b"")];
    let talk = [send(5, guest, b"hello"), host(3, 0, b""), host(2, 0, b"world")];
    let host_connects = [PacketOp::Room(8), host(0, 0, b"CONNECT 80\nhi")];
    let end = [send(7, guest, b""), send(6, guest, b""), send(4, guest, b""), send(3, guest, b"")];
    let lie = PacketOp::Send { op: 5, port: guest, flags: 0, credit: (0, 9), lie: 100, data: vec![1; 9] };
    vec![
        ("guest-connects", [&guest_connects[..], &events(3..5), &talk, &events(3..5), &end].concat()),
        (
            "host-connects",
            [&host_connects[..], &events(2..5), &[send(2, program, b""), send(5, program, b"x")], &events(2..6)]
                .concat(),
        ),
        (
            "hang-up",
            [&guest_connects[..], &events(3..5), &[host(5, 0, b"")], &events(3..5), &[send(5, guest, b"x")]].concat(),
        ),
        ("refused", vec![PacketOp::Room(2), send(1, guest, b""), host(1, 6, b""), PacketOp::Other(DriverOp::Event(3))]),
        ("lie", [&guest_connects[..], &events(3..5), &[lie], &[PacketOp::Other(DriverOp::Pause)]].concat()),
    ]
}

/// A chain that loops, one that leaves memory, and an available index that jumps.
fn broken_rings() -> Vec<DriverOp> {
    let descriptor = |address, len, flags, next| RingOp::Descriptor { index: 0, address, len, flags, next };
    let offer = |op| [ring(0, op), ring(0, RingOp::Offer(0)), DriverOp::Event(0), reset(false)];
    let jump = [ring(0, RingOp::AvailIndex(0x4000)), DriverOp::Event(0), reset(true)];
    [&offer(descriptor(BUFFERS, 64, 3, 0))[..], &offer(descriptor(u64::MAX - 7, u32::MAX, 1, 1)), &jump].concat()
}

/// An indirect table with a readable and a writable buffer.
fn indirect() -> Vec<DriverOp> {
    let entry = |address: u64, len: u32, flags: u16, next: u16| {
        [&address.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
    };
    let table = [entry(BUFFERS + 0x1000, 32, 1, 1), entry(BUFFERS + 0x2000, 64, 2, 0)].concat();
    let point = RingOp::Descriptor { index: 0, address: BUFFERS, len: 32, flags: 4, next: 0 };
    vec![buffer(0, &table), ring(0, point), ring(0, RingOp::Offer(0)), DriverOp::Event(0), DriverOp::Pause]
}

/// A driver that brings the first device up, one that moves a BAR, one that uses the ports.
fn registers() -> Vec<(&'static str, Vec<BusOp>)> {
    let register = |offset: u64, width: u8, value: u64| BusOp::WriteMemory {
        address: FIRST_BAR + offset,
        width: width - 1,
        value,
    };
    let ecam =
        |offset: u32, width: u8, value: u64| BusOp::WriteEcam { offset: 1 << 15 | offset, width: width - 1, value };
    let port = |address: u64, value: u64| {
        [
            BusOp::WritePort { offset: 0, width: 3, value: 1 << 31 | address },
            BusOp::WritePort { offset: 4, width: 3, value },
        ]
    };
    let negotiate =
        [register(0x14, 1, 0), register(0x14, 1, 3), register(0x08, 4, 1), register(0x0c, 4, 1), register(0x14, 1, 11)];
    let queue = [
        register(0x16, 2, 0),
        register(0x18, 2, 8),
        register(0x20, 8, BUFFERS),
        register(0x28, 8, BUFFERS + 0x1000),
        register(0x30, 8, BUFFERS + 0x2000),
        register(0x1a, 2, 0),
        register(0x1c, 2, 1),
        register(0x14, 1, 15),
    ];
    let descriptor = [&(BUFFERS + 0x3000).to_le_bytes()[..], &[64, 0, 0, 0, 2, 0, 0, 0]].concat();
    let request = [
        BusOp::Ram { at: BUFFERS as u32, bytes: descriptor },
        BusOp::Ram { at: BUFFERS as u32 + 0x1000, bytes: vec![0, 0, 1, 0, 0, 0] },
        register(0x4000, 2, 0),
        BusOp::Event(0),
        BusOp::ReadMemory { address: FIRST_BAR + 0x1000, width: 0 },
    ];
    let up = [&negotiate[..], &queue, &request].concat();
    let msix =
        [ecam(0x42, 2, 0x8000), register(0x3000, 8, 0xfee0_0000), register(0x3008, 8, 0x41), register(0x10, 2, 0)];
    let moved = [
        ecam(0x10, 4, 0xd000_0000),
        ecam(0x14, 4, 1),
        ecam(0x04, 2, 6),
        BusOp::ReadMemory { address: 0x1_d000_0000, width: 3 },
    ];
    let ports = [
        port(0x800, 0),
        port(0x804, 7),
        port(0x810, u64::MAX),
        [BusOp::ReadPort { offset: 4, width: 3 }, BusOp::Reset],
    ];
    vec![
        ("up", up.clone()),
        ("msix", [&msix[..], &up].concat()),
        ("moved", [&up[..], &moved, &[BusOp::Reset]].concat()),
        ("ports", ports.concat()),
        ("again", [&up[..], &up].concat()),
    ]
}

/// A serial driver, one that reads and sets the clock, one that routes an interrupt, and the ways to end a machine.
fn legacy() -> Vec<(&'static str, Vec<LegacyOp>)> {
    let write = |device, offset, value| LegacyOp::Write { device, offset, width: 0, value };
    let read = |device, offset| LegacyOp::Read { device, offset, width: 0 };
    let register = |index, value| [write(1, 0, index), write(1, 1, value), read(1, 1)];
    let window = |index, value| [write(5, 0, index), LegacyOp::Write { device: 5, offset: 16, width: 3, value }];
    let serial = [write(0, 3, 0x83), write(0, 0, 1), write(0, 3, 3), write(0, 1, 3), write(0, 2, 7), write(0, 0, 65)];
    let typed = [LegacyOp::Type(b"root".to_vec()), read(0, 5), read(0, 2), read(0, 0), read(0, 6)];
    let clock = [register(0x0b, 0x82), register(0, 0x59), register(9, 0x99), register(0x32, 0x21), register(0x0b, 2)];
    let routed = [window(0x18, 0x31).to_vec(), window(0x19, 0).to_vec(), vec![LegacyOp::Pulse(4), read(5, 16)]];
    let press = [LegacyOp::Press, LegacyOp::Read { device: 3, offset: 4, width: 3 }];
    let ends = [write(3, 0, 0x34), write(3, 2, 1), write(2, 4, 0xfe), write(4, 0, 1)];
    vec![
        ("serial", [&serial[..], &typed].concat()),
        ("clock", [&[LegacyOp::Clock(1_800_000_000)], &clock.concat()[..], &[read(1, 1)]].concat()),
        ("routed", routed.concat()),
        ("ends", [&press[..], &ends].concat()),
    ]
}

/// The smallest images that load: ELF with and without a PVH note, a bzImage.
fn images() -> Vec<(&'static str, Vec<u8>)> {
    vec![("elf", elf(false)), ("elf-pvh", elf(true)), ("bzimage", bzimage()), ("text", b"#!/bin/sh\n".to_vec())]
}

/// An ELF64 executable for x86-64 of one loaded page at 1 MiB, and a PVH entry note if wanted.
fn elf(pvh: bool) -> Vec<u8> {
    let headers: u16 = if pvh { 2 } else { 1 };
    let mut image = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |image: &mut Vec<u8>, values: &[u16]| values.iter().for_each(|v| image.extend(v.to_le_bytes()));
    let word = |image: &mut Vec<u8>, values: &[u32]| values.iter().for_each(|v| image.extend(v.to_le_bytes()));
    let long = |image: &mut Vec<u8>, values: &[u64]| values.iter().for_each(|v| image.extend(v.to_le_bytes()));
    half(&mut image, &[2, 62]);
    word(&mut image, &[1]);
    long(&mut image, &[0x10_0100, 64, 0]);
    word(&mut image, &[0]);
    half(&mut image, &[64, 56, headers, 0, 0, 0]);
    word(&mut image, &[1, 5]);
    long(&mut image, &[0x100, 0x10_0000, 0x10_0000, 16, 0x1000, 0x1000]);
    if pvh {
        word(&mut image, &[4, 4]);
        long(&mut image, &[0x110, 0, 0, 20, 20, 4]);
    }
    image.resize(0x100, 0);
    image.extend([0xf4; 16]);
    // A note of owner "Xen", type XEN_ELFNOTE_PHYS32_ENTRY.
    word(&mut image, &[4, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x10_0010]);
    image
}

/// A bzImage of one set-up sector and 512 bytes of kernel, with a 64-bit entry point.
fn bzimage() -> Vec<u8> {
    let mut image = vec![0; 0x600];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &0xaa55_u16.to_le_bytes());
    put(0x202, b"HdrS");
    put(0x206, &0x20f_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000_u32.to_le_bytes());
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x236, &1_u16.to_le_bytes());
    put(0x258, &0x10_0000_u64.to_le_bytes());
    image
}

const CONFIGURATIONS: [(&str, &str); 4] = [
    ("smallest", r#"{"kernel": "vmlinux"}"#),
    (
        "devices",
        r#"{"kernel": "fd:kernel", "disks": [{"path": "/a.img"}, {"path": "/b.qcow2", "id": "data", "format": "qcow2",
        "readonly": true, "direct": true, "queues": 2, "iops": 1000, "bps": 1048576, "serial": "S1"}],
        "nets": [{"tap": "tap0", "mac": "52:54:00:12:34:56"}, {"tap": "fd:q0+q1", "queues": 2, "vhost": "off"}],
        "vsock": {"cid": 3, "socket": "/run/v.sock"}, "rng": true, "balloon": {"size_bytes": 4096}}"#,
    ),
    (
        "numa",
        r#"{"kernel": "/boot/vmlinux", "cpus": {"count": 4, "topology": {"sockets": 2, "cores": 2}},
        "memory": {"size_bytes": 4294967296, "hugepages": "2M", "shared": true, "numa": [
        {"size_bytes": 1073741824, "cpus": "0-2"}, {"size_bytes": 3221225472, "cpus": "3", "distances": [30, 10]}]}}"#,
    ),
    (
        "ends",
        r#"{"kernel": "k", "initrd": "fd:initrd", "cmdline": "console=ttyS0", "console": "socket=/run/c.sock",
        "serial": "file=/tmp/s", "api_socket": "fd:api", "reboot": true, "sandbox": false, "log_level": "debug"}"#,
    ),
];
