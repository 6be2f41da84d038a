//! Consoles and whoever looks at them.
//!
//! A console device prints into a [`ConsoleOutput`] from any thread and never waits. Viewers are sockets that clients
//! passed; they are served on the main loop's thread, each from its own place in the ring, with calls that do
//! not block whatever flags the socket has. What a viewer types goes to a [`ConsoleInput`]; when the guest does not take
//! it, that viewer is not read from until there is room.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use quantix_vmm_api::v1::{Console, ConsoleAttached};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::commands::CommandError;
use super::console_ring::{ConsoleRing, RingRead};
use super::poller::{Poller, Token};

#[cfg(test)]
mod tests;

/// How many viewers all consoles together may have.
pub const MAX_VIEWERS: usize = 16;

/// How much moves to or from a viewer at once, in bytes.
const CHUNK_BYTES: usize = 4096;

/// How many chunks a viewer gets before others have their turn.
const CHUNKS_A_TURN: usize = 16;

/// Where a console device prints.
#[derive(Debug)]
pub struct ConsoleOutput {
    ring: Mutex<ConsoleRing>,
    viewers: AtomicUsize,
    signalled: AtomicBool,
    wake: EventFd,
}

impl ConsoleOutput {
    /// A console that has printed nothing.
    ///
    /// # Errors
    /// The host gives no eventfd.
    pub fn new() -> std::io::Result<Self> {
        let (viewers, signalled) = (AtomicUsize::new(0), AtomicBool::new(false));
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self { ring: Mutex::new(ConsoleRing::new()), viewers, signalled, wake })
    }

    /// Prints. Any thread; never waits for a viewer.
    pub fn print(&self, bytes: &[u8]) {
        self.ring().write(bytes);
        // Printing without viewers makes no system call, and with viewers only one until they were served.
        if self.viewers.load(Ordering::SeqCst) > 0 && !self.signalled.swap(true, Ordering::SeqCst) {
            // It fails only when the counter is full, and then it is readable all the more.
            let _ = self.wake.write(1);
        }
    }

    fn clear_wake(&self) {
        // In this order: a device that prints in between is seen when the ring is read, which comes after both.
        let _ = self.wake.read();
        self.signalled.store(false, Ordering::SeqCst);
    }

    fn ring(&self) -> MutexGuard<'_, ConsoleRing> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a viewer's typing goes. Called on the main loop's thread.
pub trait ConsoleInput: Send {
    /// Types bytes; returns how many were taken. After fewer than all, [`Self::room_fd`] tells when there is room.
    fn push(&self, bytes: &[u8]) -> usize;

    /// A descriptor that becomes readable when there is room again. Open as long as this lives.
    fn room_fd(&self) -> RawFd;

    /// Makes [`Self::room_fd`] unreadable until the next time.
    fn clear_room(&self);
}

/// A console of the machine.
struct Port {
    output: Arc<ConsoleOutput>,
    input: Box<dyn ConsoleInput>,
    wake_token: Token,
    room_token: Token,
}

/// All consoles and viewers of a machine.
#[derive(Default)]
pub(super) struct Consoles {
    ports: Vec<(Console, Port)>,
    viewers: BTreeMap<Token, Viewer>,
    listeners: Vec<(Token, Console, UnixListener)>,
}

impl Consoles {
    /// Adds a console.
    pub(super) fn add(
        &mut self,
        console: Console,
        output: Arc<ConsoleOutput>,
        input: Box<dyn ConsoleInput>,
        poller: &mut Poller,
    ) -> std::io::Result<()> {
        let wake_token = poller.add(output.wake.as_raw_fd(), EventSet::IN)?;
        let room_token = poller.add(input.room_fd(), EventSet::IN)?;
        self.ports.push((console, Port { output, input, wake_token, room_token }));
        Ok(())
    }

