//! Tap tests in a network namespace of their own: the thread that unshares it ends with the test, and so does the
//! namespace with every interface in it. They need root; without it they say so and fail.

use std::net::UdpSocket;
use std::process::Command;

use super::*;
use crate::memory::{Backing, GuestMemory};

/// Runs `test` on a thread in a fresh network namespace.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tap tests need CAP_SYS_ADMIN");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split_whitespace()).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

fn message(result: Result<Tap, TapError>) -> String {
    result.expect_err("the tap is not usable").to_string()
}

#[test]
fn a_missing_tap_is_named_and_not_made() {
    in_namespace(|| {
        let text = message(Tap::open("tapx", 1));
        assert!(text.starts_with("Tap tapx: there is no such network interface"), "{text}");
        assert!(message(Tap::open("tapx", 1)).contains("no such"), "the first try made it");
    });
}

#[test]
fn a_busy_tap_and_what_is_no_tap_are_told_apart() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap");
        let first = Tap::open("tap0", 1).unwrap();
        assert_eq!(first.mtu(), Some(1500));
        assert!(message(Tap::open("tap0", 1)).starts_with("Tap tap0: another process uses it"));
        drop(first);
        assert!(Tap::open("tap0", 1).is_ok());
        assert_eq!(message(Tap::open("lo", 1)), "Tap lo: it is not a tap");
        assert!(message(Tap::open("tap0", 2)).contains("multi_queue"));
        for name in ["", "a/b", "a b", "sixteen-bytes-ab", "nul\0"] {
            assert!(message(Tap::open(name, 1)).contains("1 to 15 bytes"), "{name:?}");
        }
    });
}

#[test]
fn pairs_of_a_multi_queue_tap_come_and_go() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap multi_queue");
        assert!(Tap::open("tap0", 1).is_ok(), "one queue of a multi-queue tap");
        let tap = Tap::open("tap0", 4).unwrap();
        for pairs in [1, 4, 4, 2, 1] {
            tap.use_pairs(pairs).unwrap();
        }
    });
}

#[test]
fn offloads_are_accepted_as_a_guest_may_combine_them() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap");
        let tap = Tap::open("tap0", 1).unwrap();
        for bits in 0..64_u32 {
            let bit = |n: u32| bits & (1 << n) != 0;
            let (uso4, uso6) = (tap.has_uso() && bit(4), tap.has_uso() && bit(5));
            let offloads = Offloads { checksum: bit(0), tso4: bit(1), tso6: bit(2), ecn: bit(3), uso4, uso6 };
            tap.set_offloads(offloads).unwrap_or_else(|e| panic!("{offloads:?}: {e}"));
        }
    });
}

#[test]
fn foreign_descriptors_are_checked() {
    let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let error = Tap::from_fds("fd:net0", vec![file]).unwrap_err();
    assert_eq!(error.to_string(), "Tap fd:net0: the descriptor is not an attached tap");
    assert_eq!(message(Tap::from_fds("fd:net0", vec![])), "Tap fd:net0: no descriptor was given");
}

#[test]
fn a_frame_goes_both_ways() {
    in_namespace(|| {
        ip("tuntap add tap0 mode tap");
        ip("address add 192.0.2.1/24 dev tap0");
        let tap = Tap::open("tap0", 1).unwrap();
        ip("link set tap0 up");
        ip("neighbour add 192.0.2.2 lladdr 02:00:00:00:00:02 dev tap0");
        let queue = &tap.queues()[0];
        let memory = GuestMemory::map(&[(0, 0x4000)], Backing::default()).unwrap();
        let (mut room, mut overflow) = (IoVecs::default(), [0; 256]);
        room.push(&memory.slice(0, 64).unwrap());

        UdpSocket::bind("192.0.2.1:0").unwrap().send_to(&[b'x'; 100], "192.0.2.2:9").unwrap();
        // The interface's own chatter (router solicitations) may come first.
        let len = loop {
            match queue.receive(&mut room, &mut overflow) {
                Ok(len) if len == HEADER_LEN + 14 + 28 + 100 => break len,
                Ok(_) => {}
                Err(e) => panic!("no frame came: {e}"),
            }
        };
        assert_eq!(overflow[..len - 64], [b'x'; 256][..len - 64], "what has no room overflows");

        let socket = UdpSocket::bind("192.0.2.1:7").unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        memory.slice(0, 4096).unwrap().write(0, &udp_frame(&interface_mac()));
        let mut frame = IoVecs::default();
        frame.push(&memory.slice(0, HEADER_LEN as u64).unwrap());
        frame.push(&memory.slice(HEADER_LEN as u64, 14 + 28 + 5).unwrap());
        queue.send(&frame).unwrap();
        let mut bytes = [0; 16];
        assert_eq!(socket.recv(&mut bytes).unwrap(), 5);
        assert_eq!(&bytes[..5], b"hello");
        ip("link set tap0 down");
        assert_eq!(queue.send(&frame).unwrap_err().raw_os_error(), Some(libc::EIO));
    });
}

fn interface_mac() -> Vec<u8> {
    let output = Command::new("ip").args(["-brief", "link", "show", "tap0"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mac = text.split_whitespace().nth(2).unwrap();
    mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// An empty header and "hello" over UDP from 192.0.2.2:9 to 192.0.2.1:7, without a UDP checksum.
fn udp_frame(to: &[u8]) -> Vec<u8> {
    let mut ip = [0x45, 0, 0, 33, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1];
    let sum: u32 = ip.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let checksum = !((sum & 0xffff) as u16 + (sum >> 16) as u16);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let ethernet = [to, &[2, 0, 0, 0, 0, 2], &[8, 0]].concat();
    [vec![0; HEADER_LEN], ethernet, ip.to_vec(), vec![0, 9, 0, 7, 0, 13, 0, 0], b"hello".to_vec()].concat()
}
