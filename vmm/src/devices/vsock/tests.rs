//! The socket device on the fake guest, with real unix sockets as host programs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod flow;
mod hostile;

use std::io::{IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair};
use tempfile::TempDir;

use super::packet::{HEADER_LEN, Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};
use super::*;
use crate::backend::vsock_unix::{Connector, Host, Listener};
use crate::virtio::testing::{BUFFERS, FakeGuest};
use crate::virtio::{Device as _, Worker, WorkerError};

const CID: u64 = 3;
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;
const SENT_AT: u64 = BUFFERS;
const HEARD_AT: u64 = BUFFERS + 0x10_0000;
const ROOM: u32 = 4096;
/// Credit that the test guest gives in its packets.
const CREDIT: u32 = 64 << 10;

/// A guest, its socket device and the host around it; the test plays the broker.
struct Bench {
    guest: FakeGuest,
    device: Vsock,
    workers: Vec<Box<dyn Worker>>,
    broker: OwnedFd,
    directory: TempDir,
    given: u64,
    forwarded: u32,
}

fn bench() -> Bench {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("v")).unwrap();
    let (ours, broker) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).unwrap();
    let host = Host { listener: Listener::from_fd(listener.into()).unwrap(), connector: Some(Connector::new(ours)) };
    let mut device = Vsock::new("vsock0", CID as u32, host);
    let mut guest = FakeGuest::new();
    let workers = guest.activate(&mut device, 0).unwrap();
    let mut bench = Bench { guest, device, workers, broker, directory, given: 0, forwarded: 0 };
    bench.give(32);
    bench
}

impl Bench {
    /// Gives the device `count` receive buffers.
    fn give(&mut self, count: u64) {
        for _ in 0..count {
            self.guest.queues[RECEIVE].add(&[(HEARD_AT + self.given % 128 * u64::from(ROOM), ROOM, true)]);
            self.given += 1;
        }
    }

    /// Handles the events of every source, ready or not.
    fn turn(&mut self) -> Result<(), WorkerError> {
        for source in self.workers[0].sources() {
            self.workers[0].on_event(source.token)?;
        }
        self.workers[0].sources_changed();
        Ok(())
    }

    fn header(&self, op: Op, host: u32, guest: u32) -> Header {
        Header {
            source_cid: CID,
            target_cid: 2,
            source_port: guest,
            target_port: host,
            kind: 1,
            op: op as u16,
            buf_alloc: CREDIT,
            fwd_cnt: self.forwarded,
            ..Header::default()
        }
    }

    /// The guest sends a packet.
    fn say(&mut self, header: Header, data: &[u8]) {
        let header = Header { len: data.len() as u32, ..header };
        self.guest.write(SENT_AT, &header.encode());
        self.guest.write(SENT_AT + HEADER_LEN as u64, data);
        let total = (HEADER_LEN + data.len()) as u32;
        self.guest.queues[TRANSMIT].add(&[(SENT_AT, 40, false), (SENT_AT + 40, total - 40, false)]);
        self.turn().unwrap();
        assert!(self.guest.queues[TRANSMIT].used().is_some(), "the packet comes back");
    }

    /// The next packet that the guest receives.
    fn hear(&mut self) -> Option<(Header, Vec<u8>)> {
        let (head, len) = self.guest.queues[RECEIVE].used()?;
        let at = HEARD_AT + u64::from(head) % 128 * u64::from(ROOM);
        let bytes = self.guest.read(at, len as usize);
        let (header, data) = bytes.split_first_chunk().unwrap();
        let header = Header::decode(header);
        assert_eq!(header.len as usize, data.len());
        assert_eq!((header.source_cid, header.target_cid, header.kind), (2, CID, 1));
        self.give(1);
        Some((header, data.to_vec()))
    }

    /// The next packet, which must be of this kind.
    fn hear_op(&mut self, op: Op) -> (Header, Vec<u8>) {
        let packet = self.hear().unwrap_or_else(|| panic!("no packet came, {op:?} was expected"));
        assert_eq!(packet.0.op, op as u16, "{op:?} was expected: {packet:?}");
        packet
    }

    /// A host program connects to `port` of the guest; returns its stream and the host port.
    fn host_connects(&mut self, port: u32) -> (UnixStream, u32) {
        let mut stream = UnixStream::connect(self.directory.path().join("v")).unwrap();
        stream.write_all(format!("CONNECT {port}\nhello").as_bytes()).unwrap();
        self.turn().unwrap();
        let (request, _) = self.hear_op(Op::Request);
        assert_eq!(request.target_port, port);
        self.say(self.header(Op::Response, request.source_port, port), b"");
        let mut line = [0; 32];
        let len = stream.read(&mut line).unwrap();
        assert_eq!(line[..len], *format!("OK {}\n", request.source_port).as_bytes());
        assert_eq!(self.hear_op(Op::Data).1, b"hello", "what follows the line is data");
        (stream, request.source_port)
    }

