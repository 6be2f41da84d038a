//! Tests of the server through real sockets, one thread: what a client sent is there at once, so a turn serves it.

use std::io::Read;
use std::os::fd::BorrowedFd;

use proptest::prelude::*;
use quantix_vmm_api::call::{Call, CallError};
use quantix_vmm_api::transport::Connection;
use quantix_vmm_api::v1;
use quantix_vmm_api::v1::event::Kind;
use quantix_vmm_api::v1::{Envelope, Event, Info, RateLimit, Request, Response, Statistics};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent};

use super::*;
use crate::control::{EventSender, Phase, event_queue};

/// A machine of which only the phase and what it was told matter.
struct Machine {
    phase: Phase,
    told: Vec<String>,
    fds: BTreeMap<String, OwnedFd>,
    devices: usize,
}

impl Machine {
    #[expect(clippy::unnecessary_wraps, reason = "it ends the methods of the contract")]
    fn tell(&mut self, what: impl Into<String>) -> Result<(), CommandError> {
        self.told.push(what.into());
        Ok(())
    }
}

impl Commands for Machine {
    fn phase(&self) -> Phase {
        self.phase
    }

    fn info(&self) -> Info {
        Info { phase: v1::Phase::from(self.phase).into(), cpus: 2, ..Info::default() }
    }

    fn pause(&mut self) -> Result<(), CommandError> {
        self.phase = Phase::Paused;
        self.tell("pause")
    }

    fn resume(&mut self) -> Result<(), CommandError> {
        self.phase = Phase::Running;
        self.tell("resume")
    }

    fn press_power_button(&mut self) -> Result<(), CommandError> {
        self.tell("power button")
    }

    fn reset(&mut self) -> Result<(), CommandError> {
        Err(CommandError::Host { what: "reset", source: io::Error::from_raw_os_error(libc::EIO) })
    }

    fn stop(&mut self) -> Result<(), CommandError> {
        self.phase = Phase::Stopped;
        self.tell("stop")
    }

    fn set_balloon(&mut self, size_bytes: u64) -> Result<(), CommandError> {
        self.tell(format!("balloon {size_bytes}"))
    }

    fn set_rate_limit(&mut self, device_id: &str, limit: RateLimit) -> Result<(), CommandError> {
        self.tell(format!("limit {device_id} {} {}", limit.operations_per_second, limit.bytes_per_second))
    }

    fn add_fd(&mut self, name: &str, fd: OwnedFd) -> Result<(), CommandError> {
        self.fds.insert(name.to_owned(), fd);
        Ok(())
    }

    fn take_fd(&mut self, name: &str) -> Result<OwnedFd, CommandError> {
        let missing = || CommandError::NotFound { kind: "descriptor", name: name.to_owned(), field: "name" };
        self.fds.remove(name).ok_or_else(missing)
    }

    fn statistics(&self, _: &v1::GetStatistics) -> Result<Statistics, CommandError> {
        let device = v1::DeviceStatistics { device_id: "d".repeat(60), ..v1::DeviceStatistics::default() };
        Ok(Statistics { devices: vec![device; self.devices], ..Statistics::default() })
    }

    fn boot_timeline(&self) -> v1::BootTimeline {
        v1::BootTimeline::default()
    }
}

