//! One supervisor for each VM: spawn, adopt, phases, exits. The only spawner of VMMs.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | [`Vms`]: the room's front door; who is there, what is promised, what is done when the daemon starts |
//! | `entry.rs` | one VM as everybody sees it, in memory |
//! | `supervisor.rs`, `supervisor/` | the task that moves a VM through the table of `reconcile/lifecycle` |
//! | `start.rs` | one start, or one adoption, step by step |
//! | `machine_config.rs` | spec → the VMM's configuration; pure |
//! | `resources.rs`, `rooms.rs` | what a start needs of other rooms, and what they need of this one |
//! | `making.rs` | making VMs with their volumes, and copies |
//! | `readings.rs` | VMs as telemetry sees them |
//! | `capacity.rs`, `exits.rs` | what the node has; why a run ended |
//! | `launch/`, `cgroup/`, `isolation/` | processes in jails, and what the kernel says of them |
//! | `vsock.rs` | who connects for a guest |
//!
//! Specs and wishes are in the store. How VMs stand is in memory, and is found again in the kernel and the run directory:
//! reading it costs no disk, and no tiny observation is a write.

mod capacity;
pub mod cgroup;
mod entry;
pub mod exits;
pub mod isolation;
pub mod launch;
mod machine_config;
pub mod making;
mod readings;
pub mod resources;
pub mod rooms;
mod start;
mod supervisor;
pub mod vsock;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use capacity::memory_available_bytes;
pub use entry::{Change, Entry, LastBoot, Live, Request, Status, View};
pub use readings::{ProcessUsage, process_usage};

use crate::console::{Console, ConsoleFiles};
use crate::events::Events;
use crate::model::vm::{Autostart, Begun, VmRecord, VmSpec};
use crate::model::{Failure, FailureKind, Id, NewEvent, ResourceKind};
use crate::reconcile::admission::{self, Capacity, Demand, Policy};
use crate::reconcile::autostart::waves;
use crate::reconcile::lifecycle::{Event, State};
use crate::reconcile::startup::{self, Found, Step, Wanted};
use crate::store::{ReadTx, Record, Store, Stored};
use isolation::IsolationWatch;
use launch::{Launched, Launcher};
use resources::Resources;
use supervisor::{Begin, INBOX, Supervisor};

/// Events that wait to be recorded.
const TOLD: usize = 4096;
/// How often the isolation of each VM is measured.
const ISOLATION_INTERVAL: Duration = Duration::from_mins(1);
/// Where the store keeps which boot of the machine it last saw.
const BOOT_ID: &str = "vm.boot_id";

impl Record for VmRecord {
    const TABLE: &'static str = "vms";
    const KIND: ResourceKind = ResourceKind::Vm;

