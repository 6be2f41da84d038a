//! One VM as everybody sees it: its record and how it stands, in memory. Any thread reads; the VM's supervisor writes how it
//! stands, and the record changes only together with the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quantix_vmm_api::v1::BootMark;
use tokio::sync::{mpsc, oneshot, watch};

use super::launch::LaunchRecord;
use super::supervisor::Message;
use crate::console::Console;
use crate::model::vm::VmRecord;
use crate::model::{Failure, Id, Time};
use crate::reconcile::lifecycle::{self, Event, State};
use crate::store::{Store, Stored, WriteTx};
use crate::telemetry::Timeline;
use crate::vmm_client::VmmClient;

/// How a VM stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Where it is in its life.
    pub state: State,
    /// Why, one sentence; may be empty.
    pub reason: String,
    /// When this state began.
    pub since: Time,
    /// Of the VMM.
    pub pid: Option<u32>,
    /// Taps of the NICs, in the order of the spec of the run.
    pub taps: Vec<String>,
    /// How often the restart policy acted since somebody started it.
    pub restarts: u32,
    /// The spec has changed in ways that only a start brings.
    pub restart_needed: bool,
    /// When the policy tries again.
    pub next_restart: Option<Time>,
}

impl Status {
    /// A VM in this state from now on.
    pub fn new(state: State) -> Self {
        Self {
            state,
            reason: String::new(),
            since: Time::now(),
            pid: None,
            taps: Vec::new(),
            restarts: 0,
            restart_needed: false,
            next_restart: None,
        }
    }
}

/// A VM as it is now.
#[derive(Debug, Clone)]
pub struct View {
    /// What the inventory has.
    pub stored: Arc<Stored<VmRecord>>,
    /// How it stands.
    pub status: Status,
}

impl View {
    /// Its record.
    pub fn record(&self) -> &VmRecord {
        &self.stored.record
    }
}

/// The VMM of a VM that runs.
#[derive(Debug, Clone)]
pub struct Live {
    /// Its control socket.
    pub client: VmmClient,
    /// Process id.
    pub pid: u32,
    /// What it was launched with.
    pub launch: Arc<LaunchRecord>,
    /// Its spec when it was started.
    pub started_with: Arc<VmRecord>,
}

/// The last start.
#[derive(Debug, Clone)]
pub struct LastBoot {
    /// The daemon's steps.
    pub timeline: Timeline,
    /// The VMM's own marks.
    pub marks: Vec<BootMark>,
}

/// One VM.
#[derive(Debug)]
pub struct Entry {
    /// Its id.
    pub id: Id,
    /// Its console.
    pub console: Console,
    view: watch::Sender<Arc<View>>,
    inbox: mpsc::Sender<Message>,
    live: Mutex<Option<Live>>,
    boot: Mutex<Option<LastBoot>>,
    /// Held while the record changes, so that memory and store change in the same order.
    changing: tokio::sync::Mutex<()>,
}

/// How a record is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// What callers wish: a new revision; with a number only when it still has that one.
    Wish(Option<u64>),
    /// What the daemon notes: the revision stays.
    Note,
}

impl Entry {
    pub(super) fn new(stored: Stored<VmRecord>, state: State, console: Console, inbox: mpsc::Sender<Message>) -> Self {
        let id = stored.record.id.clone();
        let view = View { stored: Arc::new(stored), status: Status::new(state) };
        Self {
            id,
            console,
            view: watch::Sender::new(Arc::new(view)),
            inbox,
            live: Mutex::default(),
            boot: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// How it is now.
    pub fn view(&self) -> Arc<View> {
        self.view.borrow().clone()
    }

    /// Follows it.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Its VMM.
    ///
    /// # Errors
    /// `FailedPrecondition` when it does not run.
    pub fn live(&self) -> Result<Live, Failure> {
        lock(&self.live).clone().ok_or_else(|| {
            let view = self.view();
            let (name, state) = (&view.record().name, view.status.state.word());
            Failure::precondition(format!("VM {name} is {state}, and has no VMM to ask: start it first"))
        })
    }

    pub(super) fn set_live(&self, live: Option<Live>) {
        *lock(&self.live) = live;
    }

    /// Its last start, as far as this daemon saw it.
    pub fn boot(&self) -> Option<LastBoot> {
        lock(&self.boot).clone()
    }

    pub(super) fn set_boot(&self, boot: LastBoot) {
        *lock(&self.boot) = Some(boot);
    }

    /// Replaces the VMM's marks of the last start.
    pub fn set_marks(&self, marks: Vec<BootMark>) {
        if let Some(boot) = lock(&self.boot).as_mut() {
            boot.marks = marks;
        }
    }

    pub(super) fn set_status(&self, change: impl FnOnce(&mut Status)) {
        self.view.send_modify(|view| change(&mut Arc::make_mut(view).status));
    }

    /// Notes whether its run is another than its spec asks for.
    pub fn note_restart_needed(&self, needed: bool) {
        self.set_status(|status| status.restart_needed = needed && status.pid.is_some());
    }

    /// Changes its record, in the store and then in memory.
    ///
    /// # Errors
    /// What `change` says, or what the store says; then nothing has changed.
    pub async fn change<T, F>(&self, store: &Store, how: Change, change: F) -> Result<T, Failure>
    where
        T: Send + 'static,
        F: FnOnce(&WriteTx<'_>, &mut VmRecord) -> Result<T, Failure> + Send + 'static,
    {
        let _order = self.changing.lock().await;
        let id = self.id.clone();
        let (value, stored) = store
            .write(move |tx| {
                let mut record = tx.get::<VmRecord>(&id)?.record;
                let value = change(tx, &mut record)?;
                let stored = match how {
                    Change::Wish(expected) => tx.update(&record, expected)?,
                    Change::Note => {
                        tx.note(&record)?;
                        tx.get(&id)?
                    }
                };
                Ok((value, stored))
            })
            .await?;
        self.view.send_modify(|view| Arc::make_mut(view).stored = Arc::new(stored));
        Ok(value)
    }

    /// Whether a request is possible now.
    ///
    /// # Errors
    /// `FailedPrecondition` says what to do instead.
    pub fn allows(&self, event: Event) -> Result<(), Failure> {
        let view = self.view();
        match lifecycle::request(view.status.state, event) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                Err(Failure::precondition(format!("VM {}: {refusal}", view.record().name)).caused_by(refusal))
            }
        }
    }

    /// Asks the supervisor, and waits until it is done.
    ///
    /// # Errors
    /// Why it is not done.
    pub async fn ask(&self, request: Request) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        let gone = || Failure::new(crate::model::FailureKind::NotFound, "The VM was deleted meanwhile");
        self.inbox.send(Message::Request { request, reply }).await.map_err(|_| gone())?;
        answer.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// What the supervisor is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// What.
    pub event: Event,
    /// For a start: where its steps are noted.
    pub timeline: Option<Timeline>,
    /// For a stop: how long the guest has.
    pub timeout: Option<Duration>,
    /// For a start: nobody waits, so the restart policy acts when it fails.
    pub for_node: bool,
}

impl Request {
    /// A request without more to say.
    pub fn new(event: Event) -> Self {
        Self { event, timeline: None, timeout: None, for_node: false }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Values are replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
