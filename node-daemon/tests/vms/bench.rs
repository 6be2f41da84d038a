//! A node without its API: the inventory, the launcher and the VMs' room in directories of this test's own.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use quantix_node::events::Events;
use quantix_node::model::vm::{
    Autostart, Begun, BootSpec, CpuSpec, DiskSource, DiskSpec, HugePages, Limit, MemorySpec, NicSpec, RestartMode,
    RestartPolicy, VmRecord, VmSpec,
};
use quantix_node::model::{Event, Failure, Id, Mac, Name};
use quantix_node::reconcile::lifecycle::{self, State};
use quantix_node::store::{EventFilter, Store};
use quantix_node::telemetry::Timeline;
use quantix_node::vm::launch::{LaunchSettings, Launcher};
use quantix_node::vm::resources::{OpenBoot, OpenDisk, OpenNic, Resources};
use quantix_node::vm::{Entry, Request, View, VmParts, Vms};
use tokio_util::sync::CancellationToken;

/// How long anything may take; the machine may be busy.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Disks are files of this test, the kernel is the payload.
pub struct Files {
    payload: PathBuf,
    directory: PathBuf,
    /// How long opening a disk takes, in milliseconds.
    pub disk_delay: AtomicU64,
}

#[tonic::async_trait]
impl Resources for Files {
    async fn open_disk(&self, disk: &DiskSpec) -> Result<OpenDisk, Failure> {
        tokio::time::sleep(Duration::from_millis(self.disk_delay.load(Ordering::Relaxed))).await;
        let DiskSource::Volume(id) = &disk.source else { return Err(Failure::precondition("No image here")) };
        let file = File::options().read(true).write(true).open(self.directory.join(id.as_str()));
        let file =
            file.map_err(|error| Failure::precondition(format!("Disk {} cannot be opened: {error}", disk.id)))?;
        let name = format!("disk-{id}");
        Ok(OpenDisk {
            fds: vec![(name.clone(), file.into())],
            path: format!("fd:{name}"),
            format: "raw",
            readonly: false,
        })
    }

    async fn open_boot(&self, record: &VmRecord) -> Result<OpenBoot, Failure> {
        let kernel = File::open(&self.payload).map_err(|error| Failure::internal("No payload", error))?;
        let cmdline = record.spec.boot.cmdline.clone().unwrap_or_default();
        Ok(OpenBoot { kernel: kernel.into(), initrd: None, cmdline })
    }

    async fn build_seed(&self, _: &VmRecord) -> Result<Option<OwnedFd>, Failure> {
        Ok(None)
    }

    async fn plug(&self, _: &VmRecord, _: &NicSpec) -> Result<OpenNic, Failure> {
        Err(Failure::precondition("No network here"))
    }

    async fn replug(&self, _: &VmRecord, _: &NicSpec) -> Result<String, Failure> {
        Err(Failure::precondition("No network here"))
    }

    async fn unplug(&self, _: &Id) -> Result<(), Failure> {
        Ok(())
    }

    async fn addresses(&self, _: Mac) -> Vec<IpAddr> {
        Vec::new()
    }

    async fn delete_volume(&self, volume: &Id) -> Result<(), Failure> {
        std::fs::remove_file(self.directory.join(volume.as_str()))
            .map_err(|error| Failure::internal("Cannot delete", error))
    }
}

/// What one test has; a daemon can come and go in it.
pub struct Bench {
    directory: tempfile::TempDir,
    slice: String,
    slots: AtomicU32,
    vmm: PathBuf,
    pub files: Arc<Files>,
}

fn program(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file());
    path.unwrap_or_else(|| panic!("{variable} names no file, and this host has /dev/kvm: run this by `make test`"))
}

impl Bench {
    /// [`None`], with a line that says why, where VMs cannot run.
    pub fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || File::options().read(true).write(true).open("/dev/kvm").is_err() {
            eprintln!("could not run: needs root and /dev/kvm");
            return None;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let files = Files {
            payload: program("QUANTIX_PAYLOAD"),
            directory: directory.path().join("disks"),
            disk_delay: AtomicU64::new(0),
        };
        for name in ["disks", "log", "run"] {
            std::fs::create_dir(directory.path().join(name)).expect("made");
        }
        Some(Self {
            slice: format!("quantix-test-{}.slice", std::process::id()),
            slots: AtomicU32::new(std::process::id() % 2000),
            vmm: program("QUANTIX_VMM"),
            files: Arc::new(files),
            directory,
        })
    }

    /// A daemon begins.
    pub async fn node(&self) -> Node {
        let database = self.directory.path().join("node.db");
        let store = tokio::task::spawn_blocking(move || Store::open(&database)).await.expect("joined").expect("opened");
        let mut settings = LaunchSettings::new(self.directory.path().join("run"), self.vmm.clone());
        settings.stage = env!("CARGO_BIN_EXE_quantix-node").into();
        settings.slice.clone_from(&self.slice);
        let launcher = Launcher::open(settings).expect("a launcher");
        let shutdown = CancellationToken::new();
        let parts = VmParts {
            store: store.clone(),
            events: Events::new(store.clone()),
            launcher,
            resources: self.files.clone(),
            log_dir: self.directory.path().join("log"),
            shutdown: shutdown.clone(),
        };
        Node { vms: Vms::start(parts).await.expect("started"), store, shutdown }
    }

