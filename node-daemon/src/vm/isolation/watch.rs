//! Measures every VM again, once an interval, spread so that two hundred do not come at once; says when a VM drifts
//! from what it must be, and when it is back.
//!
//! One async task; reading is on the blocking pool, one VM at a time. An event is raised once for each change, not once for
//! each measurement. Must not end a VM: that is for whoever hears the alarm to decide.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::judge::{Surroundings, judge};
use super::{Expected, IsolationError, Neighbours, Receipt, read};
use crate::events::Events;
use crate::model::{Failure, Id, NewEvent, ResourceKind, ResourceRef};
use crate::vm::launch::Grant;

/// Part of an interval by which each VM is later than the one before: no two of any number come close together.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// Watches over the isolation of all VMs that run. Clones are the same watch.
#[derive(Clone)]
pub struct IsolationWatch {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    changed: Notify,
    events: Events,
    interval: Duration,
}

#[derive(Default)]
struct State {
    vms: BTreeMap<Id, Watched>,
    neighbours: Neighbours,
    /// How many VMs were ever added.
    added: u32,
}

struct Watched {
    resource: ResourceRef,
    pid: u32,
    expected: Expected,
    due: Instant,
    /// By how much the second measurement is earlier than an interval after the first.
    head_start: Duration,
    /// What was broken when it was last measured.
    broken: BTreeSet<String>,
}

/// What is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Something is broken that was not, or in another way.
    Drift,
    /// All is as it must be again.
    Restored,
}

/// What a measurement changes. Pure.
pub(super) fn change(before: &BTreeSet<String>, now: &BTreeSet<String>) -> Option<Change> {
    match (before == now, now.is_empty()) {
        (true, _) => None,
        (false, true) => Some(Change::Restored),
        (false, false) => Some(Change::Drift),
    }
}

impl IsolationWatch {
    /// Starts measuring; ends when `shutdown` fires.
    pub fn start(events: Events, interval: Duration, shutdown: CancellationToken) -> Self {
        let inner = Arc::new(Inner { state: Mutex::default(), changed: Notify::new(), events, interval });
        let watch = Self { inner: inner.clone() };
        tokio::spawn(async move {
            tokio::select! {
                () = inner.run() => {}
                () = shutdown.cancelled() => {}
            }
        });
        watch
    }

    /// Watches a VM from now on. To be called when its guest runs: before, its VMM is not in its sandbox yet.
    pub fn add(&self, resource: ResourceRef, expected: Expected) {
        let mut state = self.inner.state();
        let fraction = (f64::from(state.added) * GOLDEN).fract();
        state.added = state.added.wrapping_add(1);
        let watched = Watched {
            pid: expected.record.pid,
            expected,
            due: Instant::now(),
            head_start: self.inner.interval.mul_f64(fraction),
            broken: BTreeSet::new(),
            resource: resource.clone(),
        };
        state.vms.insert(resource.id, watched);
        drop(state);
        self.inner.changed.notify_one();
    }

    /// The VM has ended, or is about to.
    pub fn remove(&self, vm: &Id) {
        let mut state = self.inner.state();
        state.vms.remove(vm);
        state.neighbours.forget(vm);
    }

    /// The VMM was given another descriptor.
    pub fn grant(&self, vm: &Id, grant: Grant) {
        if let Some(watched) = self.inner.state().vms.get_mut(vm) {
            watched.expected.record.grants.push(grant);
        }
    }

    /// Measures a VM now. A drift that is seen is told as well.
    ///
    /// # Errors
    /// `FailedPrecondition` when it does not run; `Internal` when it cannot be read.
    pub async fn measure(&self, resource: &ResourceRef) -> Result<Receipt, Failure> {
        let gone = || Failure::precondition(format!("VM {} does not run: there is nothing to measure", resource.name));
        match self.inner.check(&resource.id).await {
            Ok(receipt) => receipt.ok_or_else(gone),
            Err(error) if error.is_gone() => Err(gone()),
            Err(error) => Err(Failure::internal("The isolation cannot be measured", error)),
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing between a lock and its release can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(&self) {
        loop {
            let next = self.state().vms.iter().map(|(id, watched)| (watched.due, id.clone())).min();
            let Some((due, id)) = next else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = self.changed.notified() => continue,
                () = tokio::time::sleep_until(due) => {}
            }
            if let Some(watched) = self.state().vms.get_mut(&id) {
                watched.due = Instant::now() + self.interval - std::mem::take(&mut watched.head_start);
            }
            match self.check(&id).await {
                // That it has ended is its supervisor's business.
                Ok(_) => {}
                Err(error) if error.is_gone() => {}
                Err(error) => tracing::warn!("{error}"),
            }
        }
    }

    /// Measures, judges, tells. `None` when the VM is not watched.
    async fn check(&self, id: &Id) -> Result<Option<Receipt>, IsolationError> {
        let Some(pid) = self.state().vms.get(id).map(|watched| watched.pid) else { return Ok(None) };
        let reading = tokio::task::spawn_blocking(move || Ok((read::read(pid)?, read::own_namespaces()?)));
        let (measured, host) =
            reading.await.map_err(|error| IsolationError { pid, file: "", source: error.into() })??;
        let (receipt, event) = {
            let mut state = self.state();
            let State { vms, neighbours, .. } = &mut *state;
            // Ended, or started anew, while it was read.
            let Some(watched) = vms.get_mut(id).filter(|watched| watched.pid == pid) else { return Ok(None) };
            let around = Surroundings { host: &host, neighbours };
            let receipt = judge(pid, &measured, &watched.expected, &around);
            neighbours.learn(id, &receipt.namespaces);
            let broken = receipt.broken();
            let event = change(&watched.broken, &broken).map(|change| event(&change, &watched.resource, &broken));
            watched.broken = broken;
            (receipt, event)
        };
        if let Some(event) = event {
            self.events.tell(event).await;
        }
        Ok(Some(receipt))
    }
}

fn event(change: &Change, resource: &ResourceRef, broken: &BTreeSet<String>) -> NewEvent {
    debug_assert_eq!(resource.kind, ResourceKind::Vm);
    let facts = broken.iter().cloned().collect::<Vec<_>>().join("; ");
    let event = match change {
        Change::Drift => NewEvent::alarm(
            "vm.isolation-drift",
            format!("The isolation of VM {} is weaker than it must be: {facts}", resource.name),
        ),
        Change::Restored => NewEvent::info(
            "vm.isolation-restored",
            format!("The isolation of VM {} is as it must be again", resource.name),
        ),
    };
    event.on(resource.clone()).with("facts", facts)
}
