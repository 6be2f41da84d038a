//! Tests of the store: names, packets, what is refused. `inherit` is tested in a process of its own (`tests/sandbox`).

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, ControlMessage, SockFlag, SockType, sendmsg, socketpair};

use super::*;

fn null() -> OwnedFd {
    File::open("/dev/null").unwrap().into()
}

fn packets() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

fn send(socket: &OwnedFd, names: &str, files: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(files)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(names.as_bytes())], &rights, MsgFlags::empty(), None).unwrap();
}

#[test]
fn names_follow_the_rule() {
    let longest = "a".repeat(63);
    for good in ["kvm", "0", "disk-0.raw", "a_b", longest.as_str()] {
        assert!(good.parse::<FdName>().is_ok(), "{good}");
    }
    let too_long = "a".repeat(64);
    for bad in ["", "-a", ".a", "A", "a b", "a/b", "ä", "a\n", too_long.as_str()] {
        assert!(matches!(bad.parse::<FdName>(), Err(FdStoreError::Name(_))), "{bad:?}");
    }
}

#[test]
fn a_file_is_taken_once() {
    let mut store = FdStore::new();
    let name: FdName = "disk".parse().unwrap();
    store.insert(name.clone(), null()).unwrap();
    assert!(matches!(store.insert(name.clone(), null()), Err(FdStoreError::Taken(_))));
    assert!(store.borrow(&name).is_ok());
    store.take(&name).unwrap();
    let again = store.take(&name).unwrap_err();
    assert_eq!(again.to_string(), "No file named disk was passed, or it is in use");
    assert_eq!(store.names().count(), 0);
}

#[test]
fn a_packet_brings_files_that_work_and_close_on_exec() {
    let (ours, theirs) = packets();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    send(&theirs, "tap0\nnull\n", &[writer.as_raw_fd(), null().as_raw_fd()]);
    writer.write_all(b"x").unwrap();
    drop(writer);

    let mut store = FdStore::new();
    let names = store.receive(ours.as_fd()).unwrap();
    assert_eq!(names.iter().map(FdName::as_str).collect::<Vec<_>>(), ["tap0", "null"]);
    assert_eq!(store.names().map(FdName::as_str).collect::<Vec<_>>(), ["null", "tap0"]);
    let passed = store.take(&names[0]).unwrap();
    assert_eq!(fcntl(&passed, FcntlArg::F_GETFD).unwrap(), FdFlag::FD_CLOEXEC.bits());
    File::from(passed).write_all(b"y").unwrap();
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "xy");
}

#[test]
fn a_bad_packet_leaves_nothing_behind() {
    let null = null();
    let file = null.as_raw_fd();
    for (names, files) in [
        ("a\nb\n", vec![file]),
        ("a\n", vec![file, file]),
        ("a\na\n", vec![file, file]),
        ("fresh\nheld\n", vec![file, file]),
        ("a\nB\n", vec![file, file]),
        ("\n", vec![file]),
    ] {
        let (ours, theirs) = packets();
        let mut store = FdStore::new();
        store.insert("held".parse().unwrap(), null.try_clone().unwrap()).unwrap();
        send(&theirs, names, &files);
        assert!(store.receive(ours.as_fd()).is_err(), "{names:?}");
        assert_eq!(store.names().map(FdName::as_str).collect::<Vec<_>>(), ["held"], "{names:?}");
    }
}

#[test]
fn a_packet_without_files_and_a_closed_socket_are_errors() {
    let (ours, theirs) = packets();
    send(&theirs, "a\n", &[]);
    let mut store = FdStore::new();
    assert!(matches!(store.receive(ours.as_fd()), Err(FdStoreError::Packet { files: 0, names: 1 })));
    drop(theirs);
    assert!(matches!(store.receive(ours.as_fd()), Err(FdStoreError::Packet { files: 0, names: 0 })));
}
