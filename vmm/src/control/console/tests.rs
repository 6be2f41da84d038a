//! Tests of consoles through real sockets, one thread.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::super::console_ring::RING_BYTES;
use super::*;

/// A guest that reads so many bytes and then no more.
struct Guest {
    typed: Arc<Mutex<Vec<u8>>>,
    limit: Arc<AtomicUsize>,
    room: EventFd,
}

impl ConsoleInput for Guest {
    fn push(&self, bytes: &[u8]) -> usize {
        let mut typed = self.typed.lock().expect("locked");
        let taken = bytes.len().min(self.limit.load(Ordering::SeqCst).saturating_sub(typed.len()));
        typed.extend_from_slice(&bytes[..taken]);
        taken
    }

    fn room_fd(&self) -> RawFd {
        self.room.as_raw_fd()
    }

    fn clear_room(&self) {
        let _ = self.room.read();
    }
}

struct Bench {
    poller: RefCell<Poller>,
    consoles: Consoles,
    output: Arc<ConsoleOutput>,
    typed: Arc<Mutex<Vec<u8>>>,
    limit: Arc<AtomicUsize>,
    room: EventFd,
}

impl Bench {
    fn new() -> Self {
        let mut poller = Poller::new().expect("a poller");
        let mut consoles = Consoles::default();
        let output = Arc::new(ConsoleOutput::new().expect("an output"));
        let (typed, limit) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicUsize::new(usize::MAX)));
        let room = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        let guest =
            Guest { typed: Arc::clone(&typed), limit: Arc::clone(&limit), room: room.try_clone().expect("a copy") };
        consoles.add(Console::Serial, Arc::clone(&output), Box::new(guest), &mut poller).expect("added");
        Self { poller: RefCell::new(poller), consoles, output, typed, limit, room }
    }

    fn attach(&mut self) -> (UnixStream, ConsoleAttached) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let attached = self.consoles.attach(Console::Serial.into(), theirs.into(), self.poller.get_mut());
        ours.set_nonblocking(true).expect("non-blocking");
        (ours, attached.expect("attached"))
    }

    /// Serves until nothing is ready.
    fn turn(&mut self) {
        for _ in 0..1000 {
            let ready = self.poller.get_mut().ready().expect("polled");
            if ready.is_empty() {
                return;
            }
            for (token, news) in ready {
                self.consoles.on_ready(token, news, self.poller.get_mut());
            }
        }
        panic!("A console stays ready though nothing happens");
    }

    /// Everything that a viewer gets now.
    fn read(&mut self, viewer: &mut UnixStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            self.turn();
            let before = bytes.len();
            // It ends with "would block", and keeps what it read.
            let _ = viewer.read_to_end(&mut bytes);
            if bytes.len() == before {
                return bytes;
            }
        }
    }

    fn viewers(&self) -> (usize, usize) {
        (self.consoles.viewers.len(), self.output.viewers.load(Ordering::SeqCst))
    }
}

#[test]
fn every_viewer_gets_the_past_and_what_follows() {
    let mut bench = Bench::new();
    bench.output.print(b"boot ");
    let (mut first, attached) = bench.attach();
    assert_eq!(attached, ConsoleAttached { replay_bytes: 5, lost_bytes: 0 });
    assert_eq!(bench.read(&mut first), b"boot ");
    bench.output.print(b"login: ");
    let (mut second, _) = bench.attach();
    assert_eq!(bench.read(&mut first), b"login: ");
    assert_eq!(bench.read(&mut second), b"boot login: ");
}

#[test]
fn clients_of_a_listener_are_viewers() {
    let mut bench = Bench::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("console");
    let listener = UnixListener::bind(&path).expect("bound");
    listener.set_nonblocking(true).expect("non-blocking");
    bench.consoles.listen(Console::Serial, listener, bench.poller.get_mut()).expect("listening");
    bench.output.print(b"boot ");
    let mut viewers = [(); 2].map(|()| UnixStream::connect(&path).expect("connected"));
    for viewer in &mut viewers {
        viewer.set_nonblocking(true).expect("non-blocking");
        assert_eq!(bench.read(viewer), b"boot ");
    }
}

