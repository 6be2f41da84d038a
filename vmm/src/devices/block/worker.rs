//! The work of one disk queue: chains in, requests to the back end, status bytes out.
//!
//! Runs on an I/O thread. While it is busy it is polled: kicks are off and completions are looked for, not waited for.
//! Must not block, except where a back end says that it may.

use std::os::fd::AsRawFd as _;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::device::Shelf;
use super::request::{HEADER_BYTES, Request, Status, parse};
use super::{QUEUE_SIZE, SERIAL_BYTES};
use crate::backend::disk::{DiskQueue, DiskRequest, DiskShape, Started};
use crate::devices::limits::{Alarm, SharedLimits};
use crate::telemetry::QueueCounters;
use crate::virtio::{Chain, GuestFault, HostError, Interest, Polled, Queue, SliceList, Source, Worker, WorkerError};

pub(super) const KICK: u32 = 0;
pub(super) const COMPLETION: u32 = 1;
pub(super) const ALARM: u32 = 2;

/// Requests begun before other devices of the same thread get their turn.
const TURN: u32 = 2 * QUEUE_SIZE as u32;
/// Requests finished on the spot before the driver is told, while more are waiting.
const SIGNAL_EVERY: u32 = 8;
/// Failures of the host are logged no more often.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A request that is with the back end.
struct Flight {
    chain: Chain,
    request: Request,
    started: Instant,
    /// Its data is written; what runs is the flush that makes it durable.
    flushing: bool,
}

/// What outlives a worker: made before the sandbox was entered.
pub(super) struct Tools {
    disk: Box<dyn DiskQueue>,
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    data: SliceList,
}

impl Tools {
    pub(super) fn new(disk: Box<dyn DiskQueue>) -> Self {
        let depth = u32::from(QUEUE_SIZE);
        Self {
            disk,
            flights: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            data: SliceList::default(),
        }
    }
}

/// What a worker is told about its disk.
pub(super) struct Parts {
    pub id: String,
    pub shape: DiskShape,
    pub serial: [u8; SERIAL_BYTES],
    pub write_through: bool,
    pub limits: Arc<SharedLimits>,
    pub alarm: Arc<Alarm>,
    pub counters: Arc<QueueCounters>,
}

/// The worker of one queue.
pub(super) struct BlockWorker {
    queue: Queue,
    desk: Desk,
    shelf: Shelf,
    /// A rate limit holds requests back until then.
    held_until: Option<Instant>,
}

impl BlockWorker {
    pub(super) fn new(queue: Queue, parts: Parts, tools: Tools, shelf: Shelf) -> Self {
        let desk = Desk { parts, tools: Some(tools), now: Instant::now(), unsignalled: 0, last_log: None };
        Self { queue, desk, shelf, held_until: None }
    }

    /// Takes ends and new requests until there are none, or enough for a turn.
    fn turn(&mut self) -> Result<Polled, WorkerError> {
        self.desk.now = Instant::now();
        let reaped = self.desk.reap(&mut self.queue)?;
        let begun = self.begin_waiting()?;
        self.desk.submit()?;
        self.desk.signal(&mut self.queue)?;
        Ok(if reaped || begun > 0 { Polled::Worked } else { Polled::Idle })
    }

    fn begin_waiting(&mut self) -> Result<u32, WorkerError> {
        let Self { queue, desk, held_until, .. } = self;
        if held_until.is_some_and(|until| desk.now < until) {
            return Ok(0);
        }
        *held_until = None;
        let mut begun = 0;
        queue.drain(|queue, chain| {
            if begun == TURN {
                queue.kick_self();
                return Ok(Some(chain));
            }
            let request = parse(&chain, &desk.parts.shape)?;
            if let Err(until) = desk.parts.limits.admit(request.data_bytes(), desk.now) {
                desk.parts.alarm.set(until.saturating_duration_since(desk.now))?;
                *held_until = Some(until);
                return Ok(Some(chain));
            }
            begun += 1;
            desk.begin(queue, chain, request)?;
            Ok(None)
        })?;
        Ok(begun)
    }
}

/// Everything of a worker but its queue.
struct Desk {
    parts: Parts,
    /// `None` only after drop.
    tools: Option<Tools>,
    /// The clock, read once a request at most.
    now: Instant,
    /// Requests finished since the driver was last told.
    unsignalled: u32,
    last_log: Option<Instant>,
}

