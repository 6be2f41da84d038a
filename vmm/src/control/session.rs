//! One client's connection: what it subscribed to, and what waits to be sent to it.
//!
//! Runs on the main loop's thread. Both queues are bounded: a client that does not read its answers is not read from
//! until it does, and one that does not read its events loses them and is told how many.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use quantix_vmm_api::transport::{Connection, Packet, PacketBuffer, TransportError, encode};
use quantix_vmm_api::v1::envelope::Message;
use quantix_vmm_api::v1::response::Outcome;
use quantix_vmm_api::v1::{ControlError, Envelope, ErrorCode, Event, EventKind, Response};
use vmm_sys_util::epoll::EventSet;

use super::poller::{Poller, Token};

/// Answers that wait for a client before it is not read from any more.
const WAITING_ANSWERS: usize = 8;

/// Events that wait for a client before it loses some.
const WAITING_EVENTS: usize = 128;

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    answers: VecDeque<Outgoing>,
    events: VecDeque<Vec<u8>>,
    /// Bit `n` is set for the event kind with number `n`.
    subscribed: u32,
    lost: u64,
    interest: EventSet,
}

/// An encoded answer and the descriptor that goes with it.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl Session {
    /// Takes a new connection and has it watched.
    pub(super) fn start(connection: Connection, poller: &mut Poller) -> std::io::Result<(Token, Self)> {
        let interest = EventSet::IN;
        let token = poller.add(connection.as_fd().as_raw_fd(), interest)?;
        let (answers, events) = (VecDeque::new(), VecDeque::new());
        Ok((token, Self { connection, answers, events, subscribed: 0, lost: 0, interest }))
    }

    /// Ends it; what was not sent is lost.
    pub(super) fn end(self, poller: &Poller) {
        poller.remove(self.connection.as_fd().as_raw_fd());
    }

    /// Receives the next packet, unless too many answers wait to be read already.
    pub(super) fn receive(&self, buffer: &mut PacketBuffer) -> Result<Packet, TransportError> {
        if self.answers.len() >= WAITING_ANSWERS {
            return Err(TransportError::WouldBlock);
        }
        self.connection.receive(buffer)
    }

    /// Adds kinds to the subscription; no kinds are all kinds. The error is the number of a kind that is not known.
    pub(super) fn subscribe(&mut self, kinds: &[i32]) -> Result<(), i32> {
        let mut mask = if kinds.is_empty() { u32::MAX } else { 0 };
        for &number in kinds {
            match EventKind::try_from(number) {
                Ok(EventKind::Unspecified) | Err(_) => return Err(number),
                Ok(kind) => mask |= bit(kind),
            }
        }
        self.subscribed |= mask;
        Ok(())
    }

    /// Has an answer sent. One that does not fit into a packet becomes a refusal.
    pub(super) fn answer(&mut self, id: u64, outcome: Outcome, fd: Option<OwnedFd>) {
        let bytes = encode_answer(id, outcome).or_else(|error| {
            let code = ErrorCode::ResourceExhausted;
            encode_answer(id, Outcome::Error(ControlError::new(code, error.to_string())))
        });
        // A refusal is short, so there is always something to send.
        if let Ok(bytes) = bytes {
            self.answers.push_back(Outgoing { bytes, fd });
        }
    }

    /// Has an event sent, if the client wants its kind and reads fast enough.
    pub(super) fn tell(&mut self, event: &Event, kind: EventKind) {
        // Nobody can tell of which kind the events were that got lost on the way here.
        let lost_before = if self.subscribed == 0 { 0 } else { event.lost };
        self.lost = self.lost.saturating_add(lost_before);
        if self.subscribed & bit(kind) == 0 {
            return;
        }
        let told = Event { lost: self.lost, ..event.clone() };
        let bytes = encode(&Envelope { message: Some(Message::Event(told)) });
        match bytes {
            Ok(bytes) if self.events.len() < WAITING_EVENTS => {
                self.lost = 0;
                self.events.push_back(bytes);
            }
            _ => self.lost = self.lost.saturating_add(1),
        }
    }

    /// Sends what the client takes now, answers first, and watches for the rest.
    ///
    /// # Errors
    /// The connection is of no further use.
    pub(super) fn flush(&mut self, token: Token, poller: &Poller) -> Result<(), TransportError> {
        while let Some(Outgoing { bytes, fd }) = self.answers.front() {
            let fd = fd.as_ref().map(AsFd::as_fd);
            match self.connection.send_encoded(bytes, fd.as_slice()) {
                Ok(()) => drop(self.answers.pop_front()),
                Err(TransportError::WouldBlock) => return self.watch(token, poller),
                Err(error) => return Err(error),
            }
        }
        while let Some(bytes) = self.events.front() {
            match self.connection.send_encoded(bytes, &[]) {
                Ok(()) => drop(self.events.pop_front()),
                Err(TransportError::WouldBlock) => return self.watch(token, poller),
                Err(error) => return Err(error),
            }
        }
        self.watch(token, poller)
    }

    fn watch(&mut self, token: Token, poller: &Poller) -> Result<(), TransportError> {
        let mut interest = EventSet::empty();
        interest.set(EventSet::IN, self.answers.len() < WAITING_ANSWERS);
        interest.set(EventSet::OUT, !self.answers.is_empty() || !self.events.is_empty());
        if interest != self.interest {
            poller
                .change(self.connection.as_fd().as_raw_fd(), token, interest)
                .map_err(|source| TransportError::System { call: "epoll_ctl", source })?;
            self.interest = interest;
        }
        Ok(())
    }
}

fn encode_answer(id: u64, outcome: Outcome) -> Result<Vec<u8>, TransportError> {
    encode(&Envelope { message: Some(Message::Response(Response { id, outcome: Some(outcome) })) })
}

fn bit(kind: EventKind) -> u32 {
    1_u32.checked_shl(i32::from(kind).unsigned_abs()).unwrap_or(0)
}