    /// A VM to be, with one disk.
    pub fn record(&self, name: &str, cmdline: &str) -> VmRecord {
        let volume = Id::new();
        let file = File::create(self.files.directory.join(volume.as_str())).expect("a disk");
        file.set_len(1 << 20).expect("its size");
        let disk = DiskSpec {
            id: Name::parse("id", "disk0").expect("a name"),
            source: DiskSource::Volume(volume.clone()),
            readonly: false,
            direct: false,
            queues: 1,
            limit: Limit::default(),
        };
        let spec = VmSpec {
            cpus: CpuSpec { count: 1, topology: None, weight: 100, quota_percent: None, pinning: None },
            memory: MemorySpec { size_bytes: 64 << 20, huge_pages: HugePages::None, prefault: false },
            boot: BootSpec { kernel: None, initrd: None, cmdline: Some(cmdline.to_owned()) },
            disks: vec![disk],
            nics: Vec::new(),
            cloud_init: None,
            restart: RestartPolicy {
                mode: RestartMode::OnFailure,
                max_attempts: 2,
                backoff: Duration::from_millis(50),
            },
            autostart: Autostart { enabled: false, order: 0, delay: Duration::ZERO },
            rng: true,
            balloon: true,
            vsock: true,
        };
        VmRecord {
            id: Id::new(),
            name: Name::parse("name", name).expect("a name"),
            description: String::new(),
            labels: BTreeMap::new(),
            spec,
            slot: self.slots.fetch_add(1, Ordering::Relaxed),
            begun: Begun::Nothing,
            running: false,
            failed: None,
            made_volumes: vec![volume],
            last_exit: None,
        }
    }

    /// The VM's run directory.
    pub fn run_directory(&self, vm: &Id) -> PathBuf {
        self.directory.path().join("run/vm").join(vm.as_str())
    }

    /// How many disks there are.
    pub fn disks(&self) -> usize {
        std::fs::read_dir(&self.files.directory).expect("readable").count()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let _ = std::fs::remove_dir(Path::new(mount).join(&self.slice));
        }
    }
}

/// A daemon, as far as VMs go.
pub struct Node {
    pub vms: Vms,
    pub store: Store,
    shutdown: CancellationToken,
}

impl Node {
    /// Makes a VM known.
    pub async fn create(&self, record: VmRecord) -> Arc<Entry> {
        let stored = self.store.write(move |tx| tx.insert(&record)).await.expect("inserted");
        let entry = self.vms.add_created(stored);
        entry.ask(Request::new(lifecycle::Event::Made)).await.expect("made");
        entry
    }

    /// Starts a VM as the API does: the wish first.
    pub async fn start(&self, entry: &Entry) -> Result<Timeline, Failure> {
        let timeline = Timeline::begin();
        let wish = entry.change(&self.store, quantix_node::vm::Change::Note, |_, record| {
            (record.running, record.failed) = (true, None);
            Ok(())
        });
        wish.await.expect("noted");
        let request = Request { timeline: Some(timeline.clone()), ..Request::new(lifecycle::Event::Start) };
        entry.ask(request).await.map(|()| timeline)
    }

    /// Stops a VM as the API does.
    pub async fn stop(&self, entry: &Entry, timeout: Duration) -> Result<(), Failure> {
        let wish = entry.change(&self.store, quantix_node::vm::Change::Note, |_, record| {
            record.running = false;
            Ok(())
        });
        wish.await.expect("noted");
        let event = if timeout.is_zero() { lifecycle::Event::Kill } else { lifecycle::Event::Stop };
        entry.ask(Request { timeout: Some(timeout), ..Request::new(event) }).await
    }

    /// The daemon ends, and leaves VMs as they are.
    pub async fn end(self) {
        self.shutdown.cancel();
        drop(self.vms);
        // Supervisors hold the store; its file is free when they are gone.
        tokio::task::yield_now().await;
    }

    /// Ends a VM and everything of it.
    pub async fn finish(&self, entry: &Entry) {
        self.stop(entry, Duration::ZERO).await.expect("stopped");
        entry.ask(Request::new(lifecycle::Event::Delete)).await.expect("deleted");
    }

    /// Recorded events of these kinds, oldest first.
    pub async fn events(&self, kind: &str) -> Vec<Event> {
        let filter = EventFilter { kinds: vec![kind.to_owned()], resource_id: None };
        self.store.read(move |tx| tx.events_after(0, &filter, 1000)).await.expect("read")
    }
}

/// Waits until a VM is as wanted.
pub async fn until(entry: &Entry, what: &str, wanted: impl Fn(&View) -> bool) -> Arc<View> {
    let mut watch = entry.watch();
    let found = tokio::time::timeout(PATIENCE, watch.wait_for(|view| wanted(view))).await;
    match found {
        Ok(Ok(view)) => view.clone(),
        _ => panic!("{what} did not come; it is {:?}", entry.view().status),
    }
}

/// Waits until a VM is in a state.
pub async fn reach(entry: &Entry, state: State) -> Arc<View> {
    until(entry, &format!("{state:?}"), |view| view.status.state == state).await
}

/// Waits until the console has said this.
pub async fn hear(entry: &Entry, wanted: &str) -> String {
    let mut viewer = entry.console.view();
    let mut text = String::new();
    while !text.contains(wanted) {
        let seen = tokio::time::timeout(PATIENCE, viewer.next()).await;
        let seen = seen.unwrap_or_else(|late| panic!("{late}: the guest never said {wanted:?}, but {text:?}"));
        text.push_str(&String::from_utf8_lossy(&seen.data));
    }
    text
}

/// Sends a signal to a VM's process.
pub fn signal(entry: &Entry, signal: rustix::process::Signal) {
    let pid = entry.view().status.pid.expect("a process");
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("sent");
}