    fn id(&self) -> &Id {
        &self.id
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// What the room needs of others.
pub struct VmParts {
    /// The inventory.
    pub store: Store,
    /// Where it tells what happens.
    pub events: Events,
    /// Starts VMMs.
    pub launcher: Launcher,
    /// Disks, NICs and what else a start needs.
    pub resources: Arc<dyn Resources>,
    /// Where logs are.
    pub log_dir: PathBuf,
    /// Ends supervision; VMs go on.
    pub shutdown: CancellationToken,
}

/// The room; cheap to clone.
#[derive(Clone)]
pub struct Vms {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    store: Store,
    launcher: Launcher,
    resources: Arc<dyn Resources>,
    log_dir: PathBuf,
    shutdown: CancellationToken,
    index: RwLock<Index>,
    promised: Mutex<HashMap<Id, Demand>>,
    told: mpsc::Sender<NewEvent>,
    isolation: IsolationWatch,
}

/// All VMs.
#[derive(Default)]
struct Index {
    by_id: HashMap<Id, Arc<Entry>>,
    by_name: BTreeMap<String, Id>,
}

/// What the node has and what is promised to VMs that run.
#[derive(Debug, Clone)]
pub struct Promises {
    /// What there is.
    pub capacity: Capacity,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory in bytes, overhead included; huge pages too.
    pub memory_bytes: u64,
    /// Huge pages by their size.
    pub huge_pages: BTreeMap<u64, u64>,
}

impl Vms {
    /// Takes over what runs, brings to an end what was half-done, and starts in the background what shall run.
    ///
    /// # Errors
    /// What the store says.
    pub async fn start(parts: VmParts) -> Result<Self, Failure> {
        let VmParts { store, events, launcher, resources, log_dir, shutdown } = parts;
        let (told, hear) = mpsc::channel(TOLD);
        let isolation = IsolationWatch::start(events.clone(), ISOLATION_INTERVAL, shutdown.clone());
        tokio::spawn(record_events(events, hear));
        let records = store.read(|tx| tx.all::<VmRecord>()).await?;
        let node_booted = note_boot(&store).await?;
        let (index, promised) = (RwLock::default(), Mutex::default());
        let shared = Shared { store, launcher, resources, log_dir, shutdown, index, promised, told, isolation };
        let vms = Self { shared: Arc::new(shared) };
        vms.resume(records, node_booted).await;
        Ok(vms)
    }

    async fn resume(&self, records: Vec<Stored<VmRecord>>, node_booted: bool) {
        let shared = &self.shared;
        let mut kept = BTreeSet::new();
        let mut begins = Vec::new();
        let mut starting: Vec<(Arc<Entry>, Autostart)> = Vec::new();
        for stored in records {
            let record = &stored.record;
            let alive = shared.launcher.adopt(&record.id);
            let found = match &alive {
                Some(_) => Found::Alive,
                None if shared.launcher.directory(&record.id).exists() => Found::Gone,
                None => Found::Nothing,
            };
            let wanted = Wanted {
                begun: record.begun,
                running: record.running,
                failed: record.failed.is_some(),
                autostart: record.spec.autostart.enabled,
                node_booted,
            };
            let step = startup::step(wanted, found);
            tracing::info!(vm = %record.id, name = %record.name, ?found, ?step, "VM found");
            if alive.is_some() && matches!(step, Step::Adopt | Step::AdoptAndStop) {
                kept.insert(record.id.clone());
                // Promised before anything else is started.
                shared.promise(&record.id, &record.spec);
            }
            let (state, begin) = beginning(step, alive, record);
            let autostart = record.spec.autostart;
            let (entry, supervisor) = self.add(stored, state);
            if step == Step::Start {
                starting.push((entry, autostart));
            }
            begins.push((supervisor, begin));
        }
        // A new inventory in place of a damaged one knows nothing: what runs may be somebody's VM all the same.
        if shared.store.kept_aside().is_none() {
            shared.launcher.sweep(kept).await;
        }
        for (supervisor, begin) in begins {
            tokio::spawn(supervisor.run(begin));
        }
        if !starting.is_empty() {
            tokio::spawn(self.clone().start_in_order(starting));
        }
    }

    /// Starts VMs in the order that they ask for.
    async fn start_in_order(self, starting: Vec<(Arc<Entry>, Autostart)>) {
        for wave in waves(starting) {
            let starts = wave.vms.iter().map(|entry| self.start_for_node(entry));
            futures_util::future::join_all(starts).await;
            tokio::select! {
                () = tokio::time::sleep(wave.delay) => {}
                () = self.shared.shutdown.cancelled() => return,
            }
        }
    }

    async fn start_for_node(&self, entry: &Entry) {
        let wish = entry.change(&self.shared.store, Change::Note, |_, record| {
            record.running = true;
            record.failed = None;
            Ok(())
        });
        let started = match wish.await {
            Ok(()) => entry.ask(Request { for_node: true, ..Request::new(Event::Start) }).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = started {
            tracing::warn!(vm = %entry.id, "Not started with the node: {}", failure.chain());
        }
    }

    /// Makes a VM known whose record was just inserted; it is being created.
    pub fn add_created(&self, stored: Stored<VmRecord>) -> Arc<Entry> {
        let (entry, supervisor) = self.add(stored, State::Creating);
        tokio::spawn(supervisor.run(Begin::Rest(State::Creating, String::new())));
        entry
    }

    fn add(&self, stored: Stored<VmRecord>, state: State) -> (Arc<Entry>, Supervisor) {
        let (news, inbox) = mpsc::channel(INBOX);
        let id = stored.record.id.clone();
        let files = ConsoleFiles {
            log: self.shared.log_dir.join(format!("{id}.log")),
            mark: self.shared.launcher.directory(&id).join("console.mark"),
        };
        let name = stored.record.name.to_string();
        let entry = Arc::new(Entry::new(stored, state, Console::new(files), news.clone()));
        let mut index = self.shared.index_mut();
        index.by_id.insert(id.clone(), entry.clone());
        index.by_name.insert(name, id);
        drop(index);
        let supervisor = Supervisor::new(self.shared.clone(), entry.clone(), inbox, news);
        (entry, supervisor)
    }

    /// A VM by name or id.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn find(&self, asked: &str) -> Result<Arc<Entry>, Failure> {
        let index = self.shared.index();
        let by_id = Id::try_from(asked).ok().and_then(|id| index.by_id.get(&id));
        let found = by_id.or_else(|| index.by_id.get(index.by_name.get(asked)?));
        found.cloned().ok_or_else(|| Failure::not_found(ResourceKind::Vm, asked))
    }

    /// VMs by name, from the one after `after` on, as long as `take` wants more.
    pub fn after(&self, after: Option<&str>, mut take: impl FnMut(&Arc<View>) -> bool) -> Vec<Arc<View>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let index = self.shared.index();
        let mut found = Vec::new();
        let range = (after.map_or(Unbounded, Excluded), Unbounded);
        for id in index.by_name.range::<str, _>(range).map(|(_, id)| id) {
            let Some(entry) = index.by_id.get(id) else { continue };
            let view = entry.view();
            found.push(view.clone());
            if !take(&view) {
                break;
            }
        }
        found
    }

    /// A VM has another name now.
    pub fn renamed(&self, entry: &Entry) {
        let name = entry.view().record().name.to_string();
        let mut index = self.shared.index_mut();
        index.by_name.retain(|_, id| *id != entry.id);
        index.by_name.insert(name, entry.id.clone());
    }

    /// All VMs.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.shared.index().by_id.values().cloned().collect()
    }

