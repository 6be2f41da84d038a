//! The control socket's server: turns readiness into calls.
//!
//! Runs on the main loop's thread and spawns none. The loop polls [`Server`]'s one descriptor, level-triggered, and calls
//! [`Server::on_ready`]; a call does a bounded amount of work and comes back, and what is left shows in the
//! descriptor. It decides nothing about the machine and knows no device.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use quantix_vmm_api::transport::{Listener, Packet, PacketBuffer, TransportError};
use quantix_vmm_api::v1::envelope::Message;
use quantix_vmm_api::v1::response::Outcome;
use quantix_vmm_api::v1::{AttachConsole, Console, ConsoleAttached, ControlError, ErrorCode, SubscribeEvents};
use thiserror::Error;
use vmm_sys_util::epoll::EventSet;

use super::commands::{CommandError, Commands};
use super::console::{ConsoleInput, ConsoleOutput, Consoles};
use super::dispatch::{Surroundings, dispatch};
use super::events::{EventReceiver, kind_of};
use super::poller::{Poller, Token};
use super::session::Session;

#[cfg(test)]
mod tests;

/// How many clients may be connected at once; further ones are turned away.
pub const MAX_SESSIONS: usize = 32;

/// How many requests of one client are carried out before others have their turn.
const REQUESTS_A_TURN: usize = 16;

/// How many clients are let in, or turned away, in one turn.
const ACCEPTS_A_TURN: usize = 64;

/// Edge-triggered: a client that cannot be let in, because the host has no descriptor for it, must not make the main
/// loop spin.
const ARRIVAL: EventSet = EventSet::from_bits_truncate(EventSet::IN.bits() | EventSet::EDGE_TRIGGERED.bits());

/// The host failed the server.
#[derive(Debug, Error)]
#[error("Could not {what} for the control socket")]
pub struct ServerError {
    /// What was being done.
    pub what: &'static str,
    /// What the host said.
    pub source: io::Error,
}

/// The server.
pub struct Server {
    poller: Poller,
    listener: Option<(Listener, Token)>,
    events: EventReceiver,
    events_token: Token,
    sessions: BTreeMap<Token, Session>,
    consoles: Consoles,
    buffer: PacketBuffer,
}

impl Server {
    /// Serves `listener`, if there is one, and tells its clients what comes out of `events`. To be made before the sandbox
    /// is entered.
    ///
    /// # Errors
    /// [`ServerError`] when the host gives no epoll.
    pub fn new(listener: Option<Listener>, events: EventReceiver) -> Result<Self, ServerError> {
        let fail = |source| ServerError { what: "make an epoll", source };
        let mut poller = Poller::new().map_err(fail)?;
        let listener = match listener {
            Some(listener) => {
                let token = poller.add(listener.as_fd().as_raw_fd(), ARRIVAL).map_err(fail)?;
                Some((listener, token))
            }
            None => None,
        };
        let events_token = poller.add(events.as_raw_fd(), EventSet::IN).map_err(fail)?;
        Ok(Self {
            poller,
            listener,
            events,
            events_token,
            sessions: BTreeMap::new(),
            consoles: Consoles::default(),
            buffer: PacketBuffer::new(),
        })
    }

    /// Makes a console visible to clients.
    ///
    /// # Errors
    /// [`ServerError`] when the host cannot watch its descriptors.
    pub fn add_console(
        &mut self,
        console: Console,
        output: Arc<ConsoleOutput>,
        input: Box<dyn ConsoleInput>,
    ) -> Result<(), ServerError> {
        let fail = |source| ServerError { what: "watch a console", source };
        self.consoles.add(console, output, input, &mut self.poller).map_err(fail)
    }

    /// Makes every client of `listener`, which must not block, a viewer of a console.
    ///
    /// # Errors
    /// [`ServerError`] when the host cannot watch it.
    pub fn listen_for_viewers(&mut self, console: Console, listener: UnixListener) -> Result<(), ServerError> {
        let fail = |source| ServerError { what: "watch a console's socket", source };
        self.consoles.listen(console, listener, &mut self.poller).map_err(fail)
    }

    /// Makes the other end of `socket` a viewer of a console.
    ///
    /// # Errors
    /// As for the command of the same name.
    pub fn attach_viewer(&mut self, console: Console, socket: OwnedFd) -> Result<(), CommandError> {
        self.consoles.attach(console.into(), socket, &mut self.poller).map(drop)
    }

    /// Serves whatever is ready; never waits. To be called when the descriptor is readable.
    ///
    /// # Errors
    /// [`ServerError`] when the host's epoll fails; no client can bring that about.
    pub fn on_ready(&mut self, machine: &mut dyn Commands) -> Result<(), ServerError> {
        let ready = self.poller.ready().map_err(|source| ServerError { what: "poll", source })?;
        for (token, news) in ready {
            if self.listener.as_ref().is_some_and(|(_, listener)| *listener == token) {
                self.accept();
            } else if token == self.events_token {
                self.tell_all();
            } else if self.sessions.contains_key(&token) {
                self.serve(token, machine);
            } else {
                // A token that nobody knows is of something that ended earlier in this turn.
                self.consoles.on_ready(token, news, &mut self.poller);
            }
        }
        Ok(())
    }

