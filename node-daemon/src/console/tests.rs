//! A console against a socket that a test holds the other end of.

use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn console() -> (Console, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let files = ConsoleFiles { log: directory.path().join("vm.log"), mark: directory.path().join("mark") };
    (Console::new(files), directory)
}

fn plug(console: &Console, begin: Begin) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    console.attach(ours, begin);
    theirs
}

/// Sees until so many bytes came; fails when anything is lost.
async fn see(viewer: &mut Viewer, count: usize) -> (Vec<u8>, Vec<bool>) {
    let (mut bytes, mut replays) = (Vec::new(), Vec::new());
    while bytes.len() < count {
        let seen = timeout(SOON, viewer.next()).await.expect("something to see");
        assert_eq!(seen.lost_bytes, 0);
        bytes.extend_from_slice(&seen.data);
        replays.push(seen.replay);
    }
    (bytes, replays)
}

/// Waits until the log holds this, without sleeping: the pump ends with its stream, and the log with it.
async fn logged(console: &Console, stream: UnixStream) -> Vec<u8> {
    let pump = console.shared.state().pump.clone().expect("a pump");
    drop(stream);
    timeout(SOON, async {
        while !pump.is_finished() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the pump ends");
    std::fs::read(&console.shared.files.log).expect("a log")
}

#[tokio::test]
async fn two_viewers_see_the_past_and_the_present_and_both_type() {
    let (console, _directory) = console();
    let mut guest = plug(&console, Begin::PowerOn);
    let mut first = console.view();
    guest.write_all(b"hello").await.expect("printed");
    assert_eq!(see(&mut first, 5).await, (b"hello".to_vec(), vec![false]));

    let mut second = console.view();
    guest.write_all(b" world").await.expect("printed");
    assert_eq!(see(&mut second, 11).await, (b"hello world".to_vec(), vec![true, false]));
    assert_eq!(see(&mut first, 6).await, (b" world".to_vec(), vec![false]));

    console.type_in(Bytes::from_static(b"a")).await.expect("typed");
    console.type_in(Bytes::from_static(b"b")).await.expect("typed");
    let mut typed = [0; 2];
    timeout(SOON, guest.read_exact(&mut typed)).await.expect("in time").expect("typed");
    assert_eq!(&typed, b"ab");
    console.detach();
    assert_eq!(console.type_in(Bytes::from_static(b"c")).await, Err(NotListening));
}

#[tokio::test]
async fn a_slow_viewer_loses_the_oldest_and_is_told() {
    let (console, _directory) = console();
    let mut guest = plug(&console, Begin::PowerOn);
    let mut slow = console.view();
    let mut quick = console.view();
    let block = vec![b'x'; 4096];
    let total = RING_BYTES + 10 * block.len();
    for _ in 0..total / block.len() {
        guest.write_all(&block).await.expect("printed");
        see(&mut quick, block.len()).await;
    }
    let seen = timeout(SOON, slow.next()).await.expect("something");
    assert_eq!(seen.lost_bytes as usize, total - RING_BYTES);
}

#[tokio::test]
async fn a_viewer_stays_when_the_vm_is_started_again() {
    let (console, _directory) = console();
    let mut guest = plug(&console, Begin::PowerOn);
    let mut viewer = console.view();
    guest.write_all(b"one").await.expect("printed");
    assert_eq!(see(&mut viewer, 3).await.0, b"one");
    let mut guest = plug(&console, Begin::PowerOn);
    guest.write_all(b"two").await.expect("printed");
    assert_eq!(see(&mut viewer, 3).await.0, b"two");
    assert_eq!(see(&mut console.view(), 3).await.0, b"two", "the ring is since power-on");
}

#[tokio::test]
async fn the_log_has_every_byte_once_after_a_restart_of_the_daemon() {
    let (console, directory) = console();
    let mut guest = plug(&console, Begin::PowerOn);
    let mut viewer = console.view();
    guest.write_all(b"first run\n").await.expect("printed");
    see(&mut viewer, 10).await;
    assert_eq!(logged(&console, guest).await, b"first run\n");

    let mut guest = plug(&console, Begin::PowerOn);
    guest.write_all(b"abcdef").await.expect("printed");
    see(&mut viewer, 6).await;
    assert_eq!(logged(&console, guest).await, b"first run\nabcdef");

    // A new daemon; the VMM forgot two bytes, and printed two while nobody listened.
    let files = ConsoleFiles { log: directory.path().join("vm.log"), mark: directory.path().join("mark") };
    let console = Console::new(files);
    let mut guest = plug(&console, Begin::Again { replay_bytes: 6, lost_bytes: 2 });
    guest.write_all(b"cdefghi").await.expect("printed");
    see(&mut console.view(), 7).await;
    assert_eq!(logged(&console, guest).await, b"first run\nabcdefghi");

    let mut guest = plug(&console, Begin::Again { replay_bytes: 1, lost_bytes: 20 });
    guest.write_all(b"z").await.expect("printed");
    let text = logged(&console, guest).await;
    assert!(text.ends_with(b"[11 bytes were not logged]\nz"), "{}", String::from_utf8_lossy(&text));
}

#[tokio::test]
async fn the_log_is_rotated_and_its_tail_goes_over_both_files() {
    let (console, directory) = console();
    let log = directory.path().join("vm.log");
    std::fs::write(&log, vec![b'o'; 8 << 20]).expect("written");
    let mut guest = plug(&console, Begin::PowerOn);
    guest.write_all(b"new").await.expect("printed");
    assert_eq!(logged(&console, guest).await, b"new");
    assert_eq!(tail(&log, 5).expect("read"), Tail { data: b"oonew".to_vec(), truncated: true });
    assert_eq!(tail(&log, 2).expect("read"), Tail { data: b"ew".to_vec(), truncated: true });
    assert_eq!(tail(&directory.path().join("none"), 5).expect("read"), Tail::default());

    let guest = {
        let mut guest = plug(&console, Begin::Again { replay_bytes: 3, lost_bytes: 0 });
        guest.write_all(b"newer").await.expect("printed");
        guest
    };
    assert_eq!(logged(&console, guest).await, b"newer", "the mark moved with the rotation");
}

proptest! {
    #[test]
    fn a_ring_keeps_the_newest_bytes(writes in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
        let mut ring = Ring::new(32);
        let mut all = Vec::new();
        for bytes in writes {
            ring.write(&bytes);
            all.extend(bytes);
            prop_assert_eq!(ring.end(), all.len() as u64);
            let kept = &all[all.len().saturating_sub(32)..];
            prop_assert_eq!(ring.read(ring.start(), 64), kept);
            prop_assert_eq!(ring.read(0, 5), &kept[..kept.len().min(5)]);
            prop_assert_eq!(ring.read(ring.end() + 3, 5), Vec::<u8>::new());
        }
    }
}

/// As a guest prints: a byte at a time, each of which finds the log at work on the ones before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_come_while_the_log_is_at_work_are_logged_too() {
    let (console, _directory) = console();
    let mut guest = plug(&console, Begin::PowerOn);
    let mut viewer = console.view();
    let said: Vec<u8> = (0..600_u32).map(|number| b'a' + (number % 26) as u8).collect();
    for byte in &said {
        guest.write_all(&[*byte]).await.expect("printed");
        see(&mut viewer, 1).await;
    }
    assert_eq!(logged(&console, guest).await, said);
}