    /// Connects a viewer to a console.
    pub(super) fn attach(
        &mut self,
        number: i32,
        socket: OwnedFd,
        poller: &mut Poller,
    ) -> Result<ConsoleAttached, CommandError> {
        let wanted = Console::try_from(number).unwrap_or_default();
        let index = self.ports.iter().position(|(console, _)| *console == wanted).ok_or_else(|| {
            let name = wanted.as_str_name().to_owned();
            CommandError::NotFound { kind: "console", name, field: "console" }
        })?;
        if self.viewers.len() >= MAX_VIEWERS {
            return Err(CommandError::Exhausted { what: "viewers", limit: MAX_VIEWERS });
        }
        check_socket(&socket)?;
        let token = poller
            .add(socket.as_raw_fd(), WATCHED_FIRST)
            .map_err(|source| CommandError::Host { what: "watch the console's socket", source })?;
        let Some((_, port)) = self.ports.get(index) else { return Err(CommandError::Unknown) };
        // From here on the device signals; what it printed before is served because the socket is writable.
        port.output.viewers.fetch_add(1, Ordering::SeqCst);
        let (lost_bytes, end) = {
            let ring = port.output.ring();
            (ring.start(), ring.end())
        };
        let viewer = Viewer {
            port: index,
            socket,
            position: lost_bytes,
            typed: Vec::new(),
            silent: false,
            interest: WATCHED_FIRST,
        };
        self.viewers.insert(token, viewer);
        Ok(ConsoleAttached { replay_bytes: end - lost_bytes, lost_bytes })
    }

    /// Makes every client of `listener`, which must not block, a viewer of a console.
    pub(super) fn listen(
        &mut self,
        console: Console,
        listener: UnixListener,
        poller: &mut Poller,
    ) -> std::io::Result<()> {
        // Edge-triggered: a client for whom there is no descriptor must not make the main loop spin.
        let token = poller.add(listener.as_raw_fd(), EventSet::IN | EventSet::EDGE_TRIGGERED)?;
        self.listeners.push((token, console, listener));
        Ok(())
    }

    /// Lets in those who wait at a listener; false when `token` is none.
    fn accept(&mut self, token: Token, poller: &mut Poller) -> bool {
        let Some((_, console, listener)) = self.listeners.iter().find(|(listener, ..)| *listener == token) else {
            return false;
        };
        let console = *console;
        let mut arrived = Vec::new();
        while arrived.len() < MAX_VIEWERS
            && let Ok((client, _)) = listener.accept()
        {
            arrived.push(client);
        }
        for client in arrived {
            if let Err(error) = self.attach(console.into(), client.into(), poller) {
                log::debug!("A console viewer was turned away: {error}");
            }
        }
        true
    }

    /// Serves whatever belongs to `token`; false when nothing here does.
    pub(super) fn on_ready(&mut self, token: Token, ready: EventSet, poller: &mut Poller) -> bool {
        if self.accept(token, poller) {
            return true;
        }
        if self.viewers.contains_key(&token) {
            self.serve(token, ready, poller);
            return true;
        }
        let found = self.ports.iter().position(|(_, port)| port.wake_token == token || port.room_token == token);
        let Some((index, (_, port))) = found.and_then(|index| Some((index, self.ports.get(index)?))) else {
            return false;
        };
        let room = port.room_token == token;
        if room {
            port.input.clear_room();
        } else {
            port.output.clear_wake();
        }
        let mut tokens = Vec::with_capacity(self.viewers.len());
        tokens.extend(self.viewers.iter().filter(|(_, viewer)| viewer.port == index).map(|(token, _)| *token));
        let news = if room { EventSet::IN } else { EventSet::empty() };
        for token in tokens {
            self.serve(token, news, poller);
        }
        true
    }

    /// Gives every viewer what it takes now, for the last time.
    pub(super) fn finish(&mut self, poller: &Poller) {
        let tokens: Vec<Token> = self.viewers.keys().copied().collect();
        for token in tokens {
            self.serve(token, EventSet::empty(), poller);
        }
    }

