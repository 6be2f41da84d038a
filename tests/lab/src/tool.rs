//! Runs programs of this machine (apt-get, mke2fs, …) to their end and keeps what they say for the error text.

use crate::error::LabError;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};

/// How much of a failed program's words an error repeats, in bytes.
const STDERR_TAIL: usize = 2000;

/// A program to run here, on the development machine.
pub(crate) struct Tool(Command);

impl Tool {
    /// The program, found on the path or in the administrator's directories.
    pub(crate) fn new(program: &str) -> Self {
        let mut command = Command::new(program);
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin")).env("LC_ALL", "C").stdin(Stdio::null());
        Self(command)
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.0.arg(argument);
        self
    }

    /// Adds arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.0.args(arguments);
        self
    }

    /// Runs in `directory`.
    pub(crate) fn in_directory(mut self, directory: &Path) -> Self {
        self.0.current_dir(directory);
        self
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs to the end and gives standard output.
    ///
    /// # Errors
    /// [`LabError::Tool`] when the program is missing or ends with another code than 0.
    pub(crate) fn run(mut self) -> Result<String, LabError> {
        let output = self.0.output().map_err(|error| self.failed(error.to_string(), &[]))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(self.failed(output.status.to_string(), &output.stderr))
        }
    }

    fn failed(&self, status: String, stderr: &[u8]) -> LabError {
        let words: Vec<_> =
            [self.0.get_program()].into_iter().chain(self.0.get_args()).map(OsStr::to_string_lossy).collect();
        let tail = stderr.get(stderr.len().saturating_sub(STDERR_TAIL)..).unwrap_or_default();
        LabError::Tool { command: words.join(" "), status, stderr: String::from_utf8_lossy(tail).trim().to_string() }
    }
}
