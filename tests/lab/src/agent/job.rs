//! One program that the agent runs for the host. Three threads serve it: one for each output stream and one that waits
//! for its end. Dropping a job kills its whole process group.

use crate::frame::{Frame, Kind, Request, Status};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// After a job's end its pipes are read until they were silent for this long: a child left in the background may hold
/// them for ever.
const DRAIN: Duration = Duration::from_millis(500);
/// Frames are filled at most to here: enough to be cheap, small enough to be prompt.
const CHUNK: usize = 16 * 1024;

/// Where frames go: all threads of a port share it.
pub type Writer = Arc<Mutex<dyn Write + Send>>;

/// A running program.
pub struct Job {
    number: u32,
    group: u32,
    stdin: Option<ChildStdin>,
    ended: Arc<AtomicBool>,
}

impl Job {
    /// Starts `request` as job `number`; its frames go to `writer`.
    pub fn start(request: &Request, number: u32, writer: &Writer) -> io::Result<Self> {
        let (program, arguments) = request
            .argv
            .split_first()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "No program named"))?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
        let job =
            Self { number, group: child.id(), stdin: child.stdin.take(), ended: Arc::new(AtomicBool::new(false)) };
        let (active, activity) = mpsc::channel();
        if let Some(stdout) = child.stdout.take() {
            pump(stdout, Kind::Output, number, (Arc::clone(writer), active.clone()));
        }
        if let Some(stderr) = child.stderr.take() {
            pump(stderr, Kind::Errors, number, (Arc::clone(writer), active));
        }
        let ended = Arc::clone(&job.ended);
        let writer = Arc::clone(writer);
        let timeout = request.timeout;
        thread::spawn(move || {
            let status = wait(child, timeout, &activity);
            ended.store(true, Ordering::Release);
            send(&writer, &Frame::new(Kind::Exit, number, status.encode()));
        });
        Ok(job)
    }

    /// The number that the host gave.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Passes an `Input` or `InputEnd` frame on. A program that has closed its input is not an error.
    pub fn input(&mut self, frame: &Frame) {
        let written = match (&mut self.stdin, frame.kind) {
            (Some(stdin), Kind::Input) => stdin.write_all(&frame.payload).and_then(|()| stdin.flush()).is_ok(),
            _ => false,
        };
        if !written {
            self.stdin = None;
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.ended.load(Ordering::Acquire) {
            kill_group(self.group);
        }
    }
}

/// Sends one frame; when the host has gone there is nobody to tell.
pub fn send(writer: &Writer, frame: &Frame) {
    if let Ok(mut port) = writer.lock() {
        let _sent = frame.write_to(&mut *port);
    }
}

fn pump(mut stream: impl Read + Send + 'static, kind: Kind, job: u32, to: (Writer, Sender<()>)) {
    let (writer, active) = to;
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count) = stream.read(&mut buffer) {
            if count == 0 {
                break;
            }
            send(&writer, &Frame::new(kind, job, buffer.get(..count).unwrap_or_default()));
            let _waiting = active.send(());
        }
    });
}

fn wait(mut child: Child, timeout: Duration, activity: &Receiver<()>) -> Status {
    let group = child.id();
    let (exit_to, exited) = mpsc::channel();
    thread::spawn(move || {
        let _waiting = exit_to.send(child.wait());
    });
    let mut timed_out = false;
    let result = if timeout.is_zero() {
        exited.recv().ok()
    } else {
        exited.recv_timeout(timeout).ok().or_else(|| {
            timed_out = true;
            kill_group(group);
            exited.recv().ok()
        })
    };
    // Each piece of output is one message; the channel closes when both pumps have ended.
    while activity.recv_timeout(DRAIN).is_ok() {}
    match result {
        _ if timed_out => Status::TimedOut,
        Some(Ok(status)) => {
            status.code().map_or_else(|| Status::Signalled(status.signal().unwrap_or_default()), Status::Exited)
        }
        _ => Status::Signalled(0),
    }
}

fn kill_group(group: u32) {
    let _status = Command::new("sh").args(["-c", &format!("kill -9 -{group}")]).stderr(Stdio::null()).status();
}
