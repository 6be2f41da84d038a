//! Tests of the transport against a peer that keeps to the rules and one that does not.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};

use proptest::prelude::*;
use rustix::pipe::pipe;

use super::*;
use crate::v1::envelope::Message as Wire;
use crate::v1::request::Command;
use crate::v1::{AddFd, Request};

fn request(name: String) -> Envelope {
    let command = Some(Command::AddFd(AddFd { name }));
    Envelope { message: Some(Wire::Request(Request { id: 7, command })) }
}

fn pair() -> (Connection, Connection, PacketBuffer) {
    let (one, other) = Connection::pair().expect("a pair");
    (one, other, PacketBuffer::new())
}

/// Sends without the checks of `send`.
fn send_raw(socket: &Connection, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("sent");
}

/// A pipe whose writing end was sent away; `assert_all_closed` fails if anybody still holds it.
struct Probe(OwnedFd);

impl Probe {
    fn new() -> (Self, OwnedFd) {
        let (read, write) = pipe().expect("a pipe");
        (Self(read), write)
    }

    fn assert_all_closed(self) {
        let mut byte = [0];
        rustix::io::ioctl_fionbio(&self.0, true).expect("non-blocking");
        let end = std::fs::File::from(self.0).read(&mut byte);
        assert_eq!(end.expect("end of file, not an open writer"), 0);
    }
}

#[test]
fn message_and_descriptors_arrive_together() {
    let (client, server, mut buffer) = pair();
    let (read, write) = pipe().expect("a pipe");
    client.send(&request("disk".into()), &[write.as_fd()]).expect("sent");
    drop(write);

    let packet = server.receive(&mut buffer).expect("received");
    assert_eq!(packet.envelope, request("disk".into()));
    let [write] = <[OwnedFd; 1]>::try_from(packet.fds).expect("one descriptor");
    assert!(rustix::io::fcntl_getfd(&write).expect("flags").contains(rustix::io::FdFlags::CLOEXEC));
    std::fs::File::from(write).write_all(b"x").expect("written");
    let mut text = String::new();
    std::fs::File::from(read).read_to_string(&mut text).expect("read");
    assert_eq!(text, "x");
}

#[test]
fn sixteen_descriptors_fit_and_no_more() {
    let (client, server, mut buffer) = pair();
    let fds = vec![client.as_fd(); MAX_PACKET_FDS];
    client.send(&request(String::new()), &fds).expect("sent");
    assert_eq!(server.receive(&mut buffer).expect("received").fds.len(), MAX_PACKET_FDS);

    let fds = vec![client.as_fd(); MAX_PACKET_FDS + 1];
    let refused = client.send(&request(String::new()), &fds);
    assert!(matches!(refused, Err(TransportError::TooManyFds { count: 17 })));
}

#[test]
fn too_many_descriptors_end_it_and_are_closed() {
    for count in [17, 18, 19, 40] {
        let (client, server, mut buffer) = pair();
        let (probe, write) = Probe::new();
        send_raw(&client, &encode(&request(String::new())).expect("encoded"), &vec![write.as_fd(); count]);
        drop(write);
        let refused = server.receive(&mut buffer);
        assert!(matches!(refused, Err(TransportError::Truncated | TransportError::TooManyFds { .. })), "{count}");
        probe.assert_all_closed();
    }
}

#[test]
fn longest_packet_fits_and_no_longer() {
    let (client, server, mut buffer) = pair();
    let overhead = encode(&request("x".repeat(60_000))).expect("encoded").len() - 60_000;
    let longest = request("x".repeat(MAX_PACKET_BYTES - overhead));
    client.send(&longest, &[]).expect("sent");
    assert_eq!(server.receive(&mut buffer).expect("received").envelope, longest);

    let longer = request("x".repeat(MAX_PACKET_BYTES - overhead + 1));
    assert!(matches!(client.send(&longer, &[]), Err(TransportError::TooLong { length: 65_537 })));
}

#[test]
fn too_long_a_packet_ends_it_and_its_descriptors_are_closed() {
    let (client, server, mut buffer) = pair();
    let (probe, write) = Probe::new();
    send_raw(&client, &vec![0; MAX_PACKET_BYTES + 1], &[write.as_fd()]);
    drop(write);
    assert!(matches!(server.receive(&mut buffer), Err(TransportError::Truncated)));
    probe.assert_all_closed();
}

#[test]
fn nonsense_is_reported_its_descriptors_are_closed_and_the_connection_goes_on() {
    let (client, server, mut buffer) = pair();
    let (probe, write) = Probe::new();
    send_raw(&client, &[0xff; 32], &[write.as_fd()]);
    drop(write);
    assert!(matches!(server.receive(&mut buffer), Err(TransportError::Malformed(_))));
    probe.assert_all_closed();
    client.send(&request("a".into()), &[]).expect("sent");
    assert_eq!(server.receive(&mut buffer).expect("received").envelope, request("a".into()));
}