#[test]
fn slow_viewer_holds_nobody_up_and_misses_the_oldest() {
    let mut bench = Bench::new();
    let (mut slow, _) = bench.attach();
    let (mut quick, _) = bench.attach();
    let line = [b'x'; 1024];
    let lines = 4 * RING_BYTES / line.len();
    let mut got = 0;
    for _ in 0..lines {
        bench.output.print(&line);
        got += bench.read(&mut quick).len();
    }
    assert_eq!(got, lines * line.len());
    bench.output.print(b"end");
    let seen = bench.read(&mut slow);
    assert!(seen.len() < got);
    assert!(seen.ends_with(b"xend"));
}

#[test]
fn typing_waits_for_a_guest_that_does_not_read() {
    let mut bench = Bench::new();
    let (mut viewer, _) = bench.attach();
    bench.limit.store(10, Ordering::SeqCst);
    let text = vec![b't'; 3 * CHUNK_BYTES];
    viewer.write_all(&text).expect("written");
    bench.turn();
    assert_eq!(bench.typed.lock().expect("locked").len(), 10);

    bench.limit.store(usize::MAX, Ordering::SeqCst);
    bench.room.write(1).expect("signalled");
    bench.turn();
    assert_eq!(*bench.typed.lock().expect("locked"), text);
}

#[test]
fn viewer_that_leaves_is_forgotten_even_if_its_typing_was_not_taken() {
    let mut bench = Bench::new();
    bench.limit.store(0, Ordering::SeqCst);
    let (mut viewer, _) = bench.attach();
    viewer.write_all(b"never read").expect("written");
    bench.turn();
    assert_eq!(bench.viewers(), (1, 1));
    drop(viewer);
    bench.turn();
    assert_eq!(bench.viewers(), (0, 0));
}

#[test]
fn viewer_that_only_stops_typing_goes_on_looking() {
    let mut bench = Bench::new();
    let (mut viewer, _) = bench.attach();
    viewer.write_all(b"last").expect("written");
    viewer.shutdown(std::net::Shutdown::Write).expect("shut down");
    bench.turn();
    bench.output.print(b"answer");
    assert_eq!(bench.read(&mut viewer), b"answer");
    assert_eq!(*bench.typed.lock().expect("locked"), b"last");
}

#[test]
fn only_sockets_and_known_consoles_can_be_attached() {
    let mut bench = Bench::new();
    let (read, _write) = std::io::pipe().expect("a pipe");
    let refused = bench.consoles.attach(Console::Serial.into(), read.into(), bench.poller.get_mut());
    assert!(matches!(refused, Err(CommandError::WrongFd(_))));
    for number in [0, i32::from(Console::Virtio), 99] {
        let (_ours, theirs) = UnixStream::pair().expect("a pair");
        let refused = bench.consoles.attach(number, theirs.into(), bench.poller.get_mut());
        assert!(matches!(refused, Err(CommandError::NotFound { field: "console", .. })));
    }
    let all: Vec<_> = (0..MAX_VIEWERS).map(|_| bench.attach()).collect();
    let (_ours, theirs) = UnixStream::pair().expect("a pair");
    let refused = bench.consoles.attach(Console::Serial.into(), theirs.into(), bench.poller.get_mut());
    assert!(matches!(refused, Err(CommandError::Exhausted { .. })));
    drop(all);
    bench.turn();
    assert_eq!(bench.viewers(), (0, 0));
}

#[test]
fn socket_that_is_not_connected_is_let_go() {
    let mut bench = Bench::new();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    bench.output.print(b"x");
    bench.consoles.attach(Console::Serial.into(), socket.into(), bench.poller.get_mut()).expect("attached");
    bench.turn();
    assert_eq!(bench.viewers(), (0, 0));
}
