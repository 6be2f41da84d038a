//! One running guest: its lines with their times, and its sure end.
//!
//! A thread reads the serial line; everything else is done by the caller. The process is ended and reaped on drop.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::statistics::{Overhead, overhead};

const PATIENCE: Duration = Duration::from_secs(30);

/// A VMM's process with the payload in it.
pub struct Running {
    child: Child,
    started: Instant,
    lines: Receiver<(Instant, String)>,
}

impl Running {
    /// Starts the command.
    ///
    /// # Errors
    ///
    /// If there is no such program.
    pub fn spawn(mut command: Command) -> Result<Self> {
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("Cannot start {}", command.get_program().display()))?;
        let stdout = child.stdout.take();
        let (sender, lines) = channel();
        let running = Self { child, started, lines };
        let stdout = stdout.context("The child has no standard output")?;
        // It ends with the pipe, which ends with the child.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send((Instant::now(), line)).is_err() {
                    return;
                }
            }
        });
        Ok(running)
    }

    /// The next line, as JSON, and its time since the spawn; nothing at the end of the output.
    ///
    /// # Errors
    ///
    /// If none comes in time, or a line reports a failure.
    pub fn next(&self) -> Result<Option<(Duration, Value)>> {
        loop {
            let (time, line) = match self.lines.recv_timeout(PATIENCE) {
                Ok(received) => received,
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => return Ok(None),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => bail!("The guest said nothing for {PATIENCE:?}"),
            };
            let Ok(value) = serde_json::from_str::<Value>(line.trim()) else { continue };
            if value["ok"] == false {
                bail!("The guest reports {line}");
            }
            return Ok(Some((time.duration_since(self.started), value)));
        }
    }

    /// Waits for the READY line.
    ///
    /// # Errors
    ///
    /// If the guest ends without it.
    pub fn ready(&self) -> Result<Duration> {
        match self.next()? {
            Some((time, value)) if value["event"] == "ready" => Ok(time),
            other => bail!("Not READY but {other:?}"),
        }
    }

    /// Memory beyond the guest's and the number of threads, now.
    ///
    /// # Errors
    ///
    /// If the process is gone.
    pub fn footprint(&self, guest_kib: u64) -> Result<(Overhead, usize)> {
        let process = format!("/proc/{}", self.child.id());
        let smaps = std::fs::read_to_string(format!("{process}/smaps")).context("Cannot read the VMM's smaps")?;
        let threads = std::fs::read_dir(format!("{process}/task")).context("Cannot count the VMM's threads")?.count();
        Ok((overhead(&smaps, guest_kib), threads))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone is fine: it is reaped next.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