    /// The next request to the broker, as (id, port).
    fn request(&self) -> (u32, u32) {
        let mut packet = [0; 8];
        assert_eq!(recv(self.broker.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).unwrap(), 8);
        let both = u64::from_le_bytes(packet);
        (both as u32, (both >> 32) as u32)
    }

    fn answer(&mut self, id: u32, error: u32, stream: Option<&UnixStream>) {
        let packet = [id.to_le_bytes(), error.to_le_bytes()].concat();
        let fds: Vec<[i32; 1]> = stream.iter().map(|s| [s.as_raw_fd()]).collect();
        let rights: Vec<_> = fds.iter().map(|fd| ControlMessage::ScmRights(fd)).collect();
        let (to, parts) = (self.broker.as_raw_fd(), [IoSlice::new(&packet)]);
        sendmsg::<()>(to, &parts, &rights, MsgFlags::empty(), None).unwrap();
        self.turn().unwrap();
    }

    /// The guest connects from `guest` to host port `host`; returns the host program's stream.
    fn guest_connects(&mut self, host: u32, guest: u32) -> UnixStream {
        self.say(self.header(Op::Request, host, guest), b"");
        let (id, port) = self.request();
        assert_eq!((port, self.hear()), (host, None));
        let (ours, far) = UnixStream::pair().unwrap();
        self.answer(id, 0, Some(&ours));
        let (response, _) = self.hear_op(Op::Response);
        assert!(response.buf_alloc > 0);
        far.set_nonblocking(true).unwrap();
        far
    }
}

#[test]
fn bytes_go_both_ways_whoever_connects() {
    let mut bench = bench();
    let (mut program, host) = bench.host_connects(9700);
    bench.say(bench.header(Op::Data, host, 9700), b"ping");
    let mut bytes = [0; 8];
    assert_eq!(program.read(&mut bytes).unwrap(), 4);
    program.write_all(b"pong").unwrap();
    bench.turn().unwrap();
    let (header, data) = bench.hear_op(Op::Data);
    assert_eq!(
        (header.source_port, header.target_port, header.fwd_cnt, data.as_slice()),
        (host, 9700, 4, &b"pong"[..])
    );

    let mut server = bench.guest_connects(5000, 1234);
    bench.say(bench.header(Op::Data, 5000, 1234), b"hi");
    assert_eq!(server.read(&mut bytes).unwrap(), 2);
    server.write_all(b"there").unwrap();
    bench.turn().unwrap();
    assert_eq!(bench.hear_op(Op::Data).1, b"there");
}

#[test]
fn host_ports_differ_and_come_from_their_range() {
    let mut bench = bench();
    let (_first, a) = bench.host_connects(80);
    let (_second, b) = bench.host_connects(80);
    assert!(a != b && (1 << 30..1 << 31).contains(&a) && (1 << 30..1 << 31).contains(&b));
}

#[test]
fn what_is_no_greeting_is_hung_up_on() {
    for line in ["HELLO 1\n", "CONNECT x\n", "CONNECT 4294967296\n", "CONNECT 1 2\n", "\n", &"9".repeat(40)] {
        let mut bench = bench();
        let mut stream = UnixStream::connect(bench.directory.path().join("v")).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        bench.turn().unwrap();
        bench.turn().unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0, "{line:?}");
        assert_eq!(bench.hear(), None, "{line:?}");
    }
}

#[test]
fn a_greeting_may_come_in_pieces() {
    let mut bench = bench();
    let mut stream = UnixStream::connect(bench.directory.path().join("v")).unwrap();
    for piece in ["CON", "NECT 4294967295", "\n"] {
        assert_eq!(bench.hear(), None);
        stream.write_all(piece.as_bytes()).unwrap();
        bench.turn().unwrap();
    }
    // The listener's turn and the stream's own: the stream is known from the second turn on.
    bench.turn().unwrap();
    assert_eq!(bench.hear_op(Op::Request).0.target_port, u32::MAX);
}

#[test]
fn a_refused_connection_ends_on_both_sides() {
    let mut bench = bench();
    let mut stream = UnixStream::connect(bench.directory.path().join("v")).unwrap();
    stream.write_all(b"CONNECT 1\n").unwrap();
    bench.turn().unwrap();
    let (request, _) = bench.hear_op(Op::Request);
    bench.say(bench.header(Op::Reset, request.source_port, 1), b"");
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(bench.hear(), None, "a reset is not answered");

    bench.say(bench.header(Op::Request, 5000, 9), b"");
    let (id, _) = bench.request();
    bench.answer(id, 2, None);
    assert_eq!(bench.hear_op(Op::Reset).0.target_port, 9);
}

