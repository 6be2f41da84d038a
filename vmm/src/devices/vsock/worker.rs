//! The worker of the socket device: packets and events in, packets out.
//!
//! Runs on a reactor thread. It must not block, and stops after a budget of packets; what is left it announces to itself by a kick.
//! Nothing that the guest does makes it hold more than: connections times credit, and a bounded queue of resets.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::Shutdown;
use std::sync::Arc;

use super::connection::{Connection, Owed, Phase, Reaction};
use super::link::{Greeting, Link};
use super::packet::{HEADER_LEN, HOST_CID, Header, Op, Ports, STREAM};
use super::table::Table;
use crate::backend::IoVecs;
use crate::backend::iovecs::MAX_IOVECS;
use crate::backend::vsock_unix::Host;
use crate::telemetry::QueueCounters;
use crate::virtio::{Chain, GuestFault, Interest, Polled, Queue, SliceList, Source, Worker, WorkerError};

const RECEIVE_KICK: u32 = 0;
const TRANSMIT_KICK: u32 = 1;
const LISTENER: u32 = 2;
const CONNECTOR: u32 = 3;

/// Packets in one direction before other devices of the thread get their turn.
const BUDGET: u32 = 64;
/// New connections taken from the listener or the connector at a time.
const ARRIVALS: usize = 16;
/// Resets that wait for receive buffers before no more packets are taken from the guest.
const MAX_RESETS: usize = 256;

/// The device's queues, each with its counters.
pub(super) struct Queues {
    pub(super) receive: (Queue, Arc<QueueCounters>),
    pub(super) transmit: (Queue, Arc<QueueCounters>),
    /// For the news of a transport reset, which only a restored snapshot has.
    pub(super) _event: Option<Queue>,
}

/// The worker.
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct VsockWorker {
    cid: u64,
    host: Arc<Host>,
    queues: Queues,
    table: Table,
    resets: VecDeque<Header>,
    accepting: bool,
    connector_lives: bool,
    sources_changed: bool,
    polling: bool,
    vectors: IoVecs,
    piece: SliceList,
}

impl VsockWorker {
    /// A worker for the guest with context id `cid`; ids of its connections begin at `first_id`.
    pub(super) fn new(cid: u64, host: Arc<Host>, mut queues: Queues, first_id: u32) -> Result<Self, GuestFault> {
        // Kicks of the receive queue matter only when we have run out of buffers.
        queues.receive.0.disable_kicks()?;
        let connector_lives = host.connector.is_some();
        Ok(Self {
            cid,
            host,
            queues,
            table: Table::new(first_id),
            resets: VecDeque::new(),
            accepting: true,
            connector_lives,
            sources_changed: false,
            polling: false,
            vectors: IoVecs::default(),
            piece: SliceList::default(),
        })
    }

    // From the guest.

    /// Handles the packets that the guest sends, at most [`BUDGET`]; returns how many.
    fn transmit(&mut self) -> Result<u32, GuestFault> {
        let mut packets = 0;
        self.queues.transmit.0.disable_kicks()?;
        while packets < BUDGET && self.resets.len() < MAX_RESETS {
            let Some(chain) = self.queues.transmit.0.pop()? else {
                if self.polling || !self.queues.transmit.0.enable_kicks()? {
                    break;
                }
                self.queues.transmit.0.disable_kicks()?;
                continue;
            };
            self.packet(&chain)?;
            self.queues.transmit.0.push(chain, 0)?;
            packets += 1;
        }
        if packets >= BUDGET && !self.polling {
            self.queues.transmit.0.kick_self();
        }
        if packets > 0 {
            self.queues.transmit.0.signal()?;
        }
        Ok(packets)
    }

