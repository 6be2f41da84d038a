//! Tasks: everything that takes time.

use clap::Subcommand;
use prost_types::Duration;
use quantix_api::v1::{CancelTaskRequest, GetTaskRequest, ListTasksRequest, Task, TaskState, WaitTaskRequest};

use crate::failure::{ExitStatus, Failure};
use crate::progress;
use crate::session::{Session, pages};
use crate::table::{Cell, Column, Facts, Sheet, View};
use crate::units;
use crate::words::{task_tone, word};

/// Commands on tasks.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// List tasks, newest first
    #[command(visible_alias = "list", after_help = "Examples:\n  qx task ls\n  qx task ls --active -o wide")]
    Ls {
        /// Only those that are not over
        #[arg(long)]
        active: bool,
        /// Only those of this resource, by id
        #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
        resource: String,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show a task
    #[command(after_help = "Examples:\n  qx task show 0193a7e2-5b1c-7c33-a1f0-0f5d6a1c2b3d")]
    Show {
        /// Its id
        task: String,
    },
    /// Follow a task to its end, with its progress
    #[command(after_help = "Examples:\n  qx task watch 0193a7e2-5b1c-7c33-a1f0-0f5d6a1c2b3d")]
    Watch {
        /// Its id
        task: String,
    },
    /// Wait for the end of a task, silently
    #[command(after_help = "Examples:\n  qx task wait 0193a7e2-5b1c-7c33-a1f0-0f5d6a1c2b3d --timeout 5m")]
    Wait {
        /// Its id
        task: String,
        /// Give up after so long
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = units::parse_duration)]
        timeout: Duration,
    },
    /// Ask a task to stop
    ///
    /// It ends when its work has stopped and what was half-made is removed.
    #[command(after_help = "Examples:\n  qx task cancel 0193a7e2-5b1c-7c33-a1f0-0f5d6a1c2b3d")]
    Cancel {
        /// Its id
        task: String,
    },
}

const SHEET: Sheet<Task> = Sheet {
    plural: "tasks",
    name: |task| &task.id,
    columns: &[
        Column::text("TASK", |task, _| task.id.as_str().into()),
        Column::text("KIND", |task, _| task.kind.as_str().into()),
        Column::text("OF", |task, _| task.resource.as_ref().map_or("", |resource| &resource.name).into()),
        Column::text("STATE", |task, _| Cell::toned(word::<TaskState>(task.state), task_tone(task.state))),
        Column::number("PROGRESS", |task, _| percent(task).into()),
        Column::text("BY", |task, _| task.user.as_str().into()),
        Column::number("AGE", |task, view| units::age(task.create_time.as_ref(), view.now).into()),
        Column::wide_number("TOOK", |task, _| took(task).into()),
        Column::wide_text("STEP", |task, _| task.step.as_str().into()),
        Column::wide_text("ERROR", |task, _| task.error.as_ref().map_or("", |error| &error.message).into()),
    ],
};

/// Runs a command on tasks.
pub async fn run(command: TaskCommand, session: &Session) -> Result<(), Failure> {
    let mut tasks = session.tasks().await?;
    match command {
        TaskCommand::Ls { active, resource, limit } => {
            let request =
                ListTasksRequest { active_only: active, resource_id: resource, ..ListTasksRequest::default() };
            let all = pages!(&tasks, list_tasks, request, tasks, Some(limit))?;
            session.out.list(&all, &SHEET, &session.out.view())
        }
        TaskCommand::Show { task } => {
            let task = tasks.get_task(GetTaskRequest { task }).await?.into_inner();
            session.out.show(&task, &task.id, facts)
        }
        TaskCommand::Watch { task } => {
            let unknown = Task { id: task, kind: "Task".to_owned(), ..Task::default() };
            let task = progress::follow(session, unknown).await?;
            session.out.done(&task, &task.id, &format!("{} succeeded.", progress::title(&task)))
        }
        TaskCommand::Wait { task, timeout } => {
            let task = tasks.wait_task(WaitTaskRequest { task, timeout: Some(timeout) }).await?.into_inner();
            if !progress::is_over(&task) {
                let late = format!("Task {} goes on after {}", task.id, units::span(&timeout));
                return Err(Failure::new(ExitStatus::Failed, late));
            }
            let task = progress::outcome(task)?;
            session.out.done(&task, &task.id, &format!("{} succeeded.", progress::title(&task)))
        }
        TaskCommand::Cancel { task } => {
            let task = tasks.cancel_task(CancelTaskRequest { task }).await?.into_inner();
            let sentence = format!("{} is {}.", progress::title(&task), cancelling(&task));
            session.out.done(&task, &task.id, &sentence)
        }
    }
}

