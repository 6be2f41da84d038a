//! One connection as a state machine: what a packet of the guest means, and which packet the guest is owed next.
//!
//! Pure: sockets, rings and time are the worker's business. Credit is counted in both directions (virtio 1.3 section
//! 5.10.6.3), so neither side can make the other hold more than it offered.
//!
//! ```text
//!  host program connects ─► Greeting ─"CONNECT port"─► Requested ─RESPONSE─► Open ─both directions ended─► gone
//!  guest sends REQUEST ───► Connecting ─stream from the connector──────────► Open
//!  any state ─RST, breach of the protocol─► gone
//! ```

use super::packet::{Header, Op, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND};

/// Bytes that the guest may send before they have been taken by the host program. Bounds what one connection can hold.
pub(super) const BUFFER: u32 = 128 << 10;
/// The guest is told of its credit when so much of it has come back unannounced.
const ANNOUNCE: u32 = BUFFER / 4;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The host program has not said yet which port it wants.
    Greeting,
    /// The guest was asked, or is to be.
    Requested,
    /// The host side is being connected.
    Connecting,
    /// Both sides are there.
    Open,
}

/// What the worker has to do about a packet of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing.
    None,
    /// Tell the host program that it is connected.
    Greet,
    /// Pass this many bytes of data on.
    Write,
    /// The guest has changed which directions it still uses.
    Ended,
    /// Forget the connection; the guest has done so.
    Forget,
    /// Reset the connection: the guest broke the rules of it.
    Reset,
}

/// The packet that the guest is owed next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owed {
    /// Nothing.
    Nothing,
    /// A packet without data.
    Control(Op),
    /// Data, at most this many bytes.
    Data(u32),
    /// The news of which directions the host has ended, as flags.
    Shutdown(u32),
}

/// A connection's state.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts about two sides")]
pub(super) struct Connection {
    pub(super) phase: Phase,
    /// The host stream may have data.
    pub(super) readable: bool,
    /// A packet that opens the connection is owed.
    owes_opening: bool,
    owes_credit: bool,
    asked_for_credit: bool,
    /// Directions that the guest has ended, as it said it (`SHUTDOWN_*`).
    guest_ended: u32,
    /// Directions that the host has ended, seen from the host, and those of which the guest knows.
    host_ended: u32,
    host_ended_told: u32,
    /// Bytes from the guest since the beginning, and of these the ones the host took; both wrap.
    received: u32,
    forwarded: u32,
    /// `forwarded` as the guest last heard of it.
    announced: u32,
    /// Bytes to the guest since the beginning; wraps.
    sent: u32,
    guest_buffer: u32,
    guest_forwarded: u32,
}