    /// What the node has, and what is promised.
    pub fn promises(&self) -> Promises {
        let promised = self.shared.promised();
        let mut huge_pages = BTreeMap::new();
        let mut memory_bytes = 0;
        for demand in promised.values() {
            memory_bytes += demand.memory_bytes;
            if let Some((size, count)) = demand.huge_pages {
                *huge_pages.entry(size).or_default() += count;
                memory_bytes += size * count;
            }
        }
        let vcpus = promised.values().map(|demand| demand.vcpus).sum();
        Promises { capacity: capacity::read(), vcpus, memory_bytes, huge_pages }
    }

    /// Where the logs of a VM are: of its console, of its VMM.
    pub fn logs(&self, entry: &Entry) -> (PathBuf, PathBuf) {
        let files = start::Files::new(&self.shared, entry);
        (files.console_log(), files.vmm_log())
    }

    /// What a start needs of other rooms.
    pub fn resources(&self) -> &Arc<dyn Resources> {
        &self.shared.resources
    }

    /// Measures the isolation of a VM that runs.
    pub fn isolation(&self) -> &IsolationWatch {
        &self.shared.isolation
    }

    /// The inventory.
    pub fn store(&self) -> &Store {
        &self.shared.store
    }
}

impl Shared {
    /// Promises what a VM needs, if there is as much.
    fn admit(&self, id: &Id, spec: &VmSpec) -> Result<(), Failure> {
        let demand = Demand::of(spec);
        let capacity = capacity::read();
        let mut promised = self.promised();
        let others: Vec<Demand> = promised.iter().filter(|(other, _)| *other != id).map(|(_, d)| d.clone()).collect();
        admission::admit(&capacity, Policy::of(&capacity), &others, &demand).map_err(|shortage| {
            let message = format!("The VM does not fit on this node: {shortage}");
            Failure::new(FailureKind::ResourceExhausted, message)
        })?;
        promised.insert(id.clone(), demand);
        Ok(())
    }