impl Desk {
    /// Starts a request; finishes it if it ends at once.
    #[inline]
    fn begin(&mut self, queue: &mut Queue, chain: Chain, request: Request) -> Result<(), WorkerError> {
        let flight = Flight { chain, request, started: self.now, flushing: false };
        match request {
            Request::Refuse(status) => self.finish(queue, flight, status),
            Request::Identify { len } => {
                let serial = self.parts.serial.get(..SERIAL_BYTES.min(len as usize)).unwrap_or_default();
                flight.chain.writable.write(0, serial);
                self.finish(queue, flight, Status::Ok)
            }
            _ => self.send(queue, flight),
        }
    }

    /// Hands a request to the back end.
    fn send(&mut self, queue: &mut Queue, flight: Flight) -> Result<(), WorkerError> {
        let Some(tools) = &mut self.tools else { return Ok(()) };
        let crowded = GuestFault::Protocol("More disk requests in flight than the queue has entries");
        let tag = tools.free.pop().ok_or(crowded)?;
        let short = GuestFault::Length { head: flight.chain.head(), reason: "shorter than its data" };
        let started = tools.disk.start(disk_request(&flight, &mut tools.data).ok_or(short)?, tag);
        match started {
            Started::Pending => {
                if let Some(place) = tools.flights.get_mut(tag as usize) {
                    *place = Some(flight);
                }
                Ok(())
            }
            Started::Done(result) => {
                tools.free.push(tag);
                self.now = Instant::now();
                self.ended(queue, flight, result)
            }
        }
    }

    /// The back end has ended a request: flushes behind a write of a driver that knows no flush, else answers.
    fn ended(
        &mut self,
        queue: &mut Queue,
        mut flight: Flight,
        result: std::io::Result<u32>,
    ) -> Result<(), WorkerError> {
        let Err(error) = result else {
            let changes = !matches!(flight.request, Request::Read { .. } | Request::Flush);
            if self.parts.write_through && changes && !flight.flushing {
                flight.flushing = true;
                return self.send(queue, flight);
            }
            return self.finish(queue, flight, Status::Ok);
        };
        if self.last_log.is_none_or(|at| self.now.saturating_duration_since(at) >= LOG_INTERVAL) {
            self.last_log = Some(self.now);
            log::warn!("{}: {:?} failed on the host: {error}", self.parts.id, flight.request);
        }
        self.finish(queue, flight, Status::IoError)
    }

    /// Writes the status and gives the chain back.
    fn finish(&mut self, queue: &mut Queue, flight: Flight, status: Status) -> Result<(), WorkerError> {
        let Flight { chain, request, started, .. } = flight;
        let counters = &self.parts.counters;
        if status == Status::Ok {
            counters.add(1, request.data_bytes());
        } else {
            counters.add_error();
        }
        counters.add_latency(self.now.saturating_duration_since(started).as_nanos() as u64);
        let len = chain.writable.len();
        chain.writable.write(len.saturating_sub(1) as usize, &[status as u8]);
        queue.push(chain, len)?;
        self.unsignalled += 1;
        if self.unsignalled >= SIGNAL_EVERY { self.signal(queue) } else { Ok(()) }
    }

    fn signal(&mut self, queue: &mut Queue) -> Result<(), WorkerError> {
        self.unsignalled = 0;
        Ok(queue.signal()?)
    }

    /// Takes what the back end has ended; true when there was something.
    fn reap(&mut self, queue: &mut Queue) -> Result<bool, WorkerError> {
        self.take_ends(queue, |disk, done| disk.reap(done))
    }

    /// Waits for everything that is with the back end.
    fn settle(&mut self, queue: &mut Queue) -> Result<(), WorkerError> {
        // A flush behind a write may begin in the first round.
        while self.tools.as_ref().is_some_and(|tools| tools.disk.in_flight() > 0) {
            self.take_ends(queue, |disk, done| disk.drain(done))?;
        }
        self.signal(queue)
    }