#[test]
fn nothing_there_and_peer_gone_are_told_apart() {
    let (client, server, mut buffer) = pair();
    assert!(matches!(server.receive(&mut buffer), Err(TransportError::WouldBlock)));
    client.send(&request("last".into()), &[]).expect("sent");
    drop(client);
    assert_eq!(server.receive(&mut buffer).expect("received").envelope, request("last".into()));
    assert!(matches!(server.receive(&mut buffer), Err(TransportError::Closed)));
    assert!(matches!(server.send(&request(String::new()), &[]), Err(TransportError::Closed)));
}

#[test]
fn last_words_are_heard_though_the_peer_left_packets_unread() {
    let (client, server, mut buffer) = pair();
    client.send(&request("unread".into()), &[]).expect("sent");
    server.send(&request("last".into()), &[]).expect("sent");
    drop(server);
    assert_eq!(client.receive(&mut buffer).expect("received").envelope, request("last".into()));
    assert!(matches!(client.receive(&mut buffer), Err(TransportError::Closed)));
}

#[test]
fn sender_is_told_when_the_peer_does_not_read() {
    let (client, server, mut buffer) = pair();
    let mut sent = 0;
    let refused = loop {
        match client.send(&request("x".repeat(10_000)), &[]) {
            Ok(()) => sent += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, TransportError::WouldBlock));
    for _ in 0..sent {
        server.receive(&mut buffer).expect("received");
    }
    client.send(&request(String::new()), &[]).expect("room again");
}

#[test]
fn listener_knows_its_peer_and_keeps_others_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control");
    let listener = Listener::bind(&path).expect("bound");
    let found = std::fs::metadata(&path).expect("there");
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o077, 0);
    assert!(matches!(listener.accept(), Err(TransportError::WouldBlock)));

    let client = Connection::connect(&path).expect("connected");
    let server = listener.accept().expect("accepted");
    let me = Peer {
        pid: i32::try_from(std::process::id()).expect("a pid"),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
    };
    assert_eq!(server.peer().expect("known"), me);
    assert_eq!(client.peer().expect("known"), me);
}

#[test]
fn listener_replaces_a_dead_socket_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control");
    let first = Listener::bind(&path).expect("bound");
    assert!(matches!(Listener::bind(&path), Err(TransportError::InUse { .. })));
    drop(first);
    Listener::bind(&path).expect("bound again").discard();
    assert!(!path.exists());

    std::fs::write(&path, "precious").expect("written");
    assert!(matches!(Listener::bind(&path), Err(TransportError::Path { .. })));
    assert_eq!(std::fs::read_to_string(&path).expect("still there"), "precious");
}

#[test]
fn inherited_sockets_are_checked() {
    let inherited = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).expect("one");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("control");
    bind(&inherited, &SocketAddrUnix::new(&path).expect("an address")).expect("bound");
    let listener = Listener::from_fd(inherited).expect("taken");
    assert!(matches!(listener.accept(), Err(TransportError::WouldBlock)));
    Connection::connect(&path).expect("connected");
    listener.accept().expect("accepted");

    let (stream, _) = std::os::unix::net::UnixStream::pair().expect("a pair");
    assert!(matches!(Connection::from_fd(stream.into()), Err(TransportError::WrongSocket)));
    let (read, _) = pipe().expect("a pipe");
    assert!(matches!(Listener::from_fd(read), Err(TransportError::WrongSocket)));
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 1..2048), fds in 0_usize..20) {
        let (client, server, mut buffer) = pair();
        let (probe, write) = Probe::new();
        send_raw(&client, &bytes, &vec![write.as_fd(); fds]);
        drop(write);
        let survived = match server.receive(&mut buffer) {
            Ok(packet) => packet.fds.len() == fds,
            Err(TransportError::Malformed(_)) => true,
            Err(TransportError::Truncated | TransportError::TooManyFds { .. }) => fds > MAX_PACKET_FDS,
            Err(_) => false,
        };
        prop_assert!(survived);
        probe.assert_all_closed();
    }

    #[test]
    fn any_request_arrives_as_it_was_sent(id in any::<u64>(), name in ".{0,200}", size in any::<u64>()) {
        let (client, server, mut buffer) = pair();
        for command in [
            Command::AddFd(AddFd { name }),
            Command::SetBalloon(crate::v1::SetBalloon { size_bytes: size }),
        ] {
            let sent = Envelope { message: Some(Wire::Request(Request { id, command: Some(command) })) };
            client.send(&sent, &[]).expect("sent");
            prop_assert_eq!(server.receive(&mut buffer).expect("received").envelope, sent);
        }
    }

    #[test]
    fn a_damaged_packet_is_survived(flip in 0_usize..200, value in any::<u8>(), cut in 1_usize..200) {
        let (client, server, mut buffer) = pair();
        let mut bytes = encode(&request("n".repeat(150))).expect("encoded");
        let place = flip % bytes.len();
        bytes[place] = value;
        bytes.truncate(cut);
        send_raw(&client, &bytes, &[]);
        let _ = server.receive(&mut buffer);
        client.send(&request("a".into()), &[]).expect("sent");
        prop_assert_eq!(server.receive(&mut buffer).expect("received").envelope, request("a".into()));
    }
}
