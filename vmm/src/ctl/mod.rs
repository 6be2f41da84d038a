//! `quantix-vmm ctl`: a person or a script talks to the control socket of a running guest.
//!
//! Runs in a process of its own, on its main thread; it is no part of the VMM and shares nothing with it but the
//! protocol. Texts for people go to stdout as tables, `-o json` prints one JSON value for each answer or event. It
//! decides nothing: whether a command is possible is for the machine to say.

#![forbid(unsafe_code)]

mod args;
mod console;
mod events;
mod figures;
mod report;
mod stats;
mod style;
mod table;
mod timeline;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use quantix_vmm_api::blocking::{BlockingClient, BlockingError};
use quantix_vmm_api::call::CallError;
use quantix_vmm_api::transport::TransportError;
use quantix_vmm_api::v1;
use serde_json::{Value, json};

pub use args::CtlArgs;
use args::{Action, Format};
use style::Style;

/// A command of `ctl` that failed; exit status 1.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// Nobody answers at the socket.
    #[error("Cannot reach the machine at {}", path.display())]
    Connect {
        /// The control socket.
        path: PathBuf,
        /// Why.
        source: TransportError,
    },
    /// The machine said no, for a reason in a field of the command.
    #[error("{message}")]
    Refused {
        /// What it said.
        message: String,
    },
    /// The conversation failed.
    #[error("The machine gave no usable answer")]
    Conversation(#[source] BlockingError),
    /// A file named on the command line could not be opened.
    #[error("Cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The terminal or the output failed.
    #[error("Cannot {what}")]
    Local {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl From<BlockingError> for CtlError {
    fn from(error: BlockingError) -> Self {
        match error {
            BlockingError::Call(CallError::Refused(refusal)) => Self::Refused { message: refusal.message },
            other => Self::Conversation(other),
        }
    }
}

/// Carries out one command line.
///
/// # Errors
/// [`CtlError`], when the machine cannot be reached or refuses; exit status 1 is meant then.
pub fn run(args: &CtlArgs) -> Result<ExitCode, CtlError> {
    let connect = |source| CtlError::Connect { path: args.socket.clone(), source };
    let client = BlockingClient::connect(&args.socket).map_err(connect)?;
    let mut ctl = Ctl { client, deadline: args.deadline(), output: Output::new(args.output) };
    let carried_out = match &args.action {
        Action::Stats(options) => ctl.stats(options),
        Action::Events(options) => ctl.events(options),
        Action::Console(options) => ctl.console(options),
        simple => ctl.simple(simple),
    };
    match carried_out {
        // Whoever reads our output has enough, as `head` does.
        Err(CtlError::Local { source, .. }) if source.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => other.map(|()| ExitCode::SUCCESS),
    }
}

/// A connection and where answers go.
struct Ctl {
    client: BlockingClient,
    deadline: Duration,
    output: Output,
}

impl Ctl {
    /// The commands that are one call each.
    fn simple(&mut self, action: &Action) -> Result<(), CtlError> {
        match action {
            Action::Info => {
                let info = self.call(v1::GetInfo {})?;
                self.output.show(&report::info_json(&info), |style| report::info_text(&info, style))
            }
            Action::Timeline => {
                let timeline = self.call(v1::GetBootTimeline {})?;
                self.output.show(&timeline::json(&timeline), |style| timeline::text(&timeline, style))
            }
            Action::Pause => self.tell(v1::Pause {}, "Paused"),
            Action::Resume => self.tell(v1::Resume {}, "Running"),
            Action::PowerButton => self.tell(v1::PressPowerButton {}, "Pressed the power button"),
            Action::Reset => self.tell(v1::Reset {}, "Reset"),
            Action::Stop => self.tell(v1::Stop {}, "Stopped"),
            Action::Balloon { size } => {
                let said = format!("The balloon's target is {}", figures::bytes(*size));
                self.tell(v1::SetBalloon { size_bytes: *size }, &said)
            }
            Action::Limit { id, iops, bps } => {
                let limit = v1::RateLimit { operations_per_second: *iops, bytes_per_second: *bps };
                let said = report::limit_text(id, &limit);
                self.tell(v1::SetRateLimit { device_id: id.clone(), limit: Some(limit) }, &said)
            }
            Action::AddFd { name, path, read_only } => self.add_fd(name, path, *read_only),
            Action::TakeFd { name } => self.take_fd(name),
            // `run` has sorted these out.
            Action::Stats(_) | Action::Events(_) | Action::Console(_) => Ok(()),
        }
    }

    fn call<C: quantix_vmm_api::call::Call>(&mut self, command: C) -> Result<C::Reply, CtlError> {
        Ok(self.client.call(command, self.deadline)?)
    }

    /// A command whose answer says no more than that it was done.
    fn tell<C>(&mut self, command: C, said: &str) -> Result<(), CtlError>
    where
        C: quantix_vmm_api::call::Call<Reply = v1::Done>,
    {
        self.call(command)?;
        self.output.done(said)
    }

    fn add_fd(&mut self, name: &str, path: &PathBuf, read_only: bool) -> Result<(), CtlError> {
        let open = File::options().read(true).write(!read_only).open(path);
        let file = open.map_err(|source| CtlError::Open { path: path.clone(), source })?;
        let command = v1::AddFd { name: name.to_owned() };
        self.client.call_with_fds(command, &[file.as_fd()], self.deadline)?;
        self.output.done(&format!("{} is now fd:{name}", path.display()))
    }

    /// The descriptor ends with this process; what it was is told.
    fn take_fd(&mut self, name: &str) -> Result<(), CtlError> {
        let command = v1::TakeFd { name: name.to_owned() };
        let (_, fds) = self.client.call_with_fds(command, &[], self.deadline)?;
        let found: Vec<Value> = fds.iter().map(|fd| report::descriptor_json(fd.as_fd())).collect();
        let json = json!({ "name": name, "descriptor": found.first() });
        self.output.show(&json, |_| report::descriptor_text(name, found.first()))
    }
}

/// Where answers go, and in which form.
struct Output {
    format: Format,
    style: Style,
}

impl Output {
    fn new(format: Format) -> Self {
        Self { format, style: Style::of_stdout() }
    }

    /// Prints an answer in the form that was asked for.
    fn show(&self, json: &Value, text: impl FnOnce(&Style) -> String) -> Result<(), CtlError> {
        let written = match self.format {
            Format::Json => writeln!(io::stdout(), "{json}"),
            Format::Text => write!(io::stdout(), "{}", text(&self.style)),
        };
        written.map_err(|source| CtlError::Local { what: "write to stdout", source })
    }

    fn done(&self, said: &str) -> Result<(), CtlError> {
        self.show(&json!({ "done": true }), |_| format!("{said}\n"))
    }
}