fn cancelling(task: &Task) -> String {
    if progress::is_over(task) { word::<TaskState>(task.state) } else { "stopping".to_owned() }
}

fn percent(task: &Task) -> String {
    match &task.progress {
        Some(progress) if progress.total > 0 => {
            format!("{} %", u128::from(progress.done) * 100 / u128::from(progress.total))
        }
        _ => String::new(),
    }
}

/// How long its work took, or takes already.
fn took(task: &Task) -> String {
    match (task.start_time.as_ref().and_then(units::moment), task.end_time.as_ref().and_then(units::moment)) {
        (Some(start), Some(end)) => {
            let took = end.duration_since(start);
            units::span(&Duration { seconds: took.as_secs(), nanos: took.subsec_nanos() })
        }
        _ => String::new(),
    }
}

fn facts(task: &Task, view: &View) -> Facts {
    let mut facts = Facts::default();
    facts
        .add("Task", task.id.as_str())
        .add("Kind", task.kind.as_str())
        .add("State", Cell::toned(word::<TaskState>(task.state), task_tone(task.state)))
        .add("Step", task.step.as_str())
        .add("Progress", progress_of(task));
    if let Some(resource) = &task.resource {
        facts.add("Of", format!("{} {} ({})", resource.kind, resource.name, resource.id));
    }
    facts.add("Started by", task.user.as_str()).add("Asked for", with_age(task, view)).add("Took", took(task));
    if let Some(error) = &task.error {
        facts.add("Error", Cell::toned(error.message.as_str(), crate::style::Tone::Bad));
    }
    facts
}

fn with_age(task: &Task, view: &View) -> String {
    let time = task.create_time.as_ref();
    if time.is_none() {
        return String::new();
    }
    format!("{} ({} ago)", units::when(time), units::age(time, view.now))
}

fn progress_of(task: &Task) -> String {
    let Some(progress) = &task.progress else { return String::new() };
    let shown = |number| if progress.unit == "bytes" { units::size(number) } else { number.to_string() };
    match progress.total {
        0 => format!("{} {}", shown(progress.done), progress.unit),
        total => format!("{} of {} ({})", shown(progress.done), shown(total), percent(task)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::view;
    use prost_types::Timestamp;
    use quantix_api::v1::{Progress, ResourceRef, TaskError};

    fn task() -> Task {
        Task {
            id: "t1".into(),
            kind: "CloneVolume".into(),
            resource: Some(ResourceRef { kind: "volume".into(), id: "v1".into(), name: "root".into() }),
            state: TaskState::Failed.into(),
            progress: Some(Progress { done: 1 << 30, total: 4 << 30, unit: "bytes".into() }),
            step: "copy".into(),
            error: Some(TaskError { code: 8, message: "The pool is full.".into() }),
            user: "admin".into(),
            create_time: Some(Timestamp { seconds: 999_880, nanos: 0 }),
            start_time: Some(Timestamp { seconds: 999_880, nanos: 0 }),
            end_time: Some(Timestamp { seconds: 999_883, nanos: 500_000_000 }),
        }
    }

    #[test]
    fn a_list_of_tasks() {
        assert_eq!(
            SHEET.render(&[task()], &view()),
            "TASK  KIND         OF    STATE   PROGRESS  BY     AGE\n\
             t1    CloneVolume  root  failed      25 %  admin   2m\n"
        );
    }

    #[test]
    fn one_task() {
        let text = facts(&task(), &view()).render(false);
        assert!(text.contains("Progress    1 GiB of 4 GiB (25 %)\n"), "{text}");
        assert!(text.contains("Took        3.5 s\n"), "{text}");
        assert!(text.contains("Error       The pool is full.\n"), "{text}");
    }
}
