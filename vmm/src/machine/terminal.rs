//! Standard input as the guest's keyboard: `--serial stdio`, `--console stdio`.
//!
//! Main loop's thread. A terminal is put into raw mode, so that the guest sees every key, and put back when the guest
//! ends. Ctrl-] and then x ends the machine, Ctrl-] twice types one. Input that the guest does not take waits here, and
//! nothing more is read.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};

use nix::sys::termios::{OutputFlags, SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::control::ConsoleInput;
use crate::virtio::HostError;

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// How much is read at once, in bytes.
const CHUNK_BYTES: usize = 1024;

/// What the user typed, as far as it is not for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Typed {
    /// Nothing.
    Nothing,
    /// Ctrl-] x.
    Stop,
}

/// Finds the escape in what is typed.
#[derive(Debug, Default)]
struct Escapes {
    begun: bool,
}

impl Escapes {
    /// Puts what is for the guest into `guest`. What follows an escape that ends the machine is dropped.
    fn filter(&mut self, typed: &[u8], guest: &mut Vec<u8>) -> Typed {
        for &byte in typed {
            match (std::mem::take(&mut self.begun), byte) {
                (false, ESCAPE) => self.begun = true,
                (true, b'x' | b'X') => return Typed::Stop,
                (true, ESCAPE) | (false, _) => guest.push(byte),
                (true, other) => guest.extend([ESCAPE, other]),
            }
        }
        Typed::Nothing
    }
}

/// Standard input.
pub(super) struct Keyboard {
    /// The terminal's settings before ours; none when it is no terminal.
    before: Option<Termios>,
    escapes: Escapes,
    /// Whom it types to.
    input: Box<dyn ConsoleInput>,
    waiting: Vec<u8>,
    watched: bool,
    ended: bool,
}

impl Keyboard {
    /// Takes over standard input and watches it. Standard input that cannot be waited for, such as a file, is not read.
    pub(super) fn open(epoll: &Epoll, input: Box<dyn ConsoleInput>) -> Result<Self, HostError> {
        let stdin = io::stdin();
        let mut before = None;
        if stdin.is_terminal() {
            let fail = |errno: nix::Error| HostError::new("Could not set the terminal up", errno.into());
            let settings = tcgetattr(&stdin).map_err(fail)?;
            let mut raw = settings.clone();
            cfmakeraw(&mut raw);
            // Log lines on the same terminal still begin on the left.
            raw.output_flags |= OutputFlags::OPOST | OutputFlags::ONLCR;
            tcsetattr(&stdin, SetArg::TCSANOW, &raw).map_err(fail)?;
            before = Some(settings);
        }
        let mut keyboard =
            Self { before, escapes: Escapes::default(), input, waiting: Vec::new(), watched: false, ended: false };
        keyboard.watch(epoll, true);
        if keyboard.before.is_some() {
            log::info!("This terminal is the guest's; Ctrl-] x ends the machine");
        }
        Ok(keyboard)
    }

    /// Standard input's descriptor.
    pub(super) fn fd() -> RawFd {
        io::stdin().as_raw_fd()
    }

    /// Types what waits, and what is new when `ready`. To be called in every turn: only the guest makes room.
    pub(super) fn serve(&mut self, ready: bool, epoll: &Epoll) -> Typed {
        let mut typed = Typed::Nothing;
        if ready && self.watched && self.waiting.is_empty() {
            let mut chunk = [0; CHUNK_BYTES];
            match nix::unistd::read(io::stdin().as_fd(), &mut chunk) {
                Ok(0) => self.ended = true,
                Ok(length) => typed = self.escapes.filter(chunk.get(..length).unwrap_or_default(), &mut self.waiting),
                Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
                Err(error) => {
                    log::warn!("Standard input cannot be read: {error}");
                    self.ended = true;
                }
            }
        }
        if !self.waiting.is_empty() {
            let taken = self.input.push(&self.waiting);
            self.waiting.drain(..taken.min(self.waiting.len()));
        }
        self.watch(epoll, self.waiting.is_empty() && !self.ended);
        typed
    }

    fn watch(&mut self, epoll: &Epoll, wanted: bool) {
        if wanted == self.watched {
            return;
        }
        let operation = if wanted { ControlOperation::Add } else { ControlOperation::Delete };
        let event = EpollEvent::new(EventSet::IN, super::main_loop::KEYBOARD);
        match epoll.ctl(operation, Self::fd(), event) {
            Ok(()) => self.watched = wanted,
            Err(error) => {
                log::debug!("Standard input cannot be waited for: {error}");
                (self.watched, self.ended) = (false, true);
            }
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nobody is left to be told.
            let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_out_however_they_are_cut() {
        type Row = (&'static [&'static [u8]], &'static [u8], Typed);
        let table: [Row; 5] = [
            (&[b"ls\r"], b"ls\r", Typed::Nothing),
            (&[b"a\x1dxb"], b"a", Typed::Stop),
            (&[b"a\x1d", b"x"], b"a", Typed::Stop),
            (&[b"\x1d\x1dx"], b"\x1dx", Typed::Nothing),
            (&[b"\x1d", b"q"], b"\x1dq", Typed::Nothing),
        ];
        for (pieces, expected, end) in table {
            let (mut escapes, mut guest, mut typed) = (Escapes::default(), Vec::new(), Typed::Nothing);
            for piece in pieces {
                typed = escapes.filter(piece, &mut guest);
            }
            assert_eq!((guest.as_slice(), typed), (expected, end), "{pieces:?}");
        }
    }
}
