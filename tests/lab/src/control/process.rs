//! A program that runs in L1. One thread reads its frames; the owner waits for what it wants, always with a deadline.
//! Dropping it closes the port, and the agent then kills whatever still runs.

use super::frame::{Frame, Kind, MAX_PAYLOAD, Request, Status};
use super::port::{Port, gone, hung};
use crate::error::{IoContext, LabError};
use std::net::Shutdown;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// How much later than its own time-out a program's end may be reported before L1 counts as hung.
const GRACE: Duration = Duration::from_secs(30);
static NEXT_JOB: AtomicU32 = AtomicU32::new(1);

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }
}

/// A running program in L1.
#[derive(Debug)]
pub struct Process {
    port: Port,
    job: u32,
    frames: Receiver<Frame>,
    deadline: Instant,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    status: Option<Status>,
    echo: bool,
}

impl Process {
    /// Starts `argv` on `port`; it is killed after `timeout`.
    ///
    /// # Errors
    /// [`LabError::Gone`] when L1 ended meanwhile.
    pub fn start(port: Port, argv: &[&str], timeout: Duration) -> Result<Self, LabError> {
        let job = NEXT_JOB.fetch_add(1, Ordering::Relaxed);
        let request = Request { timeout, argv: argv.iter().map(ToString::to_string).collect() };
        let mut reader = port.stream.try_clone().on("duplicate", "the control port")?;
        let (to, frames) = mpsc::channel();
        thread::spawn(move || {
            while let Ok(frame) = Frame::read_from(&mut reader) {
                if frame.job == job && to.send(frame).is_err() {
                    break;
                }
            }
        });
        let process = Self {
            port,
            job,
            frames,
            deadline: Instant::now() + timeout + GRACE,
            stdout: Vec::new(),
            stderr: Vec::new(),
            status: None,
            echo: false,
        };
        process.send(Kind::Run, &request.encode())?;
        Ok(process)
    }

    /// Also shows the program's output on this process's own standard output and error, as it comes.
    #[must_use]
    pub fn echoing(mut self) -> Self {
        self.echo = true;
        self
    }

    /// Writes to the program's standard input.
    ///
    /// # Errors
    /// [`LabError::Gone`] when L1 ended meanwhile.
    pub fn input(&self, bytes: &[u8]) -> Result<(), LabError> {
        bytes.chunks(MAX_PAYLOAD).try_for_each(|chunk| self.send(Kind::Input, chunk))
    }

    /// Ends the program's standard input.
    ///
    /// # Errors
    /// [`LabError::Gone`] when L1 ended meanwhile.
    pub fn end_input(&self) -> Result<(), LabError> {
        self.send(Kind::InputEnd, &[])
    }

    /// Waits until `text` is `times` times in standard output or in standard error. `false` when the program ends or
    /// `patience` is over without it.
    ///
    /// # Errors
    /// [`LabError::Gone`] or [`LabError::Hung`].
    pub fn wait_for(&mut self, text: &str, times: usize, patience: Duration) -> Result<bool, LabError> {
        let deadline = Instant::now() + patience;
        loop {
            if count(&self.stdout, text) >= times || count(&self.stderr, text) >= times {
                return Ok(true);
            }
            if self.status.is_some() || !self.take_frame(deadline)? {
                return Ok(false);
            }
        }
    }

    /// Waits for more output; `false` when there is none until `patience` is over or the program ends. What it said before
    /// this call does not count.
    ///
    /// # Errors
    /// [`LabError::Gone`] or [`LabError::Hung`].
    pub fn says_more(&mut self, patience: Duration) -> Result<bool, LabError> {
        while self.take_frame(Instant::now())? {}
        let before = self.stdout.len();
        let came = self.take_frame(Instant::now() + patience)?;
        Ok(came && self.stdout.len() > before)
    }

    /// What the program has said so far on standard output.
    pub fn stdout(&self) -> &[u8] {
        &self.stdout
    }

    /// What the program has said so far on standard error.
    pub fn stderr(&self) -> &[u8] {
        &self.stderr
    }

    /// Waits for the program's end.
    ///
    /// # Errors
    /// [`LabError::Hung`] when L1 does not report it in time, [`LabError::Gone`] when L1 ended, [`LabError::Refused`]
    /// when the program could not be started.
    pub fn wait(mut self) -> Result<Outcome, LabError> {
        while self.status.is_none() {
            if !self.take_frame(self.deadline)? {
                return Err(hung(&self.port.name, &self.port.run, "for a program's end"));
            }
        }
        Ok(Outcome {
            status: self.status.unwrap_or(Status::TimedOut),
            stdout: std::mem::take(&mut self.stdout),
            stderr: std::mem::take(&mut self.stderr),
        })
    }

    /// `false` when the deadline passed without a frame.
    fn take_frame(&mut self, deadline: Instant) -> Result<bool, LabError> {
        let left = deadline.min(self.deadline).saturating_duration_since(Instant::now());
        let frame = match self.frames.recv_timeout(left) {
            Ok(frame) => frame,
            Err(RecvTimeoutError::Timeout) => return Ok(false),
            Err(RecvTimeoutError::Disconnected) => return Err(gone(&self.port.name, &self.port.run)),
        };
        match frame.kind {
            Kind::Output => {
                if self.echo {
                    show(&mut std::io::stdout(), &frame.payload);
                }
                self.stdout.extend_from_slice(&frame.payload);
            }
            Kind::Errors => {
                if self.echo {
                    show(&mut std::io::stderr(), &frame.payload);
                }
                self.stderr.extend_from_slice(&frame.payload);
            }
            Kind::Exit => self.status = Status::decode(&frame.payload),
            Kind::Refused => {
                return Err(LabError::Refused { reason: String::from_utf8_lossy(&frame.payload).into_owned() });
            }
            Kind::Hello | Kind::Run | Kind::Input | Kind::InputEnd => {}
        }
        Ok(true)
    }

    fn send(&self, kind: Kind, payload: &[u8]) -> Result<(), LabError> {
        let mut stream = &self.port.stream;
        Frame::new(kind, self.job, payload).write_to(&mut stream).map_err(|_| gone(&self.port.name, &self.port.run))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Wakes the reading thread, and tells the agent that nobody waits any more.
        let _closed = self.port.stream.shutdown(Shutdown::Both);
    }
}

fn show(to: &mut impl std::io::Write, bytes: &[u8]) {
    let _shown = to.write_all(bytes).and_then(|()| to.flush());
}

fn count(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len().max(1)).filter(|window| *window == text.as_bytes()).count()
}
