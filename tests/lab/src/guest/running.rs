//! A guest that runs in L1, and the report of one that has ended. Every wait has a deadline.

use super::Vmm;
use crate::control::frame::Status;
use crate::control::{Outcome, Process};
use crate::error::LabError;
use crate::machine::Lab;
use std::time::Duration;

const CTL_TIMEOUT: Duration = Duration::from_secs(30);

/// A guest that was started.
#[derive(Debug)]
pub struct RunningGuest<'lab> {
    lab: &'lab Lab,
    vmm: Vmm,
    place: String,
    process: Process,
}

impl<'lab> RunningGuest<'lab> {
    pub(super) fn new(lab: &'lab Lab, vmm: &Vmm, place: &str, process: Process) -> Self {
        Self { lab, vmm: vmm.clone(), place: place.into(), process }
    }

    /// Shows the guest's serial port on standard output and the VMM's log on standard error.
    #[must_use]
    pub fn echoing(mut self) -> Self {
        self.process = self.process.echoing();
        self
    }

    /// Waits until the guest (or the VMM's log) says `text`.
    ///
    /// # Errors
    /// [`LabError::Job`] with the end of what was said when it does not come.
    pub fn wait_for(&mut self, text: &str, patience: Duration) -> Result<(), LabError> {
        self.wait_for_times(text, 1, patience)
    }

    /// Waits until the guest has said `text` so many times.
    ///
    /// # Errors
    /// As [`RunningGuest::wait_for`].
    pub fn wait_for_times(&mut self, text: &str, times: usize, patience: Duration) -> Result<(), LabError> {
        if self.process.wait_for(text, times, patience)? {
            return Ok(());
        }
        let said = [self.process.stdout(), self.process.stderr()].concat();
        Err(LabError::Job {
            command: "the guest".into(),
            status: format!("no \"{text}\" in {} s", patience.as_secs()),
            output: String::from_utf8_lossy(&said).into_owned(),
        })
    }

    /// Whether the guest says anything more within `patience`.
    ///
    /// # Errors
    /// [`LabError::Gone`] or [`LabError::Hung`].
    pub fn says_more(&mut self, patience: Duration) -> Result<bool, LabError> {
        self.process.says_more(patience)
    }

    /// Runs a command of `quantix-vmm ctl` on this guest and gives its output.
    ///
    /// # Errors
    /// [`LabError::Job`] when it fails.
    pub fn ctl(&self, command: &[&str]) -> Result<String, LabError> {
        let Vmm::Quantix(path) = &self.vmm else {
            return Err(LabError::Refused { reason: "only quantix-vmm has a control socket".into() });
        };
        let (path, socket) = (path.display().to_string(), format!("{}/api.sock", self.place));
        let argv: Vec<&str> = [path.as_str(), "ctl", &socket].into_iter().chain(command.iter().copied()).collect();
        let outcome = self.lab.run(&argv, CTL_TIMEOUT)?;
        if outcome.status == Status::Exited(0) {
            return Ok(outcome.text());
        }
        Err(LabError::Job {
            command: argv.join(" "),
            status: format!("{:?}", outcome.status),
            output: outcome.text() + &outcome.errors(),
        })
    }

    /// Writes to the guest's serial port.
    ///
    /// # Errors
    /// [`LabError::Gone`] when L1 has ended.
    pub fn type_line(&self, line: &str) -> Result<(), LabError> {
        self.process.input(format!("{line}\n").as_bytes())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// As [`Process::wait`]; a guest that was killed because its time was over is not one.
    pub fn end(self) -> Result<Report, LabError> {
        self.process.wait().map(Report)
    }
}

/// What a guest and its VMM said, and how the VMM ended.
#[derive(Debug, Clone)]
pub struct Report(Outcome);

impl Report {
    /// The VMM's end.
    pub fn status(&self) -> Status {
        self.0.status
    }

    /// The guest's serial port.
    pub fn serial(&self) -> String {
        self.0.text()
    }

    /// The VMM's log.
    pub fn log(&self) -> String {
        self.0.errors()
    }

    /// What the guest told by `fact NAME VALUE`.
    pub fn fact(&self, name: &str) -> Option<String> {
        let start = format!("LAB {name}=");
        self.serial().lines().find_map(|line| line.trim_end().split_once(&start).map(|(_, value)| value.to_string()))
    }
}
