//! Follows a task to its end, with a bar on standard error when that is a terminal. Ctrl-C ends the watching and not the
//! task, and says so.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quantix_api::v1::{Task, TaskState, WatchTaskRequest};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::failure::{ExitStatus, Failure, exit_status};
use crate::session::Session;
use crate::table::printable;

/// For commands that start a task.
#[derive(Clone, Debug, Default, Args)]
pub struct Waiting {
    /// Do not wait for the end of the task; print its id
    #[arg(long)]
    pub no_wait: bool,
}

impl Waiting {
    /// Waits for a task, unless nobody wants to, and says what was done: `done` is a sentence with `{}` for the name.
    pub async fn finish(&self, session: &Session, task: Task, done: &str) -> Result<(), Failure> {
        if self.no_wait {
            return session.out.done(&task, &task.id, &format!("Task {} goes on.", task.id));
        }
        let task = follow(session, task).await?;
        let name = task.resource.as_ref().map_or(String::new(), |resource| resource.name.clone());
        session.out.done(&task, &name, &done.replacen("{}", &printable(&name), 1))
    }
}

/// For commands that make something.
#[derive(Clone, Debug, Default, Args)]
pub struct Idempotent {
    /// Text of yours: the same command again with it does nothing twice
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub request_id: String,
}

/// A bar of tasks and uploads. Without a terminal it draws nothing.
pub struct Bar(ProgressBar);

impl Bar {
    /// A spinner until the length is known.
    pub fn new(text: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        bar.set_style(style("{spinner} {msg} {elapsed:.dim}"));
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// How far it is, and what is done now.
    pub fn set(&self, text: &str, done: u64, total: u64, unit: &str) {
        if self.0.length() != Some(total) && total > 0 {
            self.0.set_length(total);
            self.0.set_style(style(match unit {
                "bytes" => "{spinner} {msg} {bar:36.cyan/dim} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                _ => "{spinner} {msg} {bar:36.cyan/dim} {pos}/{len} {elapsed:.dim}",
            }));
        }
        if total > 0 {
            self.0.set_position(done);
        }
        self.0.set_message(text.to_owned());
    }

    /// Takes it off the screen.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is one of this file").progress_chars("━╸─")
}

/// Whether a task is over.
pub fn is_over(task: &Task) -> bool {
    matches!(task.state(), TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled)
}

/// What a task does to what, for people.
pub fn title(task: &Task) -> String {
    match &task.resource {
        Some(resource) if !resource.name.is_empty() => format!("{} {}", task.kind, printable(&resource.name)),
        _ => task.kind.clone(),
    }
}

/// Follows a task until it is over; fails as it failed.
pub async fn follow(session: &Session, task: Task) -> Result<Task, Failure> {
    let id = task.id.clone();
    let bar = Bar::new(&title(&task));
    let followed = tokio::select! {
        followed = watch(session, task, &bar) => followed,
        _ = tokio::signal::ctrl_c() => {
            Err(Failure::new(ExitStatus::Interrupted, format!("Task {id} goes on"))
                .hint(format!("see it again with: qx task watch {id}; stop it with: qx task cancel {id}")))
        }
    };
    bar.clear();
    outcome(followed?)
}

async fn watch(session: &Session, mut task: Task, bar: &Bar) -> Result<Task, Failure> {
    if is_over(&task) {
        return Ok(task);
    }
    let id = task.id.clone();
    let request = WatchTaskRequest { task: id.clone() };
    let mut changes = session.tasks().await?.watch_task(request).await?.into_inner();
    while let Some(change) = changes.next().await {
        task = change.map_err(|status| lost(&id, Failure::from(status)))?;
        draw(bar, &task);
        if is_over(&task) {
            return Ok(task);
        }
    }
    if is_over(&task) {
        return Ok(task);
    }
    Err(lost(&id, Failure::new(ExitStatus::Unavailable, "The node closed the connection")))
}

/// The connection broke while a task was followed: the task is not lost by that.
fn lost(id: &str, failure: Failure) -> Failure {
    if failure.status == ExitStatus::Unavailable {
        return failure.hint(format!("the task goes on where it can; see it with: qx task watch {id}"));
    }
    failure
}

fn draw(bar: &Bar, task: &Task) {
    let text = match task.step.as_str() {
        "" => title(task),
        step => format!("{}: {}", title(task), printable(step)),
    };
    let (done, total, unit) =
        task.progress.as_ref().map_or((0, 0, ""), |progress| (progress.done, progress.total, progress.unit.as_str()));
    bar.set(&text, done, total, unit);
}

/// A task that is over, as a result.
pub fn outcome(task: Task) -> Result<Task, Failure> {
    if task.state() == TaskState::Succeeded {
        return Ok(task);
    }
    let (code, why) = task
        .error
        .as_ref()
        .map_or((Code::Unknown, String::new()), |error| (Code::from_i32(error.code), error.message.clone()));
    let failure = match (task.state(), why.as_str()) {
        (TaskState::Cancelled, "") => Failure::failed(format!("{} was cancelled", title(&task))),
        (_, "") => Failure::failed(format!("{} failed without a reason", title(&task))),
        (_, why) => Failure::new(exit_status(code), why),
    };
    Err(failure.hint(format!("all of it: qx task show {}", task.id)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantix_api::v1::{ResourceRef, TaskError};

    fn task(state: TaskState, error: Option<TaskError>) -> Task {
        let resource = Some(ResourceRef { kind: "vm".into(), id: "i".into(), name: "demo".into() });
        Task { id: "t1".into(), kind: "CreateVm".into(), state: state.into(), resource, error, ..Task::default() }
    }

    #[test]
    fn a_task_fails_as_its_call_would_have() {
        let error = TaskError { code: Code::NotFound as i32, message: "There is no image 'x'.".into() };
        let failure = outcome(task(TaskState::Failed, Some(error))).unwrap_err();
        assert_eq!((failure.status, failure.message.as_str()), (ExitStatus::NotFound, "There is no image 'x'"));
        assert_eq!(failure.hint.as_deref(), Some("all of it: qx task show t1"));
    }

    #[test]
    fn what_became_of_a_task_without_a_reason_is_said() {
        let failure = outcome(task(TaskState::Cancelled, None)).unwrap_err();
        assert_eq!((failure.status, failure.message.as_str()), (ExitStatus::Failed, "CreateVm demo was cancelled"));
        assert!(outcome(task(TaskState::Succeeded, None)).is_ok());
    }
}