    /// Handles one packet of the guest.
    fn packet(&mut self, chain: &Chain) -> Result<(), GuestFault> {
        let packet = &chain.readable;
        let fault = |reason| GuestFault::Length { head: chain.head(), reason };
        if !chain.writable.is_empty() {
            return Err(GuestFault::Protocol("A packet to transmit has a device-writable buffer"));
        }
        let header = Header::read(packet).ok_or_else(|| fault("a packet is shorter than its header"))?;
        let len = header.len as usize;
        if packet.slices().len() > MAX_IOVECS {
            return Err(fault("a packet has more than 1024 buffers"));
        }
        packet.sub_into(HEADER_LEN, len, &mut self.piece).ok_or_else(|| fault("a packet is shorter than it says"))?;
        let counters = &self.queues.transmit.1;
        counters.add(1, u64::from(header.len));
        if header.source_cid != self.cid || header.target_cid != HOST_CID {
            counters.add_error();
            return Ok(());
        }
        let op = Op::try_from(header.op).ok().filter(|_| header.kind == STREAM);
        match (self.table.find(header.ports()), op) {
            (Some(id), Some(op)) => self.packet_on(id, op, &header),
            (Some(id), None) => self.reset(id),
            (None, Some(Op::Request)) => self.guest_connects(&header),
            (None, Some(Op::Reset)) => {}
            (None, _) => self.refuse(header.ports(), header.kind),
        }
        Ok(())
    }

    /// Handles a packet on a connection that exists; its data is in `self.piece`.
    fn packet_on(&mut self, id: u32, op: Op, header: &Header) {
        let Some(entry) = self.table.get(id) else { return };
        match entry.state.take(op, header) {
            Reaction::None => {}
            Reaction::Forget => {
                self.table.remove(id);
            }
            Reaction::Reset => return self.reset(id),
            Reaction::Greet => {
                if entry.link.greet(header.target_port).is_err() {
                    return self.reset(id);
                }
            }
            Reaction::Write => {
                let receives = entry.state.host_receives();
                let taken = receives.then(|| entry.link.write(&self.piece, &mut self.vectors));
                if let Some(Ok(taken)) = taken {
                    entry.state.forwarded(taken);
                } else {
                    // Nobody will ever take it: the credit goes back.
                    entry.state.forwarded(header.len);
                    self.host_is_deaf(id);
                }
            }
            Reaction::Ended => return self.settle(id),
        }
        self.table.update(id);
    }

    /// The guest asks for a connection to a host port.
    fn guest_connects(&mut self, header: &Header) {
        let mut state = Connection::new(Phase::Connecting);
        state.learn(header);
        let connector = self.host.connector.as_ref().filter(|_| self.connector_lives);
        let asked = connector.is_some_and(|connector| {
            let id = self.table.insert(state, Link::default(), Some(header.ports()));
            id.is_some_and(|id| {
                let asked = connector.request(id, header.target_port).is_ok();
                if !asked {
                    self.table.remove(id);
                }
                asked
            })
        });
        if !asked {
            self.refuse(header.ports(), STREAM);
        }
    }

    // The ends of connections.

    /// Owes the guest a reset for a connection that does not exist.
    fn refuse(&mut self, ports: Ports, kind: u16) {
        self.resets.push_back(Header { kind, ..Header::to_guest(self.cid, ports, Op::Reset) });
    }

    /// Ends a connection at once, on both sides.
    fn reset(&mut self, id: u32) {
        if let Some(ports) = self.table.remove(id) {
            self.refuse(ports, STREAM);
        }
    }

    /// The host program reads no more: what it has not taken is lost, as on any broken stream.
    fn host_is_deaf(&mut self, id: u32) {
        if let Some(entry) = self.table.get(id) {
            let lost = entry.link.discard();
            entry.state.forwarded(lost);
            entry.state.host_receives_no_more();
        }
    }

    /// Carries out the ends that the guest has announced, once nothing of it is left to pass on.
    fn settle(&mut self, id: u32) {
        let Some(entry) = self.table.get(id) else { return };
        let flushed = entry.link.is_flushed();
        if !entry.state.guest_receives() {
            entry.link.shutdown(Shutdown::Read);
        }
        if !entry.state.guest_sends() && flushed {
            entry.link.shutdown(Shutdown::Write);
        }
        if entry.state.guest_is_done() && flushed {
            return self.reset(id);
        }
        self.table.update(id);
    }

    // From the host.