    /// Sends what is still to be sent, as far as clients take it at once. For the end of the process.
    pub fn finish(mut self) {
        self.tell_all();
        self.consoles.finish(&self.poller);
    }

    fn accept(&mut self) {
        let Some((listener, token)) = &self.listener else { return };
        for _ in 0..ACCEPTS_A_TURN {
            match listener.accept() {
                Ok(connection) if self.sessions.len() < MAX_SESSIONS => {
                    match Session::start(connection, &mut self.poller) {
                        Ok((token, session)) => drop(self.sessions.insert(token, session)),
                        Err(error) => log::warn!("Could not watch a control connection: {error}"),
                    }
                }
                // Closing the connection tells the client.
                Ok(_) => log::debug!("A control connection was turned away: there are {MAX_SESSIONS}"),
                Err(TransportError::WouldBlock) => return,
                Err(error) => {
                    // The client still waits: it gets its turn with the next arrival, or when another one leaves.
                    log::warn!("Could not accept a control connection: {error}");
                    return;
                }
            }
        }
        // There may be more. Saying again what is watched for makes the edge anew.
        if let Err(error) = self.poller.change(listener.as_fd().as_raw_fd(), *token, ARRIVAL) {
            log::warn!("Could not watch for control connections: {error}");
        }
    }

    /// Passes events on to those who want them.
    fn tell_all(&mut self) {
        let events = self.events.take();
        for event in &events {
            let Some(kind) = event.kind.as_ref().map(kind_of) else { continue };
            for session in self.sessions.values_mut() {
                session.tell(event, kind);
            }
        }
        let tokens: Vec<Token> = self.sessions.keys().copied().collect();
        for token in tokens {
            self.flush(token);
        }
    }

    /// Carries out what a client asks for.
    fn serve(&mut self, token: Token, machine: &mut dyn Commands) {
        for _ in 0..REQUESTS_A_TURN {
            let Some(session) = self.sessions.get_mut(&token) else { return };
            match session.receive(&mut self.buffer) {
                Ok(packet) => self.answer(token, packet, machine),
                Err(TransportError::WouldBlock) => break,
                Err(TransportError::Malformed(error)) => {
                    session.answer(0, refusal(&error.to_string()), None);
                }
                Err(error) => return self.end(token, &error),
            }
            // Answers go out at once; when they cannot, the client is not read from any more.
            self.flush(token);
        }
        self.flush(token);
    }

    fn answer(&mut self, token: Token, packet: Packet, machine: &mut dyn Commands) {
        let Self { sessions, consoles, poller, .. } = self;
        let Some(session) = sessions.get_mut(&token) else { return };
        let Some(Message::Request(request)) = packet.envelope.message else {
            return session.answer(0, refusal("a client sends requests"), None);
        };
        let (outcome, fd) = {
            let mut around = Around { session, consoles, poller };
            dispatch(request.command, packet.fds, machine, &mut around)
        };
        session.answer(request.id, outcome, fd);
    }

    fn flush(&mut self, token: Token) {
        let Some(session) = self.sessions.get_mut(&token) else { return };
        if let Err(error) = session.flush(token, &self.poller) {
            self.end(token, &error);
        }
    }

    fn end(&mut self, token: Token, why: &TransportError) {
        if !matches!(why, TransportError::Closed) {
            log::debug!("A control connection was ended: {why}");
        }
        if let Some(session) = self.sessions.remove(&token) {
            session.end(&self.poller);
        }
        self.accept();
    }
}

impl AsRawFd for Server {
    fn as_raw_fd(&self) -> RawFd {
        self.poller.as_raw_fd()
    }
}

fn refusal(why: &str) -> Outcome {
    let message = format!("The packet is no request: {why}");
    Outcome::Error(ControlError::new(ErrorCode::Malformed, message))
}

/// What a request can reach besides the machine.
struct Around<'a> {
    session: &'a mut Session,
    consoles: &'a mut Consoles,
    poller: &'a mut Poller,
}

impl Surroundings for Around<'_> {
    fn subscribe(&mut self, wanted: &SubscribeEvents) -> Result<(), CommandError> {
        self.session.subscribe(&wanted.kinds).map_err(|number| CommandError::InvalidValue {
            field: "kinds",
            value: number.to_string(),
            reason: "there is no such kind of event".to_owned(),
        })
    }

    fn attach_console(&mut self, wanted: AttachConsole, socket: OwnedFd) -> Result<ConsoleAttached, CommandError> {
        self.consoles.attach(wanted.console, socket, self.poller)
    }
}
