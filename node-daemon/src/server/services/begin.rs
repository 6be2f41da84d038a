//! What calls that start a task have in common: the request is looked up by its `request_id`, the wish and the task are recorded in one
//! transaction, then the work begins. Async runtime.

use std::future::Future;

use crate::model::{Caller, Failure, Fingerprint, Id, NewTask, ResourceRef};
use crate::store::{Idempotency, Store, WriteTx};
use crate::tasks::{TaskContext, Tasks};

/// A call that starts a task.
pub struct Begin<'a> {
    /// The inventory.
    pub store: &'a Store,
    /// Where the work runs.
    pub tasks: &'a Tasks,
    /// Who asks.
    pub caller: Caller,
    /// The method's name; also the task's kind.
    pub method: &'static str,
    /// What the caller calls its request; empty for nothing.
    pub request_id: String,
    /// Of the request without `request_id` and `wait`.
    pub fingerprint: Fingerprint,
}

impl Begin<'_> {
    /// Records what `reserve` wants and a task for it, then runs `work` with what was reserved. The same call again does neither.
    /// Returns the task's id.
    ///
    /// # Errors
    /// What `reserve` says; `InvalidArgument` for a `request_id` that was used for something else.
    pub async fn run<T, R, W, F>(self, reserve: R, work: W) -> Result<Id, Failure>
    where
        T: Send + 'static,
        R: FnOnce(&WriteTx<'_>) -> Result<(ResourceRef, T), Failure> + Send + 'static,
        W: FnOnce(T, TaskContext) -> F + Send + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let Self { store, tasks, caller, method, request_id, fingerprint } = self;
        let recorded = store.write(move |tx| {
            if let Idempotency::Again(task) = tx.request(&caller, method, &request_id, fingerprint)? {
                return Ok((task, None));
            }
            let (resource, reserved) = reserve(tx)?;
            let task = tx.task(NewTask::new(method, resource, &caller))?;
            Ok((task.id.clone(), Some((task, reserved))))
        });
        let (id, first) = recorded.await?;
        if let Some((task, reserved)) = first {
            tasks.run(task, move |context| work(reserved, context));
        }
        Ok(id)
    }
}