    /// Takes new connections of host programs.
    fn accept(&mut self) {
        for _ in 0..ARRIVALS {
            if self.table.is_full() {
                return self.set_accepting(false);
            }
            match self.host.listener.accept() {
                Ok(stream) => {
                    let state = Connection::new(Phase::Greeting);
                    if let Some(id) = self.table.insert(state, Link::new(Some(stream)), None) {
                        self.stream_event(id);
                    }
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // Most likely too many files are open: try again when something else has happened.
                Err(_) => return self.set_accepting(false),
            }
        }
    }

    fn set_accepting(&mut self, accepting: bool) {
        self.sources_changed |= self.accepting != accepting;
        self.accepting = accepting;
    }

    /// Takes the connector's answers.
    fn answers(&mut self) {
        let host = self.host.clone();
        let Some(connector) = host.connector.as_ref().filter(|_| self.connector_lives) else { return };
        for _ in 0..ARRIVALS {
            let answer = match connector.answer() {
                Ok(answer) => answer,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.connector_died(),
            };
            // An answer whose connection is gone: the stream is closed again.
            let Some(entry) = self.table.get(answer.id).filter(|e| e.state.phase == Phase::Connecting) else {
                continue;
            };
            match answer.stream {
                Ok(stream) => {
                    entry.link.connect(stream);
                    entry.state.connected();
                    self.table.set_changed();
                    self.table.update(answer.id);
                }
                Err(_) => self.reset(answer.id),
            }
        }
    }

    fn connector_died(&mut self) {
        self.connector_lives = false;
        self.sources_changed = true;
        for id in self.table.ids(|entry| entry.state.phase == Phase::Connecting) {
            self.reset(id);
        }
    }

    /// Something happened on a connection's stream.
    fn stream_event(&mut self, id: u32) {
        let Some(entry) = self.table.get(id) else { return };
        match entry.state.phase {
            Phase::Greeting => return self.greeting(id),
            // The host program did not wait for the guest's answer.
            Phase::Requested if entry.link.is_deaf() => return self.reset(id),
            Phase::Requested | Phase::Connecting => return,
            Phase::Open => entry.state.readable = true,
        }
        if !entry.link.is_flushed() {
            match entry.link.flush() {
                Ok(taken) => entry.state.forwarded(taken),
                Err(_) => self.host_is_deaf(id),
            }
            return self.settle(id);
        }
        self.table.update(id);
    }

    fn greeting(&mut self, id: u32) {
        let Some(entry) = self.table.get(id) else { return };
        match entry.link.greeting() {
            Greeting::Unfinished => {}
            Greeting::Nonsense => {
                self.table.remove(id);
            }
            Greeting::Port(port) => {
                entry.state.request();
                self.table.bind(id, port);
                self.table.update(id);
            }
        }
    }

    // To the guest.

    /// Sends the guest what it is owed, as long as it has buffers, at most [`BUDGET`] packets; returns how many.
    fn receive(&mut self) -> Result<u32, GuestFault> {
        let mut packets = 0;
        self.queues.receive.0.disable_kicks()?;
        while packets < BUDGET && (self.table.has_ready() || !self.resets.is_empty()) {
            let Some(chain) = self.queues.receive.0.pop()? else {
                if self.polling || !self.queues.receive.0.enable_kicks()? {
                    break;
                }
                self.queues.receive.0.disable_kicks()?;
                continue;
            };
            let Some(len) = self.fill(&chain)? else {
                self.queues.receive.0.unpop(chain);
                break;
            };
            self.queues.receive.0.push(chain, HEADER_LEN as u32 + len)?;
            self.queues.receive.1.add(1, u64::from(len));
            packets += 1;
        }
        if packets >= BUDGET && !self.polling {
            self.queues.receive.0.kick_self();
        }
        if packets > 0 {
            self.queues.receive.0.signal()?;
        }
        Ok(packets)
    }

    /// Writes the next packet into a chain; returns the length of its data, `None` when nothing is owed.
    fn fill(&mut self, chain: &Chain) -> Result<Option<u32>, GuestFault> {
        if !chain.readable.is_empty() {
            return Err(GuestFault::Protocol("A receive buffer is not device-writable"));
        }
        if (chain.writable.len() as usize) <= HEADER_LEN || chain.writable.slices().len() > MAX_IOVECS {
            let reason = "a receive buffer has no room for data behind the header, or more than 1024 pieces";
            return Err(GuestFault::Length { head: chain.head(), reason });
        }
        if let Some(reset) = self.resets.pop_front() {
            chain.writable.write(0, &reset.encode());
            if self.resets.len() + 1 == MAX_RESETS {
                // Packets of the guest were left for this.
                self.queues.transmit.0.kick_self();
            }
            return Ok(Some(0));
        }
        while let Some(id) = self.table.next_ready() {
            if let Some(len) = self.next_packet(id, chain) {
                return Ok(Some(len));
            }
        }
        Ok(None)
    }

    /// Writes what a connection owes the guest into a chain; returns the length of its data.
    fn next_packet(&mut self, id: u32, chain: &Chain) -> Option<u32> {
        loop {
            let entry = self.table.get(id)?;
            let ports = entry.ports?;
            let (op, flags, len) = match entry.state.owed() {
                Owed::Nothing => return None,
                Owed::Control(op) => (op, 0, 0),
                Owed::Shutdown(flags) => (Op::Shutdown, flags, 0),
                Owed::Data(credit) => {
                    let room = chain.writable.len().saturating_sub(HEADER_LEN as u32).min(credit);
                    chain.writable.sub_into(HEADER_LEN, room as usize, &mut self.piece)?;
                    self.vectors.clear();
                    self.vectors.extend(self.piece.slices());
                    match entry.link.receive(&self.vectors) {
                        Ok(len) if len > 0 => (Op::Data, 0, len as u32),
                        Err(e) if e.kind() == ErrorKind::WouldBlock => {
                            entry.state.readable = false;
                            continue;
                        }
                        ended => {
                            entry.state.host_sends_no_more();
                            if ended.is_err() || entry.link.is_deaf() {
                                self.host_is_deaf(id);
                            }
                            continue;
                        }
                    }
                }
            };
            let mut header = Header { len, flags, ..Header::to_guest(self.cid, ports, op) };
            entry.state.sent(len);
            entry.state.stamp(&mut header, op);
            let done = entry.state.host_is_done();
            chain.writable.write(0, &header.encode());
            if done {
                self.table.remove(id);
            } else {
                self.table.update(id);
            }
            return Some(len);
        }
    }

    // Turns of work.

    fn transmit_turn(&mut self) -> Result<u32, WorkerError> {
        Ok(self.transmit().inspect_err(|_| self.queues.transmit.1.add_guest_fault())?)
    }

    fn receive_turn(&mut self) -> Result<u32, WorkerError> {
        let packets = self.receive().inspect_err(|_| self.queues.receive.1.add_guest_fault())?;
        if !self.accepting && !self.table.is_full() {
            self.set_accepting(true);
        }
        Ok(packets)
    }

    fn look(&mut self) -> Result<Polled, WorkerError> {
        let packets = self.transmit_turn()? + self.receive_turn()?;
        Ok(if packets > 0 { Polled::Worked } else { Polled::Idle })
    }
}

impl Worker for VsockWorker {
    fn sources(&self) -> Vec<Source> {
        let source = |fd, token| Source { fd, token, interest: Interest::Readable };
        let mut sources = Vec::with_capacity(4 + self.table.len());
        sources.push(source(self.queues.receive.0.kick_fd(), RECEIVE_KICK));
        sources.push(source(self.queues.transmit.0.kick_fd(), TRANSMIT_KICK));
        if self.accepting {
            sources.push(source(self.host.listener.as_raw_fd(), LISTENER));
        }
        if let Some(connector) = self.host.connector.as_ref().filter(|_| self.connector_lives) {
            sources.push(source(connector.as_raw_fd(), CONNECTOR));
        }
        sources.extend(self.table.sources());
        sources
    }

