//! What several services convert: times, references, tasks. Pure, but for `answer`, which waits.

use std::time::Duration;

use quantix_api::v1;

use crate::model::{Event, Failure, Id, ResourceRef, Severity, Task, TaskState, Time};
use crate::tasks::Tasks;

/// Longest time that a call may wait for a task.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// A time on the wire.
pub fn timestamp(time: Time) -> prost_types::Timestamp {
    time.into()
}

/// Reads a duration that is not negative; `field` is blamed.
///
/// # Errors
/// `InvalidArgument`.
pub fn duration(field: &str, value: Option<prost_types::Duration>) -> Result<Option<Duration>, Failure> {
    value
        .map(|value| {
            Duration::try_from(value).map_err(|_| {
                Failure::invalid(
                    field,
                    format!("{}s", value.seconds),
                    "is negative or too large: give a time from 0s on",
                )
            })
        })
        .transpose()
}

/// As `duration`, for a time to wait for a task.
///
/// # Errors
/// `InvalidArgument` also when it is more than an hour.
pub(super) fn patience(field: &str, value: Option<prost_types::Duration>) -> Result<Option<Duration>, Failure> {
    match duration(field, value)? {
        Some(long) if long > LONGEST_WAIT => {
            Err(Failure::invalid(field, format!("{}s", long.as_secs()), "is more than an hour: wait again instead"))
        }
        other => Ok(other),
    }
}

/// Answers a call that started `task`: at once, or after at most the request's `wait`.
///
/// # Errors
/// `InvalidArgument` for a `wait` that is negative or more than an hour; check it before the task is started
/// with `duration`.
pub async fn answer(tasks: &Tasks, task: &Id, wait: Option<prost_types::Duration>) -> Result<v1::Task, Failure> {
    let task = match patience("wait", wait)? {
        Some(wait) if !wait.is_zero() => tasks.wait(task, Some(wait)).await?,
        _ => tasks.get(task).await?,
    };
    Ok((&task).into())
}

/// A reference on the wire.
pub fn reference(resource: &ResourceRef) -> v1::ResourceRef {
    v1::ResourceRef { kind: resource.kind.as_str().into(), id: resource.id.to_string(), name: resource.name.clone() }
}

impl From<&Task> for v1::Task {
    fn from(task: &Task) -> Self {
        let state = match task.state {
            TaskState::Pending => v1::TaskState::Pending,
            TaskState::Running => v1::TaskState::Running,
            TaskState::Succeeded => v1::TaskState::Succeeded,
            TaskState::Failed => v1::TaskState::Failed,
            TaskState::Cancelled => v1::TaskState::Cancelled,
        };
        Self {
            id: task.id.to_string(),
            kind: task.kind.clone(),
            resource: task.resource.as_ref().map(reference),
            state: state.into(),
            progress: task.progress.as_ref().map(|progress| v1::Progress {
                done: progress.done,
                total: progress.total,
                unit: progress.unit.clone(),
            }),
            step: task.step.clone(),
            error: task.error.as_ref().map(|error| v1::TaskError { code: error.code, message: error.message.clone() }),
            user: task.user.clone(),
            create_time: Some(task.create_time.into()),
            start_time: task.start_time.map(Into::into),
            end_time: task.end_time.map(Into::into),
        }
    }
}

impl From<Event> for v1::Event {
    fn from(event: Event) -> Self {
        let severity = match event.severity {
            Severity::Info => v1::Severity::Info,
            Severity::Warning => v1::Severity::Warning,
            Severity::Alarm => v1::Severity::Alarm,
        };
        Self {
            resume_token: event.resume_token().encode(),
            sequence: event.sequence,
            time: Some(event.time.into()),
            kind: event.kind,
            severity: severity.into(),
            resource: event.resource.as_ref().map(reference),
            message: event.message,
            details: event.details,
        }
    }
}
