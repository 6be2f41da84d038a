//! Runs long operations: progress, waiting, watching, cancelling, and what is left of them after a crash. Any task of the
//! async runtime. Must not know what the work is.
//!
//! A task is recorded in the transaction that writes the desired state, then handed to `run`, and its end is stored. What
//! lies between lives in memory only: after a crash it does not matter, and each store costs a flush of the disk.

#![forbid(unsafe_code)]

mod context;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::model::{Failure, FailureKind, Id, NewEvent, ResourceKind, ResourceRef, Task, TaskError, TaskState, Time};
use crate::store::Store;

pub use context::TaskContext;

/// How long until a final state that could not be stored is tried again.
const STORE_AGAIN: Duration = Duration::from_secs(2);

/// The tasks of this node; cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    live: Mutex<HashMap<Id, Live>>,
    /// Changes whenever `live` does: who waits for a task that is not there yet looks again.
    changed: watch::Sender<u64>,
    closing: CancellationToken,
}

/// A task whose work goes on.
#[derive(Clone)]
struct Live {
    task: watch::Sender<Task>,
    cancel: CancellationToken,
}

impl Tasks {
    /// The tasks in this store.
    pub fn new(store: Store) -> Self {
        let closing = CancellationToken::new();
        Self { shared: Arc::new(Shared { store, live: Mutex::default(), changed: watch::Sender::new(0), closing }) }
    }

    /// Ends as failed what was running when the daemon died. Call it once, before anything is run; rooms clean up
    /// what was half-made by the returned tasks.
    ///
    /// # Errors
    /// What the store says.
    pub async fn recover(&self) -> Result<Vec<Task>, Failure> {
        self.shared
            .store
            .write(|tx| {
                let mut tasks = tx.active_tasks()?;
                for task in &mut tasks {
                    let message =
                        "The daemon was stopped while this was done; what was half-made is removed: try again";
                    end(task, Err(&Failure::new(FailureKind::Aborted, message)));
                    tx.set_task(task)?;
                    tx.event(finished(task))?;
                }
                Ok(tasks)
            })
            .await
    }

    /// Starts the work of a task that was recorded and committed. The work must stop soon after its context is
    /// cancelled, and must leave nothing half-made when it returns an error.
    pub fn run<F, W>(&self, task: Task, work: W)
    where
        W: FnOnce(TaskContext) -> F + Send + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let live = Live { task: watch::Sender::new(task), cancel: CancellationToken::new() };
        let id = live.task.borrow().id.clone();
        self.live().insert(id.clone(), live.clone());
        self.shared.changed.send_modify(|count| *count += 1);
        let tasks = self.clone();
        tokio::spawn(async move {
            live.task.send_modify(|task| {
                task.state = TaskState::Running;
                task.start_time = Some(Time::now());
            });
            let context = TaskContext::new(live.task.clone(), live.cancel.clone());
            // Built inside, so that a panic of the constructor is caught too.
            let result = AssertUnwindSafe(async move { work(context).await })
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(Failure::bug("The work of this task panicked: see the daemon's log")));
            tasks.finish(&id, &live, result).await;
        });
    }

    /// A task as it stands.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn get(&self, id: &Id) -> Result<Task, Failure> {
        if let Some(live) = self.find(id) {
            return Ok(live.task.borrow().clone());
        }
        let id = id.clone();
        self.shared.store.read(move |tx| tx.get_task(&id)).await
    }

    /// A task that was read from the store, with the step and progress that only memory has.
    pub fn freshen(&self, task: &Task) -> Task {
        self.find(&task.id).map_or_else(|| task.clone(), |live| live.task.borrow().clone())
    }

    /// Waits until a task is over, or for so long; returns it as it then is.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(&self, id: &Id, timeout: Option<Duration>) -> Result<Task, Failure> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut watch = self.watch(id).await?;
        loop {
            let task = watch.task();
            if task.state.is_over() {
                return Ok(task);
            }
            let next = watch.next();
            let more = match deadline {
                Some(deadline) => match timeout_at(deadline, next).await {
                    Ok(more) => more?,
                    Err(_) => return Ok(watch.task()),
                },
                None => next.await?,
            };
            if more.is_none() {
                return Ok(watch.task());
            }
        }
    }

    /// Follows a task.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn watch(&self, id: &Id) -> Result<TaskWatch, Failure> {
        let changed = self.shared.changed.subscribe();
        let mut watch = TaskWatch { tasks: self.clone(), last: self.get(id).await?, live: None, changed };
        watch.attach();
        Ok(watch)
    }

    /// Asks a task to stop; nothing happens to one that is over. Returns the task as it stands: wait for its end.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn cancel(&self, id: &Id) -> Result<Task, Failure> {
        if let Some(live) = self.find(id) {
            live.cancel.cancel();
        }
        self.get(id).await
    }

    /// Ends all waiting and watching, not the work: the daemon ends.
    pub fn close(&self) {
        self.shared.closing.cancel();
    }

    /// Waits until no work goes on, or for so long; tells how many tasks still run. For the daemon's end.
    pub async fn settle(&self, patience: Duration) -> usize {
        let deadline = Instant::now() + patience;
        let mut changed = self.shared.changed.subscribe();
        loop {
            let left = self.live().len();
            if left == 0 || !matches!(timeout_at(deadline, changed.changed()).await, Ok(Ok(()))) {
                return left;
            }
        }
    }

    fn live(&self) -> MutexGuard<'_, HashMap<Id, Live>> {
        // The map is whole after every single operation on it, so a panic elsewhere cannot have broken it.
        self.shared.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &Id) -> Option<Live> {
        self.live().get(id).cloned()
    }

    async fn finish(&self, id: &Id, live: &Live, result: Result<(), Failure>) {
        let mut task = live.task.borrow().clone();
        end(&mut task, result.as_ref());
        if let Err(failure) = &result {
            tracing::info!(task = %id, kind = %task.kind, "Task ended: {}", failure.chain());
        }
        // Stored first, told then: who sees the end may rely on it. The inventory's disk may be full for a while.
        loop {
            let stored = task.clone();
            let event = finished(&task);
            let write = self.shared.store.write(move |tx| {
                tx.set_task(&stored)?;
                tx.event(event).map(drop)
            });
            match write.await {
                Ok(()) => break,
                Err(failure) => {
                    tracing::error!(task = %id, "Cannot store a task\'s end, trying again: {}", failure.chain());
                }
            }
            sleep(STORE_AGAIN).await;
        }
        live.task.send_replace(task);
        self.live().remove(id);
        self.shared.changed.send_modify(|count| *count += 1);
    }
}

