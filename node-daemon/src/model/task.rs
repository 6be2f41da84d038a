//! Long operations as they are stored and shown. Pure; running them is the business of `tasks/`.
//!
//! ```text
//! PENDING ──work begins──► RUNNING ──► SUCCEEDED
//!    │                        ├──────► FAILED      (also: the daemon died meanwhile)
//!    └──────daemon died───────┴──────► CANCELLED   (somebody asked, and the work has stopped)
//! ```

use serde::{Deserialize, Serialize};

use super::{Caller, Failure, Id, ResourceRef, Time};

/// How a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Waits for its turn.
    Pending,
    /// Its work goes on.
    Running,
    /// Done.
    Succeeded,
    /// Not done, and nothing half-made is left.
    Failed,
    /// Stopped because somebody asked for it.
    Cancelled,
}

impl TaskState {
    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// As the store and events write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// How far something is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// So much is done.
    pub done: u64,
    /// Of so much; 0 when the end is not known.
    pub total: u64,
    /// What is counted: bytes, steps.
    pub unit: String,
}

/// Why a task did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskError {
    /// `google.rpc.Code`.
    pub code: i32,
    /// One sentence with its causes.
    pub message: String,
}

impl From<&Failure> for TaskError {
    fn from(failure: &Failure) -> Self {
        Self { code: failure.kind().code(), message: failure.chain() }
    }
}

/// One long operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// Its id.
    pub id: Id,
    /// The method that started it: `CreateVm`.
    pub kind: String,
    /// What it is done to.
    pub resource: Option<ResourceRef>,
    /// How it stands.
    pub state: TaskState,
    /// How far it is.
    pub progress: Option<Progress>,
    /// What is being done now, for people.
    pub step: String,
    /// Why it did not succeed.
    pub error: Option<TaskError>,
    /// Who started it.
    pub user: String,
    /// When it was asked for.
    pub create_time: Time,
    /// When its work began.
    pub start_time: Option<Time>,
    /// When it was over.
    pub end_time: Option<Time>,
}

/// A task to be recorded.
#[derive(Clone, Debug)]
pub struct NewTask {
    /// The method that starts it.
    pub kind: String,
    /// What it is done to.
    pub resource: Option<ResourceRef>,
    /// Who starts it.
    pub user: String,
}

impl NewTask {
    /// A task of `caller` on `resource`; `kind` is the method's name, such as `CreateVm`.
    pub fn new(kind: &str, resource: ResourceRef, caller: &Caller) -> Self {
        Self { kind: kind.into(), resource: Some(resource), user: caller.name.clone() }
    }
}