    fn sources_changed(&mut self) -> bool {
        let table = self.table.take_changed();
        std::mem::take(&mut self.sources_changed) || table
    }

    fn on_event(&mut self, token: u32) -> Result<(), WorkerError> {
        self.table.close_retired();
        match token {
            RECEIVE_KICK => self.queues.receive.0.clear_kick(),
            TRANSMIT_KICK => {
                self.queues.transmit.0.clear_kick();
                self.transmit_turn()?;
            }
            LISTENER => self.accept(),
            CONNECTOR => self.answers(),
            id => self.stream_event(id),
        }
        self.receive_turn()?;
        Ok(())
    }

    fn poll(&mut self) -> Result<Polled, WorkerError> {
        self.look()
    }

    fn start_polling(&mut self) -> Result<(), WorkerError> {
        self.polling = true;
        self.queues.transmit.0.disable_kicks()?;
        Ok(())
    }

    fn stop_polling(&mut self) -> Result<Polled, WorkerError> {
        self.polling = false;
        let waiting = self.queues.transmit.0.enable_kicks()?;
        let found = self.look()?;
        Ok(if waiting { Polled::Worked } else { found })
    }

    fn quiesce(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), WorkerError> {
        self.accept();
        self.answers();
        for id in self.table.ids(|_| true) {
            self.stream_event(id);
        }
        self.look()?;
        Ok(())
    }
}