/// Writes the end into a task.
fn end(task: &mut Task, result: Result<&(), &Failure>) {
    task.end_time = Some(Time::now());
    task.state = match result {
        Ok(()) => TaskState::Succeeded,
        Err(failure) if failure.kind() == FailureKind::Cancelled => TaskState::Cancelled,
        Err(_) => TaskState::Failed,
    };
    task.error = result.err().map(TaskError::from);
}

/// The event of a task's end.
fn finished(task: &Task) -> NewEvent {
    let state = task.state.as_str();
    let event = match &task.error {
        Some(error) if task.state == TaskState::Failed => {
            NewEvent::warning("task.finished", format!("{} failed: {}", task.kind, error.message))
        }
        _ => NewEvent::info("task.finished", format!("{} {state}", task.kind)),
    };
    let resource = task.resource.clone();
    event
        .on(resource.unwrap_or_else(|| ResourceRef::new(ResourceKind::Task, &task.id, &task.kind)))
        .with("task", &task.id)
        .with("state", state)
}

/// Follows one task to its end.
pub struct TaskWatch {
    tasks: Tasks,
    last: Task,
    live: Option<watch::Receiver<Task>>,
    changed: watch::Receiver<u64>,
}

impl TaskWatch {
    /// The task as it was last seen.
    pub fn task(&self) -> Task {
        self.last.clone()
    }

    /// The task after its next change; nothing after its end, or when the daemon ends.
    ///
    /// # Errors
    /// What the store says.
    pub async fn next(&mut self) -> Result<Option<Task>, Failure> {
        while !self.last.state.is_over() {
            if self.live.is_none() {
                self.attach();
            }
            let change = async {
                if let Some(live) = &mut self.live {
                    live.changed().await.is_ok()
                } else {
                    // Recorded, but not yet handed to `run`. This sender lives as long as `tasks`.
                    drop(self.changed.changed().await);
                    false
                }
            };
            let alive = tokio::select! {
                alive = change => alive,
                () = self.tasks.shared.closing.cancelled() => return Ok(None),
            };
            let seen = match &mut self.live {
                Some(live) if alive => live.borrow_and_update().clone(),
                _ => self.tasks.get(&self.last.id).await?,
            };
            if seen != self.last {
                self.last = seen.clone();
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }

    fn attach(&mut self) {
        self.live = self.tasks.find(&self.last.id).map(|live| {
            let mut receiver = live.task.subscribe();
            receiver.mark_changed();
            receiver
        });
    }
}