    fn serve(&mut self, token: Token, news: EventSet, poller: &Poller) {
        let Some(viewer) = self.viewers.get_mut(&token) else { return };
        let Some((_, port)) = self.ports.get(viewer.port) else { return };
        let served = viewer
            .show(&port.output)
            .and_then(|()| viewer.hear(news, &*port.input))
            .and_then(|()| viewer.watch(&port.output, token, poller));
        if served.is_err() {
            port.output.viewers.fetch_sub(1, Ordering::SeqCst);
            poller.remove(viewer.socket.as_raw_fd());
            self.viewers.remove(&token);
        }
    }
}

/// What a new viewer is watched for: there may be something to show.
const WATCHED_FIRST: EventSet = EventSet::from_bits_truncate(EventSet::IN.bits() | EventSet::OUT.bits());

/// Both ends of the socket are closed, or it is broken. Reported whether it is watched for or not.
const OVER: EventSet = EventSet::from_bits_truncate(EventSet::HANG_UP.bits() | EventSet::ERROR.bits());

/// The viewer closed its end, or its socket failed.
struct Gone;

/// Somebody who looks at a console.
struct Viewer {
    port: usize,
    socket: OwnedFd,
    /// Number of the byte that it gets next.
    position: u64,
    /// What it typed and the guest has not taken yet; at most one chunk.
    typed: Vec<u8>,
    /// It will type no more, and goes on looking.
    silent: bool,
    interest: EventSet,
}

impl Viewer {
    /// Sends what the viewer takes now.
    fn show(&mut self, output: &ConsoleOutput) -> Result<(), Gone> {
        let mut chunk = [0; CHUNK_BYTES];
        for _ in 0..CHUNKS_A_TURN {
            let mut next = self.position;
            let RingRead { skipped, length } = output.ring().read(&mut next, &mut chunk);
            let Some(bytes) = chunk.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
            if skipped > 0 {
                log::debug!("A console viewer was too slow and missed {skipped} bytes");
            }
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.socket.as_raw_fd(), bytes, flags) {
                // The rest of a short write is where it was, unless the ring goes over it.
                Ok(sent) => self.position = next.saturating_sub(length.saturating_sub(sent) as u64),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Takes what the viewer typed, as far as the guest does.
    fn hear(&mut self, news: EventSet, input: &dyn ConsoleInput) -> Result<(), Gone> {
        let over = news.intersects(OVER);
        if !over && !news.contains(EventSet::IN) {
            return Ok(());
        }
        for _ in 0..CHUNKS_A_TURN {
            let taken = input.push(&self.typed);
            self.typed.drain(..taken.min(self.typed.len()));
            if self.silent || !self.typed.is_empty() {
                // It is no use to wait for the guest on behalf of a viewer that has left.
                return if over { Err(Gone) } else { Ok(()) };
            }
            let mut chunk = [0; CHUNK_BYTES];
            match recv(self.socket.as_raw_fd(), &mut chunk, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => self.silent = true,
                Ok(length) => self.typed.extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    fn watch(&mut self, output: &ConsoleOutput, token: Token, poller: &Poller) -> Result<(), Gone> {
        let mut interest = EventSet::empty();
        interest.set(EventSet::IN, self.typed.is_empty() && !self.silent);
        interest.set(EventSet::OUT, self.position < output.ring().end());
        if interest != self.interest {
            poller.change(self.socket.as_raw_fd(), token, interest).map_err(|_| Gone)?;
            self.interest = interest;
        }
        Ok(())
    }
}

/// Only a socket can be used without waiting whatever its flags are; of anything else the flags belong to the client.
fn check_socket(fd: &OwnedFd) -> Result<(), CommandError> {
    // Looking at nothing takes nothing away; a call that only looks at the descriptor would be one more in the sandbox.
    match recv(fd.as_raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_PEEK) {
        Err(Errno::ENOTSOCK) => Err(CommandError::WrongFd("it must be one end of a connected stream socket")),
        _ => Ok(()),
    }
}
