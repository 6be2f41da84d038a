//! Wires the rooms together, in the order in which they need each other, and takes them down again. The only place that
//! knows all rooms. Stopping leaves VMs running: they are found again at the next start.

use std::fs::File;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::auth::Auth;
use crate::events::Events;
use crate::host::{Host, Roots};
use crate::model::{Failure, FailureKind, NewEvent};
use crate::network::Networks;
use crate::server::{Server, ServerError};
use crate::settings::Settings;
use crate::storage::{Storage, StorageParts};
use crate::store::Store;
use crate::tasks::Tasks;
use crate::telemetry::{Telemetry, Timeline};
use crate::vm::launch::{LaunchSettings, Launcher};
use crate::vm::rooms::{VmUsers, configured_nics, node_resources};
use crate::vm::{VmParts, Vms};

/// How long the end waits for tasks to finish by themselves. What then still runs is cleaned up at the next start,
/// as after a crash.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the end waits for the database to be closed; an open one is no harm.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A directory.
    #[error("Cannot make the directory {path}", path = path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The lock of the state directory.
    #[error("Cannot lock {path}", path = path.display())]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another daemon.
    #[error("Another quantix-node uses {path}: stop it, or give --state-dir", path = path.display())]
    AnotherDaemon {
        /// The state directory.
        path: PathBuf,
    },
    /// A listener.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A room.
    #[error(transparent)]
    Room(#[from] Failure),
}

impl DaemonError {
    /// Whether the administrator has to change something, rather than the machine being at fault.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::AnotherDaemon { .. } | Self::Server(ServerError::Listen { .. } | ServerError::Tls(_)) => true,
            Self::Room(failure) => {
                matches!(failure.kind(), FailureKind::InvalidArgument | FailureKind::FailedPrecondition)
            }
            _ => false,
        }
    }
}

/// Handles on all rooms; services take what they need. Cheap to clone.
#[derive(Clone)]
pub struct Rooms {
    /// What the administrator said.
    pub settings: Arc<Settings>,
    /// The inventory.
    pub store: Store,
    /// Long operations.
    pub tasks: Tasks,
    /// What happens.
    pub events: Events,
    /// The node itself.
    pub host: Host,
    /// Measured values, alarms, `/metrics`.
    pub telemetry: Telemetry,
    // One line a room. Keep the comment lines: they keep merges apart.
    // auth
    /// Who may do what.
    pub auth: Auth,
    // storage
    /// Pools, volumes and images.
    pub storage: Storage,
    // network
    /// Bridges, taps and filters.
    pub networks: Networks,
    // vm
    /// VMs.
    pub vms: Vms,
}

/// A running daemon.
pub struct Daemon {
    rooms: Rooms,
    server: Server,
    /// Fires when everything shall end; background work of rooms listens to it.
    shutdown: CancellationToken,
    /// Held as long as the daemon lives; the kernel frees it with the process.
    _lock: File,
}

impl Daemon {
    /// Starts all rooms and listens.
    ///
    /// # Errors
    /// What stands in the way; nothing is left running.
    pub async fn start(settings: Settings) -> Result<Self, DaemonError> {
        let timeline = Timeline::begin();
        let claiming = timeline.span("Take the state directory");
        let lock = claim(&settings)?;
        claiming.end();
        let shutdown = CancellationToken::new();
        let Base { store, tasks, events, host, telemetry } = base(&settings, &timeline).await?;
        // One block a room, in a span of the timeline. Keep the comment lines: they keep merges apart.
        // auth
        let starting = timeline.span("Start auth");
        let auth = Auth::start(store.clone()).await?;
        starting.end();
        // storage
        let starting = timeline.span("Start storage");
        let storage = Storage::start(StorageParts {
            store: store.clone(),
            events: events.clone(),
            state_dir: settings.state_dir.clone(),
            run_dir: settings.run_dir.clone(),
            users: Arc::new(VmUsers),
            shutdown: shutdown.clone(),
        })
        .await?;
        starting.end();
        // network
        let starting = timeline.span("Start networks");
        let networks =
            Networks::start(&settings, store.clone(), tasks.clone(), events.clone(), shutdown.clone()).await?;
        starting.end();
        // vm
        let finding = timeline.span("Find VMs");
        let vms = find_vms(&settings, &events, &storage, &networks, &shutdown).await?;
        telemetry.attach_vms(Arc::new(vms.clone()));
        finding.end();
        let rooms = Rooms {
            settings: Arc::new(settings),
            store,
            tasks,
            events,
            host,
            telemetry,
            // auth
            auth,
            // storage
            storage,
            // network
            networks,
            // vm
            vms,
        };
        rooms.telemetry.run(shutdown.clone());
        let listening = timeline.span("Listen");
        let server = Server::start(&rooms, shutdown.clone()).await?;
        listening.end();
        rooms.events.tell(NewEvent::info("node.started", "The daemon serves").with("version", VERSION)).await;
        Ok(Self { rooms, server, shutdown, _lock: lock })
    }

