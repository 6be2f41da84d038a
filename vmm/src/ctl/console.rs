//! `console`: this terminal becomes the guest's. Ctrl-] leaves.
//!
//! The VMM is given one end of a socket pair; the bytes go through this process because only it may touch the terminal's
//! settings, and it puts them back however it ends.

use std::io::{self, IsTerminal as _, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use quantix_vmm_api::v1::{AttachConsole, Console};

use super::args::{ConsoleArgs, Which};
use super::{Ctl, CtlError};

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// How much moves at once, in bytes.
const CHUNK_BYTES: usize = 4096;

impl Ctl {
    pub(super) fn console(&mut self, options: &ConsoleArgs) -> Result<(), CtlError> {
        let (ours, theirs) = UnixStream::pair().map_err(local("make a socket pair"))?;
        let console = match options.which {
            Which::Serial => Console::Serial,
            Which::Virtio => Console::Virtio,
        };
        let command = AttachConsole { console: console.into() };
        let (attached, _) = self.client.call_with_fds(command, &[theirs.as_fd()], self.deadline)?;
        drop(theirs);
        if attached.lost_bytes > 0 {
            eprintln!("quantix-vmm: the first {} bytes are no longer remembered", attached.lost_bytes);
        }
        if options.past {
            let mut past = (&ours).take(attached.replay_bytes);
            return io::copy(&mut past, &mut io::stdout()).map(drop).map_err(local("print the console"));
        }
        let raw = RawTerminal::enter()?;
        if raw.is_some() {
            eprint!("Connected; Ctrl-] leaves\r\n");
        }
        let end = carry(&ours, raw.is_some());
        drop(raw);
        match end.map_err(local("carry the console"))? {
            End::Left => eprintln!(),
            End::Machine => eprintln!("quantix-vmm: the machine closed the console"),
        }
        Ok(())
    }
}

fn local(what: &'static str) -> impl Fn(io::Error) -> CtlError {
    move |source| CtlError::Local { what, source }
}

/// Who ended it.
enum End {
    /// The user.
    Left,
    /// The machine.
    Machine,
}

/// Carries bytes both ways until one side ends it. The end of a stdin that is no terminal ends only the typing.
fn carry(console: &UnixStream, escapes: bool) -> io::Result<End> {
    let (stdin, mut stdout) = (io::stdin(), io::stdout());
    let mut typing = true;
    let mut chunk = [0; CHUNK_BYTES];
    loop {
        let mut fds = vec![PollFd::new(console.as_fd(), PollFlags::POLLIN)];
        if typing {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or(false);
        if ready(0) {
            let mut source = console;
            let length = source.read(&mut chunk)?;
            if length == 0 {
                return Ok(End::Machine);
            }
            stdout.write_all(chunk.get(..length).unwrap_or_default())?;
            stdout.flush()?;
        }
        if ready(1) {
            // Not through `Stdin`: its buffer would hide bytes from `poll`.
            let length = nix::unistd::read(stdin.as_fd(), &mut chunk)?;
            let typed = chunk.get(..length).unwrap_or_default();
            let escaped = typed.iter().position(|byte| escapes && *byte == ESCAPE);
            let mut sink = console;
            sink.write_all(typed.get(..escaped.unwrap_or(length)).unwrap_or_default())?;
            if escaped.is_some() {
                return Ok(End::Left);
            }
            if length == 0 {
                typing = false;
                console.shutdown(std::net::Shutdown::Write)?;
            }
        }
    }
}

/// The terminal in raw mode; put back when dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    /// Nothing when stdin is no terminal.
    fn enter() -> Result<Option<Self>, CtlError> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let fail = |errno: nix::errno::Errno| local("set the terminal up")(errno.into());
        let before = tcgetattr(&stdin).map_err(fail)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).map_err(fail)?;
        Ok(Some(Self(before)))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.0);
    }
}
