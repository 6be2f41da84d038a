//! The verbs of the native cases: a guest to be, a guest that runs, a guest that ended. A guest that is dropped is killed.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::transcript::{Stream, Transcript};
use super::{Native, PATIENCE};

pub(super) const CONTROL_SOCKET: &str = "control.sock";

/// A guest to be.
#[derive(Debug, Clone)]
pub struct Vm<'a> {
    native: &'a Native,
    kernel: PathBuf,
    words: Vec<String>,
    options: Vec<OsString>,
    wrapper: Vec<OsString>,
}

impl<'a> Vm<'a> {
    pub(super) fn new(native: &'a Native) -> Self {
        let options = ["--memory", "128M"].map(OsString::from).to_vec();
        Self { native, kernel: native.payload.clone(), words: Vec::new(), options, wrapper: Vec::new() }
    }

    /// Boots another kernel.
    pub fn kernel(mut self, kernel: PathBuf) -> Self {
        self.kernel = kernel;
        self
    }

    /// Adds words to the kernel command line.
    pub fn does(mut self, words: &str) -> Self {
        self.words.push(words.into());
        self
    }

    /// Adds an option with its value.
    pub fn option(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.options.extend([name.into(), value.as_ref().into()]);
        self
    }

    /// Adds an option without a value.
    pub fn flag(mut self, name: &str) -> Self {
        self.options.push(name.into());
        self
    }

    /// Adds a disk: `path=` and what else the option takes.
    pub fn disk(self, path: &std::path::Path, more: &str) -> Self {
        let value = format!("path={}{more}", path.display());
        self.option("--disk", value)
    }

    /// Adds a vsock device; returns its socket as well.
    pub fn vsock(self) -> (Self, PathBuf) {
        let socket = self.native.path("vsock.sock");
        let value = format!("cid=3,socket={}", socket.display());
        (self.option("--vsock", value), socket)
    }

    /// Adds the control socket, which [`Running::ctl`] needs.
    pub fn controlled(self) -> Self {
        let socket = self.native.path(CONTROL_SOCKET);
        self.option("--api-socket", socket)
    }

    /// Starts the VMM by another program, which gets its command line as arguments.
    pub fn under(mut self, words: &[&OsStr]) -> Self {
        self.wrapper = words.iter().map(OsString::from).collect();
        self
    }

    /// Starts it.
    pub fn start(&self) -> Result<Running<'a>> {
        let mut line = self.wrapper.clone();
        line.extend([self.native.vmm.clone().into(), "run".into(), "--kernel".into(), self.kernel.clone().into()]);
        line.extend(["--cmdline".into(), self.words.join(" ").into()]);
        line.extend(self.options.iter().cloned());
        Running::start(self.native, &line)
    }

    /// Runs it to its end.
    pub fn run(&self) -> Result<Ended> {
        self.start()?.end()
    }
}

/// A guest that runs.
#[derive(Debug)]
pub struct Running<'a> {
    native: &'a Native,
    child: Child,
    transcript: Transcript,
}

impl<'a> Running<'a> {
    /// Starts any command line.
    pub fn start(native: &'a Native, line: &[OsString]) -> Result<Self> {
        let (program, arguments) = line.split_first().context("No command")?;
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        Ok(Self::start_command(native, command)?.0)
    }

    /// Starts a command; returns its standard input as well, if that is a pipe.
    pub(super) fn start_command(native: &'a Native, mut command: Command) -> Result<(Self, Option<ChildStdin>)> {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.with_context(|| format!("Cannot start {}", command.get_program().display()))?;
        let transcript = Transcript::default();
        transcript.follow(Stream::Output, child.stdout.take().context("No standard output")?);
        transcript.follow(Stream::Errors, child.stderr.take().context("No standard error")?);
        let stdin = child.stdin.take();
        Ok((Self { native, child, transcript }, stdin))
    }

    /// Waits until the guest has said `text` so many times.
    pub fn wait_for(&self, text: &str, times: usize) -> Result<()> {
        let said = |output: &str| output.matches(text).count() >= times;
        self.transcript.wait(PATIENCE, |words| words.complete() || said(&words.output));
        let words = self.transcript.words();
        ensure!(
            said(&words.output),
            "The guest never said {text:?} {times} times\n--- serial ---\n{}\n--- log ---\n{}",
            words.output,
            words.errors
        );
        Ok(())
    }

    /// How often the guest has said `text` so far.
    pub fn count(&self, text: &str) -> usize {
        self.transcript.words().output.matches(text).count()
    }

    /// What `quantix-vmm ctl` prints for these arguments.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        let socket = self.native.path(CONTROL_SOCKET);
        let mut command = Command::new(&self.native.vmm);
        let output = command.arg("ctl").arg(socket).args(arguments).output().context("ctl does not start")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ctl {} ended with {}: {errors}", arguments.join(" "), output.status);
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same, as JSON.
    pub fn ctl_json(&self, action: &str) -> Result<Value> {
        let text = self.ctl(&["-o", "json", action])?;
        serde_json::from_str(&text).with_context(|| format!("ctl {action} printed {text:?}"))
    }

    /// Waits for its end.
    pub fn end(mut self) -> Result<Ended> {
        let complete = self.transcript.wait(PATIENCE, super::transcript::Words::complete);
        let words = self.transcript.words();
        let (output, errors) = (words.output.clone(), words.errors.clone());
        drop(words);
        ensure!(complete, "It did not end in time\n--- serial ---\n{output}\n--- log ---\n{errors}");
        let status = self.child.wait().context("Cannot wait for the VMM")?;
        Ok(Ended { status, output, errors })
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A guest that ended, and demands on how it did, to be chained.
#[derive(Debug)]
pub struct Ended {
    status: ExitStatus,
    /// Standard output: the guest's serial line.
    pub output: String,
    /// Standard error: the VMM's log.
    pub errors: String,
}

impl Ended {
    /// The VMM ended with this status.
    pub fn exited(self, code: i32) -> Result<Self> {
        ensure!(self.status.code() == Some(code), "It ended with {} instead of {code}{}", self.status, self.words());
        Ok(self)
    }

    /// The guest's command `name` did what it should.
    pub fn passed(self, name: &str) -> Result<Self> {
        let line = self.line("test", name)?;
        ensure!(line["ok"] == true, "{line}{}", self.words());
        Ok(self)
    }

    /// The line of the guest that has `value` for `key`.
    pub fn line(&self, key: &str, value: &str) -> Result<Value> {
        match self.lines().find(|line| line[key] == value) {
            Some(line) => Ok(line),
            None => bail!("The guest said nothing about {value}{}", self.words()),
        }
    }

    /// All that the guest said in JSON.
    pub fn lines(&self) -> impl Iterator<Item = Value> {
        self.output.lines().filter_map(|line| serde_json::from_str(line).ok())
    }

    /// What guest and VMM said, for a message.
    pub fn words(&self) -> String {
        format!("\n--- serial ---\n{}\n--- log ---\n{}", self.output, self.errors)
    }
}