    /// Handles on the rooms.
    pub fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// Where it listens.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// Ends: no new calls, running tasks get a moment, VMs go on.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.rooms.events.close();
        self.rooms.tasks.close();
        if timeout(PATIENCE, self.server.drained()).await.is_err() {
            tracing::info!("Some calls are still open; they are cut off");
        }
        let left = self.rooms.tasks.settle(PATIENCE).await;
        if left > 0 {
            tracing::warn!("{left} tasks still run; the next start cleans up what they leave");
        }
        // One line a room that has something to put away, in reverse order of the start.
        // vm
        // network
        // storage
        let store = self.rooms.store.clone();
        drop(self.rooms);
        if timeout(LAST_PATIENCE, store.close()).await.is_err() {
            tracing::info!("The inventory is still in use; its journal is read at the next start");
        }
    }
}

/// Takes over the VMs that run, and starts those that shall.
async fn find_vms(
    settings: &Settings,
    events: &Events,
    storage: &Storage,
    networks: &Networks,
    shutdown: &CancellationToken,
) -> Result<Vms, Failure> {
    let store = storage.store();
    networks.know_nics(configured_nics());
    let launcher = Launcher::open(LaunchSettings::new(settings.run_dir.clone(), settings.vmm.clone()))?;
    Vms::start(VmParts {
        store: store.clone(),
        events: events.clone(),
        launcher,
        resources: node_resources(storage.clone(), networks.clone(), store.clone()),
        log_dir: settings.log_dir.clone(),
        shutdown: shutdown.clone(),
    })
    .await
}

/// What every other room stands on.
struct Base {
    store: Store,
    tasks: Tasks,
    events: Events,
    host: Host,
    telemetry: Telemetry,
}

/// Opens the inventory and looks at the node.
async fn base(settings: &Settings, timeline: &Timeline) -> Result<Base, DaemonError> {
    let opening = timeline.span("Open the inventory");
    let database = settings.database();
    let store = tokio::task::spawn_blocking(move || Store::open(&database))
        .await
        .map_err(|error| Failure::internal("Opening the inventory panicked", error))??;
    opening.end();
    let recovering = timeline.span("End interrupted tasks");
    let tasks = Tasks::new(store.clone());
    let events = Events::new(store.clone());
    let interrupted = tasks.recover().await?;
    if !interrupted.is_empty() {
        tracing::warn!("{} tasks were interrupted by the daemon's last end", interrupted.len());
    }
    recovering.end();
    let looking = timeline.span("Look at the node");
    let host = Host::new(&store, Roots::default(), timeline.clone()).await?;
    host.examine_kvm(settings.vmm.clone());
    let telemetry = Telemetry::new(host.clone(), events.clone(), settings.state_dir.clone());
    if let Some(aside) = store.kept_aside() {
        let sentence = format!("The inventory was lost; what was left of it is {}", aside.path.display());
        telemetry.alarms().raise("inventory", &sentence).await;
    }
    looking.end();
    Ok(Base { store, tasks, events, host, telemetry })
}

/// This program's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Makes the directories and takes the lock.
fn claim(settings: &Settings) -> Result<File, DaemonError> {
    for (path, mode) in [(&settings.state_dir, 0o700), (&settings.run_dir, 0o755), (&settings.log_dir, 0o750)] {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .map_err(|source| DaemonError::Directory { path: path.clone(), source })?;
    }
    lock(&settings.state_dir)
}

fn lock(state_dir: &Path) -> Result<File, DaemonError> {
    let path = state_dir.join("lock");
    let failed = |source| DaemonError::Lock { path: path.clone(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(DaemonError::AnotherDaemon { path: state_dir.to_owned() }),
        Err(errno) => Err(failed(errno.into())),
    }
}
