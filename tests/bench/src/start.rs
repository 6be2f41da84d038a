//! Time from a process's spawn to the guest's READY line, seen from outside, the same way for every VMM.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The payload's first line, as it appears on COM1.
pub const READY: &str = r#"{"event":"ready"}"#;

/// Starts `command`, waits for the READY line on its standard output, then ends the process and reaps it.
///
/// # Errors
///
/// If the command cannot be started, or its output ends without a READY line.
pub fn spawn_to_ready(command: &mut Command) -> Result<Duration> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("Cannot start {}", command.get_program().display()))?;
    let stdout = child.stdout.take().context("The child has no standard output")?;
    let ready = BufReader::new(stdout)
        .lines()
        .map_while(Result::ok)
        .find(|line| line.trim_end() == READY)
        .map(|_| started.elapsed());
    // Already gone is fine: it is reaped next.
    let _ = child.kill();
    let status = child.wait().context("Cannot wait for the child")?;
    match ready {
        Some(elapsed) => Ok(elapsed),
        None => bail!("No READY line from {}, which ended with {status}", command.get_program().display()),
    }
}