impl Connection {
    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase,
            readable: false,
            owes_opening: false,
            owes_credit: false,
            asked_for_credit: false,
            guest_ended: 0,
            host_ended: 0,
            host_ended_told: 0,
            received: 0,
            forwarded: 0,
            announced: 0,
            sent: 0,
            guest_buffer: 0,
            guest_forwarded: 0,
        }
    }

    /// The host program has named a port: the guest is to be asked.
    pub(super) fn request(&mut self) {
        self.phase = Phase::Requested;
        self.owes_opening = true;
    }

    /// The host side is connected: the guest is to be told.
    pub(super) fn connected(&mut self) {
        self.phase = Phase::Open;
        self.owes_opening = true;
        self.readable = true;
    }

    /// Learns of the guest's credit, of which every packet tells.
    pub(super) fn learn(&mut self, header: &Header) {
        self.guest_buffer = header.buf_alloc;
        self.guest_forwarded = header.fwd_cnt;
        if self.credit() > 0 {
            self.asked_for_credit = false;
        }
    }

    /// Takes in a packet of the guest.
    pub(super) fn take(&mut self, op: Op, header: &Header) -> Reaction {
        self.learn(header);
        match (op, self.phase) {
            (Op::Reset, _) => Reaction::Forget,
            (Op::Response, Phase::Requested) if !self.owes_opening => {
                self.phase = Phase::Open;
                self.readable = true;
                Reaction::Greet
            }
            (Op::Data, Phase::Open) => self.take_data(header.len),
            (Op::Shutdown, Phase::Open) => {
                self.guest_ended |= header.flags & SHUTDOWN_BOTH;
                Reaction::Ended
            }
            (Op::CreditUpdate, Phase::Open) => Reaction::None,
            (Op::CreditRequest, Phase::Open) => {
                self.owes_credit = true;
                Reaction::None
            }
            _ => Reaction::Reset,
        }
    }

    fn take_data(&mut self, len: u32) -> Reaction {
        let held = self.received.wrapping_sub(self.forwarded);
        let allowed = self.guest_ended & SHUTDOWN_SEND == 0 && held.saturating_add(len) <= BUFFER;
        if !allowed {
            return Reaction::Reset;
        }
        self.received = self.received.wrapping_add(len);
        Reaction::Write
    }

    /// The host took `len` bytes, or will never take them: the guest gets the credit back.
    pub(super) fn forwarded(&mut self, len: u32) {
        self.forwarded = self.forwarded.wrapping_add(len);
    }

    /// `len` bytes were sent to the guest.
    pub(super) fn sent(&mut self, len: u32) {
        self.sent = self.sent.wrapping_add(len);
    }

    /// The host side sends no more.
    pub(super) fn host_sends_no_more(&mut self) {
        self.host_ended |= SHUTDOWN_SEND;
        self.readable = false;
    }

    /// The host side takes no more.
    pub(super) fn host_receives_no_more(&mut self) {
        self.host_ended |= SHUTDOWN_RECEIVE;
    }

    /// Whether the host side takes bytes.
    pub(super) fn host_receives(&self) -> bool {
        self.host_ended & SHUTDOWN_RECEIVE == 0
    }

    /// Whether the guest takes bytes.
    pub(super) fn guest_receives(&self) -> bool {
        self.guest_ended & SHUTDOWN_RECEIVE == 0
    }

    /// Whether the guest sends bytes.
    pub(super) fn guest_sends(&self) -> bool {
        self.guest_ended & SHUTDOWN_SEND == 0
    }

    /// Whether the guest is done with both directions.
    pub(super) fn guest_is_done(&self) -> bool {
        self.guest_ended == SHUTDOWN_BOTH
    }

    /// Whether the guest knows that the host is done with both directions.
    pub(super) fn host_is_done(&self) -> bool {
        self.host_ended_told == SHUTDOWN_BOTH
    }

    /// Bytes that the guest has room for. What a hostile guest claims can only make it less than none, which is none.
    fn credit(&self) -> u32 {
        self.guest_buffer.saturating_sub(self.sent.wrapping_sub(self.guest_forwarded))
    }

    /// What the guest is owed next. Data goes before the news of its end.
    pub(super) fn owed(&self) -> Owed {
        match self.phase {
            Phase::Requested if self.owes_opening => Owed::Control(Op::Request),
            Phase::Greeting | Phase::Connecting | Phase::Requested => Owed::Nothing,
            Phase::Open if self.owes_opening => Owed::Control(Op::Response),
            Phase::Open => self.owed_when_open(),
        }
    }

    fn owed_when_open(&self) -> Owed {
        let wants_to_send = self.readable && self.guest_receives();
        match self.credit() {
            0 if wants_to_send && !self.asked_for_credit => Owed::Control(Op::CreditRequest),
            credit if wants_to_send && credit > 0 => Owed::Data(credit),
            _ if self.host_ended & !self.host_ended_told != 0 => Owed::Shutdown(self.host_ended),
            _ if self.owes_credit || self.forwarded.wrapping_sub(self.announced) >= ANNOUNCE => {
                Owed::Control(Op::CreditUpdate)
            }
            _ => Owed::Nothing,
        }
    }

    /// A packet is going out: fills in its credit and notes what the guest will know from it.
    pub(super) fn stamp(&mut self, header: &mut Header, op: Op) {
        header.buf_alloc = BUFFER;
        header.fwd_cnt = self.forwarded;
        self.announced = self.forwarded;
        self.owes_credit = false;
        match op {
            Op::Request | Op::Response => self.owes_opening = false,
            Op::CreditRequest => self.asked_for_credit = true,
            Op::Shutdown => self.host_ended_told = header.flags,
            Op::Reset | Op::Data | Op::CreditUpdate => {}
        }
    }
}
