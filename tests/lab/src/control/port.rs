//! One control port, held alone: a lock on a file beside the socket keeps other clients off. Blocking; used by the thread
//! that opened it and, for reading, by one thread of [`super::Process`].

use super::frame::{Frame, Kind};
use crate::error::{IoContext, LabError};
use crate::machine::{PORTS, RunDirectory, logs};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an idle L1 may take to say hello, on a busy machine.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(20);

/// An open port to L1's agent.
#[derive(Debug)]
pub struct Port {
    pub(super) stream: UnixStream,
    pub(super) name: String,
    pub(super) run: RunDirectory,
    _lock: File,
}

impl Port {
    /// The first free port, once the agent has answered on it.
    ///
    /// # Errors
    /// [`LabError::Hung`] when that takes longer than `patience`, [`LabError::Gone`] when there is no such L1.
    pub fn open(name: &str, run: &RunDirectory, patience: Duration) -> Result<Self, LabError> {
        let deadline = Instant::now() + patience;
        let lock_and_index = loop {
            if let Some(free) = Self::lock_free_one(name, run)? {
                break free;
            }
            if Instant::now() > deadline {
                return Err(hung(name, run, "for a free control port"));
            }
            thread::sleep(RETRY);
        };
        let (lock, index) = lock_and_index;
        let stream = UnixStream::connect(run.port(index)).map_err(|_| gone(name, run))?;
        let port = Self { stream, name: name.into(), run: run.clone(), _lock: lock };
        port.greet(deadline)?;
        Ok(port)
    }

    fn lock_free_one(name: &str, run: &RunDirectory) -> Result<Option<(File, usize)>, LabError> {
        for index in 0..PORTS {
            let path = run.port_lock(index);
            let file = File::create(&path).map_err(|_| gone(name, run))?;
            if file.try_lock().is_ok() {
                return Ok(Some((file, index)));
            }
        }
        Ok(None)
    }

    /// Says hello until the answer comes: what an earlier client left in the pipe is passed over.
    fn greet(&self, deadline: Instant) -> Result<(), LabError> {
        let nonce = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos()).to_le_bytes();
        let hello = Frame::new(Kind::Hello, 0, nonce);
        let mut stream = &self.stream;
        hello.write_to(&mut stream).map_err(|_| gone(&self.name, &self.run))?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(hung(&self.name, &self.run, "for the agent's hello"));
            }
            self.stream.set_read_timeout(Some(left)).on("set the time-out of", "the control port")?;
            match Frame::read_from(&mut stream) {
                Ok(frame) if frame == hello => break,
                Err(error)
                    if error.kind() == ErrorKind::UnexpectedEof || error.kind() == ErrorKind::ConnectionReset =>
                {
                    return Err(gone(&self.name, &self.run));
                }
                // Left over from an aborted job, or cut in the middle by it, or nothing yet.
                Ok(_) | Err(_) => {}
            }
        }
        self.stream.set_read_timeout(None).on("set the time-out of", "the control port")
    }
}

pub(super) fn hung(name: &str, run: &RunDirectory, waited: &str) -> LabError {
    LabError::Hung { name: name.into(), waited_for: format!("waited {waited}"), logs: logs(run) }
}

pub(super) fn gone(name: &str, run: &RunDirectory) -> LabError {
    LabError::Gone { name: name.into(), logs: logs(run) }
}