    fn take_ends(
        &mut self,
        queue: &mut Queue,
        take: impl FnOnce(&mut dyn DiskQueue, &mut dyn FnMut(u32, std::io::Result<u32>)) -> std::io::Result<()>,
    ) -> Result<bool, WorkerError> {
        let Some(tools) = &mut self.tools else { return Ok(false) };
        if tools.disk.in_flight() == 0 {
            return Ok(false);
        }
        let Tools { disk, flights, free, .. } = tools;
        let mut ends = Vec::new();
        let taken = take(disk.as_mut(), &mut |tag, result| {
            if let Some(flight) = flights.get_mut(tag as usize).and_then(Option::take) {
                free.push(tag);
                ends.push((flight, result));
            }
        });
        taken.map_err(|e| HostError::new("Could not wait for a disk", e))?;
        let some = !ends.is_empty();
        if some {
            self.now = Instant::now();
        }
        for (flight, result) in ends {
            self.ended(queue, flight, result)?;
        }
        Ok(some)
    }

    fn submit(&mut self) -> Result<(), WorkerError> {
        let Some(tools) = &mut self.tools else { return Ok(()) };
        Ok(tools.disk.submit().map_err(|e| HostError::new("Could not hand requests to a disk", e))?)
    }
}

/// What the back end is asked for; the data's buffers go through `data`. `None` when the chain is too short for it.
fn disk_request<'a>(flight: &Flight, data: &'a mut SliceList) -> Option<DiskRequest<'a>> {
    if flight.flushing {
        return Some(DiskRequest::Flush);
    }
    Some(match flight.request {
        Request::Read { offset, len } => {
            flight.chain.writable.sub_into(0, len as usize, data)?;
            DiskRequest::Read { offset, to: data.slices() }
        }
        Request::Write { offset, len } => {
            flight.chain.readable.sub_into(HEADER_BYTES, len as usize, data)?;
            DiskRequest::Write { offset, from: data.slices() }
        }
        Request::Discard { offset, len } => DiskRequest::Discard { offset, len },
        Request::WriteZeroes { offset, len, unmap } => DiskRequest::WriteZeroes { offset, len, unmap },
        Request::Flush | Request::Identify { .. } | Request::Refuse(_) => DiskRequest::Flush,
    })
}

impl Worker for BlockWorker {
    fn sources(&self) -> Vec<Source> {
        let source = |fd, token| Source { fd, token, interest: Interest::Readable };
        // Edge-triggered, a kick need not be read off its fd: one system call less for each time we are woken.
        let kick = Source { fd: self.queue.kick_fd(), token: KICK, interest: Interest::ReadableEdge };
        let mut sources = vec![kick, source(self.desk.parts.alarm.fd(), ALARM)];
        let completion = self.desk.tools.as_ref().and_then(|tools| tools.disk.completion_fd());
        sources.extend(completion.map(|fd| source(fd.as_raw_fd(), COMPLETION)));
        sources
    }

    fn on_event(&mut self, token: u32) -> Result<(), WorkerError> {
        if token == ALARM {
            self.desk.parts.alarm.clear();
            self.held_until = None;
        }
        self.turn().map(drop)
    }

    fn poll(&mut self) -> Result<Polled, WorkerError> {
        let waiting = self.held_until.is_none() && self.queue.pending()? > 0;
        let flying = self.desk.tools.as_ref().is_some_and(|tools| tools.disk.in_flight() > 0);
        if waiting || flying { self.turn() } else { Ok(Polled::Idle) }
    }

    fn start_polling(&mut self) -> Result<(), WorkerError> {
        Ok(self.queue.disable_kicks()?)
    }

    fn stop_polling(&mut self) -> Result<Polled, WorkerError> {
        let waiting = self.queue.enable_kicks()? && self.held_until.is_none();
        if waiting { self.turn() } else { Ok(Polled::Idle) }
    }

    fn quiesce(&mut self) -> Result<(), WorkerError> {
        self.desk.settle(&mut self.queue)
    }

    fn resume(&mut self) -> Result<(), WorkerError> {
        self.held_until = None;
        self.turn().map(drop)
    }
}

impl Drop for BlockWorker {
    fn drop(&mut self) {
        let Some(mut tools) = self.desk.tools.take() else { return };
        // After a reset nobody waits for answers; but the kernel must be done with guest memory.
        if let Err(error) = tools.disk.drain(&mut |_, _| ()) {
            log::error!("{}: requests in flight could not be waited for: {error}", self.desk.parts.id);
            return;
        }
        let fresh = Tools::new(tools.disk);
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(fresh);
    }
}
