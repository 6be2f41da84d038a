//! Why a VMM was not started, in one line.

#![forbid(unsafe_code)]

use std::io;

use crate::model::{Failure, FailureKind};

use super::Step;
use super::wire::StageFailure;

/// A launch that failed. Nothing of it is left: no process, no control group, no file.
#[derive(Debug, thiserror::Error)]
#[error("The VMM was not started: could not {}{}: {source}; {}", step.doing(), subject(about), step.advice())]
pub struct LaunchError {
    /// What failed.
    pub step: Step,
    /// Which file, value or group; may be empty.
    pub about: String,
    /// What the kernel said.
    pub source: io::Error,
}

fn subject(about: &str) -> String {
    if about.is_empty() { String::new() } else { format!(" ({about})") }
}

impl LaunchError {
    pub(super) fn new(step: Step, about: impl Into<String>, source: io::Error) -> Self {
        Self { step, about: about.into(), source }
    }

    /// For `map_err`.
    pub(super) fn at<E: Into<io::Error>>(step: Step, about: impl Into<String>) -> impl FnOnce(E) -> Self {
        let about = about.into();
        move |source| Self::new(step, about, source.into())
    }

    /// The plan itself is wrong.
    pub(super) fn plan(about: impl Into<String>) -> Self {
        Self::new(Step::Plan, about, io::ErrorKind::InvalidInput.into())
    }
}

impl From<StageFailure> for LaunchError {
    fn from(failure: StageFailure) -> Self {
        Self::new(failure.step, "", io::Error::from_raw_os_error(failure.errno))
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        let kind = match error.step {
            Step::Cgroup | Step::Kvm | Step::Program => FailureKind::FailedPrecondition,
            Step::Clone | Step::Descriptors | Step::Config => FailureKind::ResourceExhausted,
            _ => FailureKind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}
