//! QEMU's control socket (QMP), as much of it as screenshots and port forwarding need. Blocking, on the caller's thread.

use crate::error::{IoContext, LabError};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) struct Qmp {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Qmp {
    pub(super) fn connect(path: &Path) -> Result<Self, LabError> {
        let stream = UnixStream::connect(path).on("connect to", path)?;
        stream.set_read_timeout(Some(PATIENCE)).on("set the time-out of", path)?;
        let mut qmp = Self { path: path.into(), stream: BufReader::new(stream) };
        qmp.line()?; // the greeting
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs one command and gives its `return` value.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, LabError> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").on("write to", &self.path)?;
        loop {
            let answer = self.line()?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                return Err(LabError::Qmp { command: command.into(), answer: error.to_string() });
            }
            // Anything else is an event.
        }
    }

    /// Runs a command of the human monitor, which answers nothing when all is well.
    pub(super) fn human(&mut self, command: &str) -> Result<(), LabError> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": command }))?;
        match answer.as_str() {
            None | Some("") => Ok(()),
            Some(words) => Err(LabError::Qmp { command: command.into(), answer: words.trim().into() }),
        }
    }

    fn line(&mut self) -> Result<Value, LabError> {
        let mut line = String::new();
        self.stream.read_line(&mut line).on("read from", &self.path)?;
        serde_json::from_str(&line).map_err(std::io::Error::from).on("read from", &self.path)
    }
}
