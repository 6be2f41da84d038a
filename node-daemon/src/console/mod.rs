//! Serial consoles: one ring since power-on and many viewers for each VM. Tokio tasks; must not know who is watching.
//!
//! ```text
//!  VMM ══ stream socket ══► pump ──► ring (newest 256 KiB) ◄── each viewer reads from its own place
//!                            │  └──► log file, rotated
//!                            ◄────── what viewers type
//! ```
//!
//! The ring is every viewer's buffer: one that is too slow loses the oldest bytes, is told how many, and nobody waits for
//! it. A viewer stays through restarts of the VM. When the daemon itself was restarted, the VMM sends again what it keeps;
//! the log then takes only what it does not have.

mod log;
mod pump;
mod ring;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

pub use log::{Tail, tail};

use log::ConsoleLog;
use ring::Ring;

/// How much of the past a console keeps, in bytes.
pub const RING_BYTES: usize = 256 << 10;
/// How much a viewer is given at once, in bytes.
const CHUNK_BYTES: usize = 32 << 10;
/// Pieces of typing that wait for a guest that does not read.
const TYPED_PIECES: usize = 64;

/// Where a console's files are.
#[derive(Debug, Clone)]
pub struct ConsoleFiles {
    /// The log; `.1` is appended for the one before.
    pub log: PathBuf,
    /// A small file that lives as long as the VM runs: how much of the log belongs to this run.
    pub mark: PathBuf,
}

/// What a stream brings first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// A VM that was just switched on.
    PowerOn,
    /// A VM that runs: `replay_bytes` of the past come first, `lost_bytes` before them are gone.
    Again {
        /// How much comes again.
        replay_bytes: u64,
        /// How much the VMM had forgotten.
        lost_bytes: u64,
    },
}

/// The console of one VM. Clones share it.
#[derive(Debug, Clone)]
pub struct Console {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: ConsoleFiles,
    state: Mutex<State>,
    /// Changes whenever something was printed.
    printed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    ring: Ring,
    keyboard: Option<mpsc::Sender<Bytes>>,
    pump: Option<AbortHandle>,
}

/// Nobody listens: the VM is off, or its guest has not read for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The VM does not take input now")]
pub struct NotListening;

impl Console {
    /// A console that has printed nothing.
    pub fn new(files: ConsoleFiles) -> Self {
        let state = State { ring: Ring::new(RING_BYTES), keyboard: None, pump: None };
        Self { shared: Arc::new(Shared { files, state: Mutex::new(state), printed: watch::Sender::new(0) }) }
    }

    /// Takes a stream from a VMM in place of the one before. Must be called within the runtime.
    pub fn attach(&self, stream: UnixStream, begin: Begin) {
        let (keyboard, typed) = mpsc::channel(TYPED_PIECES);
        let log = ConsoleLog::new(self.shared.files.clone(), begin);
        let mut state = self.shared.state();
        if begin == Begin::PowerOn {
            state.ring.clear();
        }
        if let Some(before) = state.pump.take() {
            before.abort();
        }
        state.keyboard = Some(keyboard);
        state.pump = Some(tokio::spawn(pump::run(Arc::downgrade(&self.shared), stream, typed, log)).abort_handle());
    }

    /// Nobody listens to what is typed any more. What is still on its way from the VMM is shown.
    pub fn detach(&self) {
        self.shared.state().keyboard = None;
    }

    /// A viewer: first sees what the ring holds, then what is printed.
    pub fn view(&self) -> Viewer {
        let printed = self.shared.printed.subscribe();
        let state = self.shared.state();
        let (position, live_from) = (state.ring.start(), state.ring.end());
        drop(state);
        Viewer { shared: self.shared.clone(), printed, position, live_from }
    }

    /// Types. Waits while the guest has much unread.
    ///
    /// # Errors
    /// The VM is off.
    pub async fn type_in(&self, bytes: Bytes) -> Result<(), NotListening> {
        let keyboard = self.shared.state().keyboard.clone().ok_or(NotListening)?;
        keyboard.send(bytes).await.map_err(|_| NotListening)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // The ring is whole after each call on it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print(&self, bytes: &[u8]) {
        self.state().ring.write(bytes);
        self.printed.send_modify(|count| *count = count.wrapping_add(1));
    }
}

/// What a viewer sees next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The bytes; never empty.
    pub data: Bytes,
    /// They were printed before the viewer came.
    pub replay: bool,
    /// So many bytes before them are missing.
    pub lost_bytes: u64,
}

/// Somebody who looks at a console.
#[derive(Debug)]
pub struct Viewer {
    shared: Arc<Shared>,
    printed: watch::Receiver<u64>,
    position: u64,
    live_from: u64,
}

impl Viewer {
    /// Waits for something to see. Safe to drop and call again.
    pub async fn next(&mut self) -> Seen {
        loop {
            self.printed.mark_unchanged();
            if let Some(seen) = self.look() {
                return seen;
            }
            // The sender lives in `shared`, which this viewer holds.
            let _ = self.printed.changed().await;
        }
    }

    fn look(&mut self) -> Option<Seen> {
        let state = self.shared.state();
        let lost_bytes = state.ring.start().saturating_sub(self.position);
        let from = self.position + lost_bytes;
        let replay = from < self.live_from;
        let most = if replay { (self.live_from - from).min(CHUNK_BYTES as u64) as usize } else { CHUNK_BYTES };
        let data = state.ring.read(from, most);
        drop(state);
        if data.is_empty() {
            return None;
        }
        self.position = from + data.len() as u64;
        Some(Seen { data: data.into(), replay, lost_bytes })
    }
}