    /// Notes what a VM has that runs already.
    fn promise(&self, id: &Id, spec: &VmSpec) {
        self.promised().insert(id.clone(), Demand::of(spec));
    }

    fn release(&self, id: &Id) {
        self.promised().remove(id);
    }

    fn forget(&self, entry: &Entry) {
        let mut index = self.index_mut();
        index.by_id.remove(&entry.id);
        index.by_name.retain(|_, id| *id != entry.id);
    }

    /// Tells what happened, in order, without waiting for the disk.
    fn tell(&self, event: NewEvent) {
        if let Err(error) = self.told.try_send(event) {
            tracing::error!("An event is not recorded, too many wait: {error}");
        }
    }

    // Both maps are whole after each operation on them.
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn promised(&self) -> MutexGuard<'_, HashMap<Id, Demand>> {
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With what a VM's supervisor begins when the daemon does.
fn beginning(step: Step, alive: Option<Launched>, record: &VmRecord) -> (State, Begin) {
    match (step, alive) {
        (Step::Adopt | Step::AdoptAndStop, Some(launched)) => {
            let stop = step == Step::AdoptAndStop;
            (State::Starting, Begin::Adopt { launched: Box::new(launched), stop })
        }
        (Step::UndoCreation | Step::FinishDeletion, alive) => {
            if let Some(launched) = alive {
                // A VM that is being deleted has no guest whose data could be lost.
                let _ = rustix::process::pidfd_send_signal(&launched.pidfd, rustix::process::Signal::KILL);
            }
            (State::Deleting, Begin::Erase)
        }
        (Step::Lost, _) => (State::Starting, Begin::Lost),
        (Step::Start, _) => (State::Stopped, Begin::Rest(State::Stopped, "It starts when its turn comes".to_owned())),
        (Step::StayFailed, _) => (State::Failed, Begin::Rest(State::Failed, record.failed.clone().unwrap_or_default())),
        _ => (State::Stopped, Begin::Rest(State::Stopped, String::new())),
    }
}

/// Records events one after another.
async fn record_events(events: Events, mut told: mpsc::Receiver<NewEvent>) {
    while let Some(event) = told.recv().await {
        events.tell(event).await;
    }
}

/// Whether the machine was booted since the last daemon ran, or never ran one.
async fn note_boot(store: &Store) -> Result<bool, Failure> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| Failure::internal("The kernel does not say which boot this is", error))?;
    let boot = boot.trim().to_owned();
    store
        .write(move |tx| {
            let before = tx.meta(BOOT_ID)?;
            tx.set_meta(BOOT_ID, &boot)?;
            Ok(before.as_deref() != Some(boot.as_str()))
        })
        .await
}

/// VMs that have volumes and images, by id: those that exist and are not being deleted.
///
/// # Errors
/// What the store says.
pub fn disk_uses(tx: &ReadTx<'_>) -> Result<DiskUses, Failure> {
    let mut uses = DiskUses::default();
    for stored in tx.all::<VmRecord>()? {
        let record = stored.record;
        if record.begun == Begun::Deletion {
            continue;
        }
        for volume in record.spec.volumes() {
            uses.volumes.entry(volume.clone()).or_default().push(record.id.clone());
        }
        for image in record.spec.images() {
            uses.images.entry(image.clone()).or_default().push(record.id.clone());
        }
    }
    Ok(uses)
}

/// Who uses what.
#[derive(Debug, Clone, Default)]
pub struct DiskUses {
    /// VMs by volume.
    pub volumes: HashMap<Id, Vec<Id>>,
    /// VMs by image.
    pub images: HashMap<Id, Vec<Id>>,
}
