//! The inventory on disk: SQLite, on one thread of its own. The only room that touches the database.
//!
//! `read` and `write` send a closure to that thread; each is a transaction of its own to whoever wrote it. A `write` that returns an error, or
//! panics, leaves nothing behind. Events of a `write` are sent to subscribers after its commit. A caller that goes away
//! does not stop a transaction that was sent.

#![forbid(unsafe_code)]

mod audit;
mod error;
mod events;
mod migrations;
mod open;
mod record;
mod requests;
mod tasks;
#[cfg(test)]
mod tests;
mod thread;
mod tx;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use rusqlite::TransactionBehavior;
use tokio::sync::{broadcast, oneshot, watch};

use crate::model::{Event, Failure, NewEvent};

pub use events::EventFilter;
pub use open::KeptAside;
pub use record::{Record, Stored, parse_etag};
pub use requests::Idempotency;
pub use tasks::TaskFilter;
pub use tx::{ReadTx, WriteTx};

use thread::Job;

/// Events that a slow subscriber may lag behind before it has to read them from the database.
const EVENT_BACKLOG: usize = 1024;

/// Handle on the inventory; cheap to clone. The thread ends with the last handle.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    jobs: mpsc::Sender<Job>,
    events: broadcast::Sender<Arc<Event>>,
    epoch: Arc<str>,
    kept_aside: Option<KeptAside>,
    /// Its sender is the thread's: it closes when the database is closed.
    ended: watch::Receiver<()>,
}

impl Store {
    /// Opens the database, or begins one. Blocks; call it at start. A damaged file is renamed, a new one begun, and an
    /// alarm event says so; see `kept_aside`.
    ///
    /// # Errors
    /// When the file cannot be made or read, or was written by a later version.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (told, hear) = mpsc::channel();
        let (alive, ended) = watch::channel(());
        let file: PathBuf = path.to_owned();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                match open::open(&file) {
                    Ok(opened) => {
                        let mut connection = opened.connection;
                        // A closed channel means that nobody waits for the store any more; the loop below ends too.
                        drop(told.send(Ok((opened.epoch, opened.kept_aside))));
                        thread::run(&mut connection, &inbox);
                    }
                    Err(error) => drop(told.send(Err(error))),
                }
                drop(alive);
            })
            .map_err(|error| Failure::internal("Cannot start the inventory's thread", error))?;
        let heard =
            hear.recv().map_err(|error| Failure::internal("The inventory's thread ended at its start", error))?;
        let (epoch, kept_aside) = heard?;
        let events = broadcast::Sender::new(EVENT_BACKLOG);
        let store = Self { shared: Arc::new(Shared { jobs, events, epoch: epoch.into(), kept_aside, ended }) };
        store.report_kept_aside()?;
        Ok(store)
    }

    fn report_kept_aside(&self) -> Result<(), Failure> {
        let Some(aside) = self.shared.kept_aside.clone() else { return Ok(()) };
        let message = format!(
            "The inventory could not be read and was kept aside as {}; a new, empty one was begun ({})",
            aside.path.display(),
            aside.reason
        );
        tracing::error!("{message}");
        let event = NewEvent::alarm("store.kept-aside", message).with("path", aside.path.display());
        let answer = self.submit_write(move |tx| tx.event(event).map(drop))?;
        answer.blocking_recv().unwrap_or_else(|_| Err(gone()))
    }

    /// The damaged database that was found at this start, if there was one. Then the inventory is empty while VMs,
    /// volumes and images may still be there: whoever cleans up what the inventory does not know must not do it.
    pub fn kept_aside(&self) -> Option<&KeptAside> {
        self.shared.kept_aside.as_ref()
    }

    /// Which inventory this is: a name made when the database was begun.
    pub fn epoch(&self) -> &str {
        &self.shared.epoch
    }

    /// Gives up this handle and waits until the database is closed, which is when the last handle is gone.
    pub async fn close(self) {
        let mut ended = self.shared.ended.clone();
        drop(self);
        // Nothing is ever sent: an error is the end.
        while ended.changed().await.is_ok() {}
    }

    /// New events from now on, as they are committed.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.shared.events.subscribe()
    }

    /// Looks at one consistent state.
    ///
    /// # Errors
    /// What `look` says, or what the database says.
    pub async fn read<T, F>(&self, look: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTx<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        let epoch = self.shared.epoch.clone();
        self.submit(Job::Read(Box::new(move |connection| {
            let result = guarded(|| {
                let tx = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
                look(&ReadTx::new(&tx, &epoch))
            });
            // The caller may have gone away.
            drop(answer.send(result));
        })))?;
        wait.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Changes the state in one transaction: all of it is on disk when this returns, or nothing is.
    ///
    /// # Errors
    /// What `change` says, or what the database says.
    pub async fn write<T, F>(&self, change: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&WriteTx<'_>) -> Result<T, Failure> + Send + 'static,
    {
        self.submit_write(change)?.await.unwrap_or_else(|_| Err(gone()))
    }

    fn submit_write<T, F>(&self, change: F) -> Result<oneshot::Receiver<Result<T, Failure>>, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&WriteTx<'_>) -> Result<T, Failure> + Send + 'static,
    {
        let (answer, wait) = oneshot::channel();
        let epoch = self.shared.epoch.clone();
        let subscribers = self.shared.events.clone();
        self.submit(Job::Write(Box::new(move |tx| {
            let result = tx.and_then(|tx| {
                guarded(|| {
                    let savepoint = tx.savepoint()?;
                    let write = WriteTx::new(&savepoint, &epoch);
                    let value = change(&write)?;
                    let events = write.into_events();
                    savepoint.commit()?;
                    Ok((value, events))
                })
            });
            Box::new(move |committed| {
                let result = result.and_then(|done| committed.map(|()| done));
                let told = result.map(|(value, events)| {
                    for event in events {
                        // No subscriber is no failure.
                        drop(subscribers.send(Arc::new(event)));
                    }
                    value
                });
                drop(answer.send(told));
            })
        })))?;
        Ok(wait)
    }

    fn submit(&self, job: Job) -> Result<(), Failure> {
        self.shared.jobs.send(job).map_err(|_| gone())
    }
}

fn gone() -> Failure {
    Failure::bug("The inventory's thread is gone: restart quantix-node")
}

/// Runs one transaction; a panic in it rolls back and is a failure of that call only.
fn guarded<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Failure::bug("A transaction of the inventory panicked")))
}
