//! What the control socket asks of the machine: the contract between the two.
//!
//! All calls come from the main loop's thread, and only in phases in which [`super::allowed`] says that they may. A call
//! returns when what it asks for is done; it must not wait for the guest or for a client.

use std::io;
use std::os::fd::OwnedFd;

use quantix_vmm_api::v1::{BootTimeline, ControlError, ErrorCode, GetStatistics, Info, RateLimit, Statistics};
use thiserror::Error;

use super::phase::{Phase, WrongPhase};

/// The machine, as the control socket sees it.
pub trait Commands {
    /// The phase it is in now.
    fn phase(&self) -> Phase;

    /// What it is.
    fn info(&self) -> Info;

    /// Stops vCPUs and brings devices to rest; both stand still on return.
    fn pause(&mut self) -> Result<(), CommandError>;

    /// Lets a paused machine go on.
    fn resume(&mut self) -> Result<(), CommandError>;

    /// Presses the ACPI power button.
    fn press_power_button(&mut self) -> Result<(), CommandError>;

    /// Resets the machine, or asks the main loop to do so after this turn.
    fn reset(&mut self) -> Result<(), CommandError>;

    /// Asks the main loop to end the machine after this turn, so that the answer still goes out.
    fn stop(&mut self) -> Result<(), CommandError>;

    /// Sets the balloon's target in bytes.
    fn set_balloon(&mut self, size_bytes: u64) -> Result<(), CommandError>;

    /// Replaces both limits of a disk or a NIC; 0 is no limit.
    fn set_rate_limit(&mut self, device_id: &str, limit: RateLimit) -> Result<(), CommandError>;

    /// Keeps a descriptor under a name.
    fn add_fd(&mut self, name: &str, fd: OwnedFd) -> Result<(), CommandError>;

    /// Gives a kept descriptor away.
    fn take_fd(&mut self, name: &str) -> Result<OwnedFd, CommandError>;

    /// Reads the counters that `selection` names.
    fn statistics(&self, selection: &GetStatistics) -> Result<Statistics, CommandError>;

    /// When each step of the start happened.
    fn boot_timeline(&self) -> BootTimeline;
}

/// Why a command was not done.
#[derive(Debug, Error)]
pub enum CommandError {
    /// Nothing of this kind has this name.
    #[error("There is no {kind} named {name:?}")]
    NotFound {
        /// What was looked for: a device, a descriptor, …
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// The request's field that gave it.
        field: &'static str,
    },
    /// The name is taken.
    #[error("There is a {kind} named {name:?} already")]
    AlreadyExists {
        /// What it is.
        kind: &'static str,
        /// The name that was given.
        name: String,
        /// The request's field that gave it.
        field: &'static str,
    },
    /// A value is out of range.
    #[error("{field} cannot be {value:?}: {reason}")]
    InvalidValue {
        /// The request's field.
        field: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        reason: String,
    },
    /// The request came with more or fewer descriptors than it needs.
    #[error("The command needs {wanted} descriptors and came with {found}")]
    WrongFds {
        /// How many it needs.
        wanted: usize,
        /// How many came.
        found: usize,
    },
    /// The descriptor is of no use for the command.
    #[error("The descriptor cannot be used: {0}")]
    WrongFd(&'static str),
    /// The device cannot do this, or there is no such device.
    #[error("{0}")]
    Unsupported(String),
    /// A bound was reached.
    #[error("There are {limit} {what} already, and no more are possible")]
    Exhausted {
        /// What there are too many of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// Not in this phase.
    #[error(transparent)]
    WrongPhase(#[from] WrongPhase),
    /// The request is none that is known.
    #[error("The request has no command that this version knows")]
    Unknown,
    /// The host failed.
    #[error("Could not {what}")]
    Host {
        /// What was being done.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

impl From<&CommandError> for ControlError {
    fn from(error: &CommandError) -> Self {
        let (code, field) = match error {
            CommandError::NotFound { field, .. } => (ErrorCode::NotFound, *field),
            CommandError::AlreadyExists { field, .. } => (ErrorCode::AlreadyExists, *field),
            CommandError::InvalidValue { field, .. } => (ErrorCode::InvalidArgument, *field),
            CommandError::WrongFds { .. } | CommandError::WrongFd(_) => (ErrorCode::InvalidArgument, ""),
            CommandError::Unsupported(_) => (ErrorCode::Unsupported, ""),
            CommandError::Exhausted { .. } => (ErrorCode::ResourceExhausted, ""),
            CommandError::WrongPhase(_) => (ErrorCode::WrongPhase, ""),
            CommandError::Unknown => (ErrorCode::Malformed, "command"),
            CommandError::Host { .. } => (ErrorCode::Internal, ""),
        };
        Self::new(code, with_sources(error)).on(field)
    }
}

/// The text of an error and of what it came from, in one line.
fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
