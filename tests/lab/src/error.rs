//! What can go wrong in the lab, for every module of this crate.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// A failure of the lab itself; a program that ran in L1 and failed is not one.
#[derive(Debug, Error)]
pub enum LabError {
    /// A file or socket operation.
    #[error("Could not {action} {path}")]
    Io {
        /// A verb: "read", "create".
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A program on this machine did not do its work.
    #[error("`{command}` failed ({status}): {stderr}")]
    Tool {
        /// The command line.
        command: String,
        /// Its exit status or why it did not start.
        status: String,
        /// The end of what it said.
        stderr: String,
    },
    /// Something was built from what this machine cannot give.
    #[error("Cannot build {what}: {reason}")]
    Image {
        /// The image.
        what: &'static str,
        /// Why, and what to do.
        reason: String,
    },
    /// L1 did not answer in time.
    #[error("L1 `{name}` does not answer ({waited_for}){logs}")]
    Hung {
        /// The name of the L1.
        name: String,
        /// What was waited for.
        waited_for: String,
        /// The ends of its log files.
        logs: String,
    },
    /// L1 ended while it was in use, or never started.
    #[error("L1 `{name}` is gone{logs}")]
    Gone {
        /// The name of the L1.
        name: String,
        /// The ends of its log files.
        logs: String,
    },
    /// There is already an L1 of that name.
    #[error("L1 `{name}` is already up; `lab down --name {name}` ends it")]
    AlreadyUp {
        /// The name of the L1.
        name: String,
    },
    /// L1 refused a request.
    #[error("L1 refused the request: {reason}")]
    Refused {
        /// In L1's words.
        reason: String,
    },
    /// A program in L1 ended otherwise than the caller demanded.
    #[error("`{command}` in L1 ended with {status}: {output}")]
    Job {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of its output.
        output: String,
    },
    /// QEMU refused a command on its control socket.
    #[error("QEMU refused `{command}`: {answer}")]
    Qmp {
        /// The command.
        command: String,
        /// The answer.
        answer: String,
    },
}

/// Names the file and the action when an operation fails.
pub(crate) trait IoContext<T> {
    /// Turns the system's reason into a [`LabError::Io`].
    fn on(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, LabError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn on(self, action: &'static str, path: impl Into<PathBuf>) -> Result<T, LabError> {
        self.map_err(|source| LabError::Io { action, path: path.into(), source })
    }
}