#[test]
fn a_program_that_leaves_before_the_guest_answers_is_forgotten() {
    let mut bench = bench();
    let mut stream = UnixStream::connect(bench.directory.path().join("v")).unwrap();
    stream.write_all(b"CONNECT 1\n").unwrap();
    bench.turn().unwrap();
    let (request, _) = bench.hear_op(Op::Request);
    drop(stream);
    bench.turn().unwrap();
    bench.hear_op(Op::Reset);
    bench.say(bench.header(Op::Response, request.source_port, 1), b"");
    bench.hear_op(Op::Reset);
}

#[test]
fn each_direction_ends_by_itself() {
    let mut bench = bench();
    let mut server = bench.guest_connects(5000, 1);
    // The host program says that it will write no more, and goes on reading.
    server.write_all(b"last").unwrap();
    server.shutdown(Shutdown::Write).unwrap();
    bench.turn().unwrap();
    assert_eq!(bench.hear_op(Op::Data).1, b"last");
    assert_eq!(bench.hear_op(Op::Shutdown).0.flags, SHUTDOWN_SEND);
    bench.say(bench.header(Op::Data, 5000, 1), b"still");
    let mut bytes = [0; 8];
    assert_eq!(server.read(&mut bytes).unwrap(), 5);
    // The guest ends its direction too: the connection is over.
    bench.say(Header { flags: SHUTDOWN_BOTH, ..bench.header(Op::Shutdown, 5000, 1) }, b"");
    assert_eq!(server.read(&mut bytes).unwrap(), 0);
    bench.hear_op(Op::Reset);

    let mut server = bench.guest_connects(5000, 2);
    bench.say(Header { flags: SHUTDOWN_SEND, ..bench.header(Op::Shutdown, 5000, 2) }, b"");
    assert_eq!(server.read(&mut bytes).unwrap(), 0);
    server.write_all(b"reply").unwrap();
    bench.turn().unwrap();
    assert_eq!(bench.hear_op(Op::Data).1, b"reply");
    bench.say(Header { flags: SHUTDOWN_RECEIVE, ..bench.header(Op::Shutdown, 5000, 2) }, b"");
    bench.hear_op(Op::Reset);
    assert!(server.write_all(b"x").is_err());
}

#[test]
fn a_program_that_vanishes_ends_both_directions_after_its_last_bytes() {
    let mut bench = bench();
    let mut server = bench.guest_connects(5000, 1);
    server.write_all(b"bye").unwrap();
    drop(server);
    bench.turn().unwrap();
    assert_eq!(bench.hear_op(Op::Data).1, b"bye");
    assert_eq!(bench.hear_op(Op::Shutdown).0.flags, SHUTDOWN_BOTH);
    // Forgotten: the guest's own shutdown is answered as for any unknown connection.
    bench.say(Header { flags: SHUTDOWN_BOTH, ..bench.header(Op::Shutdown, 5000, 1) }, b"");
    bench.hear_op(Op::Reset);
}

#[test]
fn a_reset_in_flight_leaves_the_device_usable() {
    let mut bench = bench();
    let mut server = bench.guest_connects(5000, 1);
    bench.say(bench.header(Op::Request, 5001, 2), b"");
    let (old, _) = bench.request();
    bench.workers.clear();
    bench.device.reset();
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0, "connections end with the worker");
    bench.guest = FakeGuest::new();
    bench.given = 0;
    bench.workers = bench.guest.activate(&mut bench.device, 0).unwrap();
    bench.give(32);
    // The answer to the old driver's request must not reach the new one.
    let (late, mut far) = UnixStream::pair().unwrap();
    bench.answer(old, 0, Some(&late));
    drop(late);
    assert_eq!((far.read(&mut [0; 8]).unwrap(), bench.hear()), (0, None));
    bench.guest_connects(5000, 1);
}

#[test]
fn a_pause_loses_nothing() {
    let mut bench = bench();
    let mut server = bench.guest_connects(5000, 1);
    bench.workers[0].quiesce().unwrap();
    server.write_all(b"meanwhile").unwrap();
    bench.workers[0].resume().unwrap();
    assert_eq!(bench.hear_op(Op::Data).1, b"meanwhile");
}

#[test]
fn the_connector_may_die() {
    let mut bench = bench();
    bench.say(bench.header(Op::Request, 5000, 1), b"");
    let (gone, _) = UnixStream::pair().unwrap();
    bench.broker = gone.into();
    bench.turn().unwrap();
    bench.hear_op(Op::Reset);
    bench.say(bench.header(Op::Request, 5000, 2), b"");
    bench.hear_op(Op::Reset);
    bench.host_connects(80);
}
