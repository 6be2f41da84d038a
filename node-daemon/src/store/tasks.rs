//! Tasks on disk. Store thread. Keeps a bounded number of those that are over.

use rusqlite::{OptionalExtension as _, params};

use super::requests::forgotten;
use super::tx::{ReadTx, WriteTx};
use crate::model::{Failure, Id, NewTask, Page, PageOf, Task, TaskState, Time};

/// Tasks that are kept after they are over.
const KEPT: i64 = 10_000;

/// Which tasks to list.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// Only those of this resource id.
    pub resource_id: Option<String>,
    /// Only those that are not over.
    pub active_only: bool,
}

fn read(body: &str) -> Result<Task, Failure> {
    serde_json::from_str(body).map_err(|error| Failure::internal("A stored task cannot be read", error))
}

fn written(task: &Task) -> Result<String, Failure> {
    serde_json::to_string(task).map_err(|error| Failure::internal("A task cannot be written", error))
}

impl ReadTx<'_> {
    /// One task.
    ///
    /// # Errors
    /// `NotFound` when there is none, or when it is over for so long that it is no longer kept.
    pub fn get_task(&self, id: &Id) -> Result<Task, Failure> {
        let mut statement = self.tx.prepare_cached("SELECT body FROM tasks WHERE id = ?1")?;
        let body: Option<String> = statement.query_row([id.as_str()], |row| row.get(0)).optional()?;
        read(&body.ok_or_else(|| forgotten(id))?)
    }

    /// A page of tasks, newest first.
    pub fn list_tasks(&self, page: &Page, filter: &TaskFilter) -> Result<PageOf<Task>, Failure> {
        // `?` are all bound, used or not, so that the statement is one of four and stays prepared.
        let mut sql = String::from("SELECT body FROM tasks WHERE (?1 IS NULL OR id < ?1) AND ?2 IS ?2");
        if filter.resource_id.is_some() {
            sql.push_str(" AND resource_id = ?2");
        }
        if filter.active_only {
            sql.push_str(" AND state IN ('pending', 'running')");
        }
        sql.push_str(" ORDER BY id DESC LIMIT ?3");
        let limit = i64::try_from(page.size() + 1).unwrap_or(i64::MAX);
        let mut statement = self.tx.prepare_cached(&sql)?;
        let rows =
            statement.query_map(params![page.after(), filter.resource_id, limit], |row| row.get::<_, String>(0))?;
        let found = rows.map(|row| read(&row?)).collect::<Result<Vec<_>, Failure>>()?;
        Ok(page.cut(found, |task| task.id.to_string()))
    }

    /// All tasks that are not over, oldest first.
    pub fn active_tasks(&self) -> Result<Vec<Task>, Failure> {
        let mut statement =
            self.tx.prepare_cached("SELECT body FROM tasks WHERE state IN ('pending', 'running') ORDER BY id")?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        rows.map(|row| read(&row?)).collect()
    }
}

impl WriteTx<'_> {
    /// Records a task as pending, and as the answer to this transaction's request. Hand it to `Tasks::run` after the
    /// commit.
    pub fn task(&self, new: NewTask) -> Result<Task, Failure> {
        let task = Task {
            id: Id::new(),
            kind: new.kind,
            resource: new.resource,
            state: TaskState::Pending,
            progress: None,
            step: String::new(),
            error: None,
            user: new.user,
            create_time: Time::now(),
            start_time: None,
            end_time: None,
        };
        self.tx.prepare_cached("INSERT INTO tasks (id, resource_id, state, body) VALUES (?1, ?2, ?3, ?4)")?.execute(
            params![
                task.id.as_str(),
                task.resource.as_ref().map(|resource| resource.id.as_str()),
                task.state.as_str(),
                written(&task)?
            ],
        )?;
        self.answer(&task.id)?;
        Ok(task)
    }

    /// Writes how a task stands.
    pub fn set_task(&self, task: &Task) -> Result<(), Failure> {
        self.tx.prepare_cached("UPDATE tasks SET state = ?2, body = ?3 WHERE id = ?1")?.execute(params![
            task.id.as_str(),
            task.state.as_str(),
            written(task)?
        ])?;
        if task.state.is_over() {
            self.forget_old_tasks()?;
        }
        Ok(())
    }

    fn forget_old_tasks(&self) -> Result<(), Failure> {
        self.tx
            .prepare_cached(
                "DELETE FROM tasks WHERE state NOT IN ('pending', 'running') AND id <= (SELECT id FROM tasks ORDER BY id \
                 DESC LIMIT 1 OFFSET ?1)",
            )?
            .execute([KEPT])?;
        Ok(())
    }
}
