//! What a task's work has at hand: telling how far it is, and hearing that it shall stop. The work's own task or thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::model::{Failure, Id, Progress, Task};

/// Progress is sent on at most so often; the last one before a step or the end is never held back for long by it.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// The side of a task that its work sees; cheap to clone, and usable from blocking threads.
#[derive(Clone)]
pub struct TaskContext {
    task: watch::Sender<Task>,
    cancel: CancellationToken,
    told: Arc<Mutex<Option<Instant>>>,
}

impl TaskContext {
    pub(super) fn new(task: watch::Sender<Task>, cancel: CancellationToken) -> Self {
        Self { task, cancel, told: Arc::default() }
    }

    /// The task's id.
    pub fn id(&self) -> Id {
        self.task.borrow().id.clone()
    }

    /// What is being done now, for people: "Copying the disk".
    pub fn step(&self, step: &str) {
        self.task.send_modify(|task| {
            step.clone_into(&mut task.step);
            task.progress = None;
        });
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How far the step is; `total` 0 when the end is not known. May be called as often as one likes.
    pub fn progress(&self, done: u64, total: u64, unit: &'static str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) || (total > 0 && done >= total);
        if due {
            *told = Some(Instant::now());
        }
        // Readers that ask see the newest value; who watches is woken at the limited rate.
        self.task.send_if_modified(|task| {
            task.progress = Some(Progress { done, total, unit: unit.into() });
            due
        });
    }

    /// Fires when the task shall stop.
    pub fn cancelled(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// An error when the task shall stop; call it between steps, and in loops of blocking work.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<(), Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::cancelled("Stopped because somebody asked for it"));
        }
        Ok(())
    }
}
