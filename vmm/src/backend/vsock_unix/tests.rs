//! Listener, connector and broker, with real sockets in a temporary directory.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

fn wait(fd: std::os::fd::BorrowedFd<'_>) {
    let ready = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(10_000_u16)).unwrap();
    assert_eq!(ready, 1, "nothing came in time");
}

fn answer(connector: &Connector) -> Answer {
    // SAFETY: the connector keeps its fd open while it is borrowed.
    wait(unsafe { std::os::fd::BorrowedFd::borrow_raw(connector.as_raw_fd()) });
    connector.answer().unwrap()
}

/// Waits until the broker, which ends on its own, has removed `path`.
fn gone(path: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while path.exists() && Instant::now() < deadline {
        std::thread::yield_now();
    }
    !path.exists()
}

#[test]
fn the_broker_connects_where_it_is_told_and_cleans_up() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v.sock");
    let host = Host::open(&path).unwrap();
    let connector = host.connector.as_ref().unwrap();
    let server = UnixListener::bind(directory.path().join("v.sock_5000")).unwrap();

    connector.request(7, 5000).unwrap();
    connector.request(8, 5001).unwrap();
    let first = answer(connector);
    assert_eq!(first.id, 7);
    let stream = first.stream.unwrap();
    let (mut far, _) = server.accept().unwrap();
    assert_eq!(stream.send_bytes(b"hello").unwrap(), 5);
    let mut bytes = [0; 5];
    far.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");

    let second = answer(connector);
    assert_eq!((second.id, second.stream.unwrap_err().kind()), (8, io::ErrorKind::NotFound));
    assert_eq!(connector.answer().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(host);
    assert!(gone(&path), "the broker removes the socket");
}

#[test]
fn the_broker_leaves_a_successors_socket_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v.sock");
    let first = Host::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let successor = UnixListener::bind(&path).unwrap();
    let connector = first.connector.unwrap();
    let eof = connector.as_raw_fd();
    // SAFETY: `connector` owns the fd and lives on.
    let watched = unsafe { std::os::fd::BorrowedFd::borrow_raw(eof) };
    nix::sys::socket::shutdown(eof, nix::sys::socket::Shutdown::Write).unwrap();
    wait(watched);
    assert_eq!(connector.answer().unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "the broker has ended");
    assert!(path.exists());
    drop(successor);
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v.sock");
    drop(UnixListener::bind(&path).unwrap());
    let live = Listener::bind(&path).unwrap();
    let error = Listener::bind(&path).unwrap_err();
    assert!(error.to_string().contains("another process listens there"), "{error}");
    drop(live);
    for (path, reason) in [("/nowhere/v.sock", "its directory does not exist"), (&"x".repeat(200), "too long")] {
        let error = Listener::bind(Path::new(path)).unwrap_err();
        assert!(error.to_string().contains(reason), "{error}");
    }
    let long = directory.path().join("y".repeat(100 - directory.path().as_os_str().len()));
    assert!(Host::open(&long).is_err(), "no room for _PORT");
}

#[test]
fn accepted_streams_move_bytes_and_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v.sock");
    let listener = Listener::bind(&path).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    let mut client = UnixStream::connect(&path).unwrap();
    let stream = listener.accept().unwrap();
    let mut bytes = [0; 16];
    assert_eq!(stream.receive_bytes(&mut bytes, false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    client.write_all(b"CONNECT").unwrap();
    for peek in [true, false] {
        assert_eq!(stream.receive_bytes(&mut bytes, peek).unwrap(), 7);
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.receive_bytes(&mut bytes, false).unwrap(), 0);
    assert!(!stream.is_deaf(), "half closed");
    drop(client);
    assert!(stream.is_deaf());
}

#[test]
fn a_descriptor_that_came_by_name_works_like_one_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("v.sock");
    let listener = Listener::from_fd(OwnedFd::from(UnixListener::bind(&path).unwrap())).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    assert!(listener.accept().is_ok());
    assert!(client.as_fd().try_clone_to_owned().is_ok());
}