struct Bench {
    main_loop: Epoll,
    server: Server,
    machine: Machine,
    events: EventSender,
    path: std::path::PathBuf,
    _folder: tempfile::TempDir,
    buffer: PacketBuffer,
    last_id: u64,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("control");
        let (events, receiver) = event_queue().expect("a queue");
        let server = Server::new(Some(Listener::bind(&path).expect("bound")), receiver).expect("a server");
        let main_loop = Epoll::new().expect("an epoll");
        let event = EpollEvent::new(EventSet::IN, 0);
        main_loop.ctl(ControlOperation::Add, server.as_raw_fd(), event).expect("watched");
        let machine = Machine { phase: Phase::Running, told: Vec::new(), fds: BTreeMap::new(), devices: 0 };
        Self { main_loop, server, machine, events, path, _folder: folder, buffer: PacketBuffer::new(), last_id: 0 }
    }

    fn connect(&mut self) -> Connection {
        let client = Connection::connect(&self.path).expect("connected");
        self.turn();
        client
    }

    /// Serves until nothing is ready.
    fn turn(&mut self) {
        for _ in 0..100 {
            // As the main loop does: behind an epoll of its own.
            if self.main_loop.wait(0, &mut [EpollEvent::default()]).expect("polled") == 0 {
                return;
            }
            self.server.on_ready(&mut self.machine).expect("served");
        }
        panic!("The server stays ready though nothing happens");
    }

    fn send<C: Call>(&mut self, client: &Connection, command: C, fds: &[BorrowedFd<'_>]) -> u64 {
        self.last_id += 1;
        let request = Request { id: self.last_id, command: Some(command.into_command()) };
        client.send(&Envelope { message: Some(Message::Request(request)) }, fds).expect("sent");
        self.last_id
    }

    fn call<C: Call>(&mut self, client: &Connection, command: C) -> Result<C::Reply, CallError> {
        self.call_with_fds(client, command, &[]).map(|(reply, _)| reply)
    }

    fn call_with_fds<C: Call>(
        &mut self,
        client: &Connection,
        command: C,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(C::Reply, Vec<OwnedFd>), CallError> {
        let id = self.send(client, command, fds);
        self.turn();
        let packet = client.receive(&mut self.buffer).expect("an answer");
        let Some(Message::Response(Response { id: answered, outcome })) = packet.envelope.message else {
            panic!("no response: {packet:?}");
        };
        assert_eq!(answered, id);
        Ok((C::reply(outcome, packet.fds.len())?, packet.fds))
    }

    fn event(&mut self, client: &Connection) -> Option<Event> {
        match client.receive(&mut self.buffer) {
            Ok(Packet { envelope: Envelope { message: Some(Message::Event(event)) }, .. }) => Some(event),
            Err(TransportError::WouldBlock) => None,
            other => panic!("no event: {other:?}"),
        }
    }
}

fn refused<T: std::fmt::Debug>(result: Result<T, CallError>) -> ControlError {
    match result {
        Err(CallError::Refused(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn commands_reach_the_machine_and_answers_come_back() {
    let mut bench = Bench::new();
    let client = bench.connect();
    assert_eq!(bench.call(&client, v1::GetInfo {}).expect("told").cpus, 2);
    bench.call(&client, v1::SetBalloon { size_bytes: 4096 }).expect("set");
    let limit = Some(RateLimit { operations_per_second: 5, bytes_per_second: 0 });
    bench.call(&client, v1::SetRateLimit { device_id: "disk0".into(), limit }).expect("set");
    bench.call(&client, v1::PressPowerButton {}).expect("pressed");
    assert_eq!(bench.machine.told, ["balloon 4096", "limit disk0 5 0", "power button"]);
}

#[test]
fn phase_decides_before_the_machine_is_asked() {
    let mut bench = Bench::new();
    let client = bench.connect();
    bench.call(&client, v1::Pause {}).expect("paused");
    let error = refused(bench.call(&client, v1::Pause {}));
    assert_eq!(error.code(), ErrorCode::WrongPhase);
    bench.call(&client, v1::Resume {}).expect("resumed");
    assert_eq!(bench.machine.told, ["pause", "resume"]);

    bench.call(&client, v1::Stop {}).expect("the answer goes out before the end");
    assert_eq!(refused(bench.call(&client, v1::Stop {})).code(), ErrorCode::WrongPhase);
}

#[test]
fn failures_of_the_host_are_told_with_their_cause() {
    let mut bench = Bench::new();
    let client = bench.connect();
    let error = refused(bench.call(&client, v1::Reset {}));
    assert_eq!(error.code(), ErrorCode::Internal);
    assert_eq!(error.message, "Could not reset: Input/output error (os error 5)");
}

#[test]
fn descriptors_go_in_and_come_out_again() {
    let mut bench = Bench::new();
    let client = bench.connect();
    let (read, write) = nix::unistd::pipe().expect("a pipe");
    bench.call_with_fds(&client, v1::AddFd { name: "log".into() }, &[write.as_fd()]).expect("added");
    drop(write);
    let (_, fds) = bench.call_with_fds(&client, v1::TakeFd { name: "log".into() }, &[]).expect("taken");
    nix::unistd::write(&fds[0], b"hello").expect("written");
    drop(fds);
    let mut text = String::new();
    std::fs::File::from(read).read_to_string(&mut text).expect("read to the end, so nobody else holds it");
    assert_eq!(text, "hello");

    let error = refused(bench.call(&client, v1::TakeFd { name: "log".into() }));
    assert_eq!((error.code(), error.field.as_str()), (ErrorCode::NotFound, "name"));
}

#[test]
fn wrong_number_of_descriptors_is_refused_and_they_are_closed() {
    let mut bench = Bench::new();
    let client = bench.connect();
    let (mut read, write) = std::io::pipe().expect("a pipe");
    let fds = [write.as_fd(), write.as_fd()];
    let two = refused(bench.call_with_fds(&client, v1::AddFd { name: "a".into() }, &fds));
    let none = refused(bench.call(&client, v1::AddFd { name: "a".into() }));
    let unasked = refused(bench.call_with_fds(&client, v1::GetInfo {}, &fds[..1]));
    for error in [two, none, unasked] {
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
    }
    drop(write);
    assert_eq!(read.read(&mut [0]).expect("the end"), 0);
    assert!(bench.machine.fds.is_empty());
}

#[test]
fn answer_that_is_too_long_becomes_a_refusal() {
    let mut bench = Bench::new();
    let client = bench.connect();
    bench.machine.devices = 2000;
    let error = refused(bench.call(&client, v1::GetStatistics::default()));
    assert_eq!(error.code(), ErrorCode::ResourceExhausted);
    bench.machine.devices = 20;
    assert_eq!(bench.call(&client, v1::GetStatistics::default()).expect("told").devices.len(), 20);
}

#[test]
fn events_reach_subscribers_of_their_kind() {
    let mut bench = Bench::new();
    let [all, power, none] = [(); 3].map(|()| bench.connect());
    bench.call(&all, v1::SubscribeEvents { kinds: Vec::new() }).expect("subscribed");
    let kinds = vec![v1::EventKind::GuestPower.into()];
    bench.call(&power, v1::SubscribeEvents { kinds }).expect("subscribed");
    let error = refused(bench.call(&none, v1::SubscribeEvents { kinds: vec![99] }));
    assert_eq!((error.code(), error.field.as_str()), (ErrorCode::InvalidArgument, "kinds"));

    bench.events.send(Kind::GuestPanicked(v1::GuestPanicked { crash_loaded: false }));
    bench.events.send(Kind::GuestShutdown(v1::GuestShutdown {}));
    bench.turn();
    let sequences = |bench: &mut Bench, client: &Connection| {
        let mut sequences = Vec::new();
        while let Some(event) = bench.event(client) {
            assert!(event.time_ns > 0);
            sequences.push(event.sequence);
        }
        sequences
    };
    assert_eq!(sequences(&mut bench, &all), [1, 2]);
    assert_eq!(sequences(&mut bench, &power), [2]);
    assert!(sequences(&mut bench, &none).is_empty());
}

#[test]
fn slow_subscriber_loses_events_and_learns_how_many() {
    let mut bench = Bench::new();
    let client = bench.connect();
    bench.call(&client, v1::SubscribeEvents::default()).expect("subscribed");
    let total = 1500_u64;
    for _ in 0..total {
        let message = "x".repeat(1000);
        bench.events.send(Kind::LogWarning(v1::LogWarning { message, ..v1::LogWarning::default() }));
        bench.server.on_ready(&mut bench.machine).expect("served");
    }
    let mut received = 0;
    let mut lost = 0;
    loop {
        bench.turn();
        let Some(event) = bench.event(&client) else { break };
        received += 1;
        lost += event.lost;
        assert_eq!(event.sequence, received + lost);
    }
    assert!(received < total, "nothing was lost: the test is too small");
    // The tail was lost after the last event that was sent; the next one tells.
    bench.events.send(Kind::GuestShutdown(v1::GuestShutdown {}));
    bench.turn();
    let last = bench.event(&client).expect("an event");
    assert_eq!(received + lost + last.lost, total);
}

#[test]
fn client_that_does_not_read_is_not_read_from_and_loses_no_answer() {
    let mut bench = Bench::new();
    let client = bench.connect();
    bench.machine.devices = 900;
    let mut sent = 0;
    while sent < 400 {
        sent += 1;
        let request = Request { id: sent, command: Some(v1::GetStatistics::default().into_command()) };
        let packet = Envelope { message: Some(Message::Request(request)) };
        if client.send(&packet, &[]).is_err() {
            sent -= 1;
            break;
        }
        bench.turn();
    }
    // Another client is served all the while.
    let other = bench.connect();
    bench.call(&other, v1::GetInfo {}).expect("told");

    for expected in 1..=sent {
        let packet = client.receive(&mut bench.buffer).expect("an answer");
        let Some(Message::Response(response)) = packet.envelope.message else { panic!("no response") };
        assert_eq!(response.id, expected);
        bench.turn();
    }
}

#[test]
fn too_many_clients_are_turned_away_until_one_leaves() {
    let mut bench = Bench::new();
    let mut clients: Vec<Connection> = (0..MAX_SESSIONS).map(|_| bench.connect()).collect();
    let refused = bench.connect();
    assert!(matches!(refused.receive(&mut bench.buffer), Err(TransportError::Closed)));
    clients.pop();
    bench.turn();
    let client = bench.connect();
    bench.call(&client, v1::GetInfo {}).expect("told");
}

#[test]
fn end_sends_the_last_events() {
    let mut bench = Bench::new();
    let client = bench.connect();
    bench.call(&client, v1::SubscribeEvents::default()).expect("subscribed");
    bench.events.send(Kind::GuestShutdown(v1::GuestShutdown {}));
    let Bench { server, mut buffer, .. } = bench;
    server.finish();
    assert!(matches!(client.receive(&mut buffer).expect("an event").envelope.message, Some(Message::Event(_))));
    assert!(matches!(client.receive(&mut buffer), Err(TransportError::Closed)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a client sends, the server neither panics nor spins, and others are served.
    #[test]
    fn hostile_packets_are_survived(packets in proptest::collection::vec(
        (proptest::collection::vec(any::<u8>(), 1..300), any::<bool>()), 1..20,
    )) {
        let mut bench = Bench::new();
        let (hostile, other) = (bench.connect(), bench.connect());
        for (mut bytes, framed) in packets {
            if framed {
                // An envelope with a request, the rest as it comes.
                bytes.truncate(120);
                bytes.splice(0..0, [0x0a, bytes.len() as u8]);
            }
            let _ = hostile.send_encoded(&bytes, &[hostile.as_fd()]);
            bench.turn();
        }
        bench.machine.phase = Phase::Running;
        prop_assert_eq!(bench.call(&other, v1::GetInfo {}).expect("told").cpus, 2);
    }
}
