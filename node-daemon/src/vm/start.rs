//! One start: from a record to a guest that runs, step by step, each on the timeline. Runs as a tokio task of its own beside
//! the supervisor, so that a step that hangs keeps nobody. When it fails, or is told to stop, no process is left; taps and
//! sockets are taken back by the supervisor.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quantix_vmm_api::client::EventStream;
use quantix_vmm_api::v1::Phase;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::cgroup::CgroupLimits;
use super::entry::Entry;
use super::exits;
use super::launch::{Exit, FileIdentity, Grant, LaunchPlan, Launched, exit_of};
use super::machine_config::{INITRD_FD, KERNEL_FD, Opened, SEED, SERIAL_FD, machine_config, queue_fd};
use super::resources::{OpenBoot, OpenDisk, OpenNic};
use super::vsock;
use crate::console::{Begin, tail};
use crate::model::vm::VmRecord;
use crate::model::{Failure, FailureKind};
use crate::reconcile::admission;
use crate::telemetry::Timeline;
use crate::vmm_client::VmmClient;

/// How long a VMM has until its guest runs, in an ordinary start.
const COME_UP: Duration = Duration::from_secs(20);
/// More for each GiB that is touched before.
const PREFAULT_A_GIB: Duration = Duration::from_secs(2);
/// How long a killed process may need to be gone.
const GONE: Duration = Duration::from_secs(10);
/// Between two tries to reach an adopted VMM that does not answer.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Threads of a VMM beside its vCPUs.
const THREADS: u32 = 128;
/// Size at which a VMM's log becomes the log before.
const LOG_BYTES: u64 = 4 << 20;
/// How much of a VMM's log is looked at for its last words.
const LAST_WORDS: usize = 4096;

/// A guest that runs, as the supervisor takes it over.
#[derive(Debug)]
pub(super) struct Up {
    /// Its process.
    pub launched: Launched,
    /// Its control socket.
    pub client: VmmClient,
    /// What it tells from now on.
    pub events: EventStream,
    /// It stands still.
    pub paused: bool,
    /// Taps of its NICs.
    pub taps: Vec<String>,
    /// What it was started with.
    pub started_with: Arc<VmRecord>,
    /// Serves its vsock.
    pub broker: Option<OwnedFd>,
    /// What it says of its Landlock rules.
    pub landlock: Option<bool>,
    /// What it was given after its launch.
    pub granted: Vec<Grant>,
}

/// What a start came to.
#[derive(Debug)]
pub(super) enum Started {
    /// The guest runs.
    Up(Box<Up>),
    /// It ran, and was at its end before anybody could ask.
    Over(Exit),
}

/// How long the answers of a VMM that is gone may take to come out of its socket.
const LAST_ANSWERS: Duration = Duration::from_millis(300);

/// Where a VM's own files are.
pub(super) struct Files {
    directory: PathBuf,
    log_dir: PathBuf,
    id: String,
}

impl Files {
    pub(super) fn new(shared: &Shared, entry: &Entry) -> Self {
        Self {
            directory: shared.launcher.directory(&entry.id),
            log_dir: shared.log_dir.clone(),
            id: entry.id.to_string(),
        }
    }

    /// The vsock's listener.
    fn vsock(&self) -> PathBuf {
        self.directory.join(vsock::SOCKET)
    }

    /// The VM's run directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Which part of the console's log belongs to this run.
    pub(super) fn console_mark(&self) -> PathBuf {
        self.directory.join("console.mark")
    }

    /// The record with which it was started.
    fn started_with(&self) -> PathBuf {
        self.directory.join("started.json")
    }

    /// The VMM's own log.
    pub(super) fn vmm_log(&self) -> PathBuf {
        self.log_dir.join(format!("{}.vmm.log", self.id))
    }

    /// The console's log.
    pub(super) fn console_log(&self) -> PathBuf {
        self.log_dir.join(format!("{}.log", self.id))
    }

    /// Removes what belongs to a run. The launcher removes its own.
    pub(super) fn remove_run(&self) {
        for path in [self.vsock(), self.console_mark(), self.started_with()] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!("{} stays behind: {error}", path.display());
            }
        }
    }

    /// Removes the logs.
    pub(super) fn remove_logs(&self) {
        for log in [self.vmm_log(), self.console_log()] {
            let before = log.with_extension("log.1");
            for path in [log, before] {
                // Most VMs never had the older ones.
                let _ = fs::remove_file(path);
            }
        }
    }

    /// The newest words of the VMM.
    pub(super) fn last_words(&self) -> String {
        let newest = tail(&self.vmm_log(), LAST_WORDS).unwrap_or_default();
        String::from_utf8_lossy(&newest.data).into_owned()
    }
}

/// What was opened for a start.
struct Gathered {
    boot: OpenBoot,
    disks: Vec<OpenDisk>,
    nics: Vec<OpenNic>,
    seed: Option<OwnedFd>,
}

/// Starts a VM.
pub(super) async fn start(
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    record: Arc<VmRecord>,
    timeline: Timeline,
    cancel: CancellationToken,
) -> Result<Started, Failure> {
    let launched = tokio::select! {
        launched = prepare(&shared, &entry, &record, &timeline) => launched?,
        () = cancel.cancelled() => return Err(cancelled()),
    };
    let Prepared { launched, taps, broker } = launched;
    let span = timeline.span("connect");
    let up = up_or_exit(&launched, &record, &cancel).await;
    span.end();
    match up {
        Err(Missed::Exit(exit)) => over_or_failed(&Files::new(&shared, &entry), exit),
        Ok(Reached { client, events, paused, landlock }) => {
            let granted = Vec::new();
            let up = Up { launched, client, events, paused, taps, started_with: record, broker, landlock, granted };
            Ok(Started::Up(Box::new(up)))
        }
        Err(Missed::Failure(failure)) => {
            kill(&launched).await;
            Err(failure)
        }
    }
}

/// Why a VMM that was launched was not reached.
enum Missed {
    Failure(Failure),
    Exit(Exit),
}

async fn up_or_exit(launched: &Launched, record: &VmRecord, cancel: &CancellationToken) -> Result<Reached, Missed> {
    let coming = come_up(launched, record);
    tokio::pin!(coming);
    let exit = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(Missed::Failure(cancelled())),
        up = &mut coming => match up {
            Ok(up) => return Ok(up),
            // Not reached because it is gone?
            Err(failure) => match tokio::time::timeout(LAST_ANSWERS, exit_of(&launched.pidfd)).await {
                Ok(exit) => return Err(Missed::Exit(exit.unwrap_or(Exit::Unknown))),
                Err(_) => return Err(Missed::Failure(failure)),
            },
        },
        exit = exit_of(&launched.pidfd) => exit.unwrap_or(Exit::Unknown),
    };
    match tokio::time::timeout(LAST_ANSWERS, coming).await {
        Ok(Ok(up)) => Ok(up),
        _ => Err(Missed::Exit(exit)),
    }
}

fn cancelled() -> Failure {
    Failure::cancelled("The start was given up because somebody asked for it")
}

/// The guest ran and was quick, or the VMM ended before it ran; then its log says why.
fn over_or_failed(files: &Files, exit: Exit) -> Result<Started, Failure> {
    let words = files.last_words();
    if exit == Exit::Status(0) || exits::panicked(&words) {
        return Ok(Started::Over(exit));
    }
    let ended = exits::exit(exits::Heard::default(), exit, &words);
    Err(Failure::precondition(format!("The guest did not start: {}", ended.message)))
}

/// Ends a VMM that is not wanted, and waits until it is gone.
async fn kill(launched: &Launched) {
    if let Err(error) = pidfd_send_signal(&launched.pidfd, Signal::KILL)
        && error != rustix::io::Errno::SRCH
    {
        tracing::error!(pid = launched.pid, "A VMM cannot be killed: {error}");
    }
    if tokio::time::timeout(GONE, exit_of(&launched.pidfd)).await.is_err() {
        tracing::error!(pid = launched.pid, "A killed VMM is still there after {} s", GONE.as_secs());
    }
}

/// A process that is on its way.
struct Prepared {
    launched: Launched,
    taps: Vec<String>,
    broker: Option<OwnedFd>,
}

/// Everything up to a process.
async fn prepare(
    shared: &Arc<Shared>,
    entry: &Entry,
    record: &Arc<VmRecord>,
    timeline: &Timeline,
) -> Result<Prepared, Failure> {
    {
        let _span = timeline.span("admit");
        shared.admit(&entry.id, &record.spec)?;
    }
    let gathered = gather(shared, record, timeline).await?;
    let span = timeline.span("sockets");
    let files = Files::new(shared, entry);
    make_directory(&files.directory)?;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()
        .map_err(|error| Failure::internal("Cannot make the console's socket", error))?;
    let console = ours.set_nonblocking(true).and_then(|()| UnixStream::from_std(ours));
    let console = console.map_err(|error| Failure::internal("Cannot use the console's socket", error))?;
    let mut plan = plan(record, gathered, &files)?;
    plan.fds.push((SERIAL_FD.to_owned(), theirs.into()));
    let taps = plan.taps;
    span.end();
    let _span = timeline.span("launch");
    entry.console.attach(console, Begin::PowerOn);
    let launched = shared
        .launcher
        .launch(LaunchPlan {
            vm: record.id.clone(),
            slot: record.slot,
            config: plan.config,
            fds: plan.fds,
            limits: limits(record),
            file_bytes_max: None,
            log: plan.log,
        })
        .await?;
    // The memory file system of the run directory takes this in microseconds; without it only `restart_needed` is less exact.
    if let Err(error) =
        serde_json::to_vec(&**record).map_err(io::Error::other).and_then(|bytes| fs::write(files.started_with(), bytes))
    {
        tracing::warn!("{} cannot be written: {error}", files.started_with().display());
    }
    Ok(Prepared { launched, taps, broker: plan.broker })
}

async fn gather(shared: &Shared, record: &VmRecord, timeline: &Timeline) -> Result<Gathered, Failure> {
    let resources = &shared.resources;
    let boot = {
        let _span = timeline.span("boot image");
        resources.open_boot(record).await?
    };
    let mut disks = Vec::with_capacity(record.spec.disks.len());
    {
        let _span = timeline.span("volumes");
        for disk in &record.spec.disks {
            disks.push(resources.open_disk(disk).await?);
        }
    }
    let mut nics = Vec::with_capacity(record.spec.nics.len());
    {
        let _span = timeline.span("network");
        for nic in &record.spec.nics {
            nics.push(resources.plug(record, nic).await?);
        }
    }
    let _span = timeline.span("seed");
    let seed = resources.build_seed(record).await?;
    Ok(Gathered { boot, disks, nics, seed })
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Failure::internal(format!("Cannot make {}", path.display()), error))
}

/// What the launcher gets.
struct Planned {
    config: String,
    fds: Vec<(String, OwnedFd)>,
    taps: Vec<String>,
    log: OwnedFd,
    broker: Option<OwnedFd>,
}

fn plan(record: &VmRecord, gathered: Gathered, files: &Files) -> Result<Planned, Failure> {
    let Gathered { boot, disks, nics, seed } = gathered;
    let opened = Opened { initrd: boot.initrd.is_some(), cmdline: &boot.cmdline, disks: &disks, seed: seed.is_some() };
    let config = machine_config(record, &opened);
    let mut fds = vec![(KERNEL_FD.to_owned(), boot.kernel)];
    fds.extend(boot.initrd.map(|initrd| (INITRD_FD.to_owned(), initrd)));
    fds.extend(seed.map(|seed| (SEED.to_owned(), seed)));
    fds.extend(disks.into_iter().flat_map(|disk| disk.fds));
    let mut taps = Vec::with_capacity(nics.len());
    for (index, nic) in nics.into_iter().enumerate() {
        taps.push(nic.tap);
        fds.extend(nic.fds.into_iter().enumerate().map(|(queue, fd)| (queue_fd(index, queue), fd)));
    }
    let mut broker = None;
    if record.cid().is_some() {
        let vsock = vsock::prepare(&files.directory)
            .map_err(|error| Failure::internal(format!("Cannot listen at {}", files.vsock().display()), error))?;
        fds.extend(vsock.fds);
        broker = Some(vsock.broker);
    }
    Ok(Planned { config, fds, taps, log: vmm_log(&files.vmm_log())?, broker })
}

fn vmm_log(path: &Path) -> Result<OwnedFd, Failure> {
    let full = fs::metadata(path).is_ok_and(|log| log.len() > LOG_BYTES);
    let rotated = if full { fs::rename(path, path.with_extension("log.1")) } else { Ok(()) };
    let opened = rotated.and_then(|()| File::options().create(true).append(true).mode(0o640).open(path));
    opened.map(Into::into).map_err(|error| Failure::internal(format!("Cannot write the log {}", path.display()), error))
}

fn limits(record: &VmRecord) -> CgroupLimits {
    let spec = &record.spec;
    let ordinary = if spec.memory.huge_pages.page_bytes().is_some() { 0 } else { spec.memory.size_bytes };
    CgroupLimits {
        cpu_weight: Some(spec.cpus.weight),
        cpu_quota_percent: spec.cpus.quota_percent,
        cpus: spec.cpus.pinning.as_ref().map(ToString::to_string),
        // Twice the overhead that admission counts: the limit is against a VMM gone wild, not for accounting; page
        // cache of its disks is reclaimed before anybody is killed.
        memory_max_bytes: Some(ordinary + 2 * admission::overhead(spec) + (64 << 20)),
        pids_max: Some(spec.cpus.count + THREADS),
        io: Vec::new(),
    }
}

/// A VMM that answers.
struct Reached {
    client: VmmClient,
    events: EventStream,
    paused: bool,
    landlock: Option<bool>,
}

/// Waits until the guest runs, and sets the limits that the configuration cannot say.
async fn come_up(launched: &Launched, record: &VmRecord) -> Result<Reached, Failure> {
    let spec = &record.spec;
    let gib = u32::try_from(spec.memory.size_bytes >> 30).unwrap_or(u32::MAX);
    let patience = COME_UP + if spec.memory.prefault { PREFAULT_A_GIB.saturating_mul(gib) } else { Duration::ZERO };
    let reached = reach(launched, patience).await?;
    for nic in &spec.nics {
        let limit = nic.limit;
        if limit.operations.is_some() || limit.bytes.is_some() {
            let limited = reached.client.set_rate_limit(nic.id.as_str(), limit.operations, limit.bytes).await;
            limited.map_err(|error| {
                let reason = Failure::from(error).message().to_owned();
                Failure::precondition(format!("NIC {} cannot be limited: {reason}", nic.id))
            })?;
        }
    }
    Ok(reached)
}

async fn reach(launched: &Launched, patience: Duration) -> Result<Reached, Failure> {
    let client = VmmClient::connect(&launched.control)
        .map_err(|error| Failure::unavailable("The VMM cannot be reached").caused_by(error))?;
    let events = client.events(patience).await?;
    let info = match client.info(patience).await {
        Ok(info) => info,
        // It answered before: its guest was quick, and whoever follows the events learns how it ended.
        Err(error) if error.is_disconnected() => return Ok(Reached { client, events, paused: false, landlock: None }),
        Err(error) => return Err(error.into()),
    };
    let landlock = info.sandbox.as_ref().map(|sandbox| sandbox.landlock);
    match info.phase() {
        Phase::Running => Ok(Reached { client, events, paused: false, landlock }),
        Phase::Paused => Ok(Reached { client, events, paused: true, landlock }),
        Phase::Unspecified | Phase::Creating | Phase::Stopped => Err(Failure::unavailable("The VMM is at its end")),
    }
}

/// Takes over a VMM that an earlier daemon started. One that does not answer is asked again until it ends: it is left alone,
/// because its guest may well be working.
pub(super) async fn adopt(
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    record: Arc<VmRecord>,
    launched: Launched,
    cancel: CancellationToken,
) -> Result<Started, Failure> {
    let files = Files::new(&shared, &entry);
    let started_with = started_with(&files).unwrap_or_else(|| record.clone());
    let Reached { client, events, paused, landlock } = loop {
        let again = tokio::select! {
            reached = reach(&launched, COME_UP) => match reached {
                Ok(reached) => break reached,
                Err(failure) => failure,
            },
            exit = exit_of(&launched.pidfd) => return Err(gone(exit)),
            () = cancel.cancelled() => {
                kill(&launched).await;
                return Err(cancelled());
            }
        };
        tracing::warn!(vm = %entry.id, pid = launched.pid, "A running VMM does not answer: {}", again.chain());
        entry.set_status(|status| "Its VMM is there and does not answer".clone_into(&mut status.reason));
        tokio::time::sleep(ASK_AGAIN).await;
    };
    let mut granted = Vec::new();
    match attach_console(&entry, &client).await {
        Ok(grant) => granted.extend(grant),
        Err(failure) => tracing::warn!(vm = %entry.id, "The console of a running VM is not seen: {}", failure.chain()),
    }
    let broker = match started_with.cid() {
        Some(_) => take_broker(&client).await.unwrap_or_else(|failure| {
            tracing::warn!(vm = %entry.id, "A running guest can start no connections: {}", failure.chain());
            None
        }),
        None => None,
    };
    let mut taps = Vec::new();
    for nic in &started_with.spec.nics {
        match shared.resources.replug(&started_with, nic).await {
            Ok(tap) => taps.push(tap),
            Err(failure) => {
                tracing::error!(vm = %entry.id, nic = %nic.id, "A NIC has no filters: {}", failure.chain());
                taps.push(String::new());
            }
        }
    }
    let up = Up { launched, client, events, paused, taps, started_with, broker, landlock, granted };
    Ok(Started::Up(Box::new(up)))
}

fn gone(exit: io::Result<Exit>) -> Failure {
    let exit = exit.unwrap_or(Exit::Unknown);
    Failure::new(FailureKind::Unavailable, format!("The VMM ended ({exit:?}) before it could be taken over"))
}

fn started_with(files: &Files) -> Option<Arc<VmRecord>> {
    let bytes = fs::read(files.started_with()).ok()?;
    serde_json::from_slice(&bytes)
        .inspect_err(|error| tracing::warn!("{} cannot be read: {error}", files.started_with().display()))
        .ok()
        .map(Arc::new)
}

/// The end of the vsock's socket that the VMM keeps for us; it keeps a copy for the next daemon.
async fn take_broker(client: &VmmClient) -> Result<Option<OwnedFd>, Failure> {
    let broker = client.take_fd(vsock::BROKER_FD).await?;
    client.add_fd(vsock::BROKER_FD, &broker).await?;
    Ok(Some(broker))
}

/// Returns what the VMM has now besides what it had.
async fn attach_console(entry: &Entry, client: &VmmClient) -> Result<Option<Grant>, Failure> {
    let pair = std::os::unix::net::UnixStream::pair();
    let (ours, theirs) = pair.map_err(|error| Failure::internal("Cannot make the console's socket", error))?;
    let console = ours.set_nonblocking(true).and_then(|()| UnixStream::from_std(ours));
    let console = console.map_err(|error| Failure::internal("Cannot use the console's socket", error))?;
    let theirs = OwnedFd::from(theirs);
    let grant = FileIdentity::of(&theirs).ok().map(|identity| Grant {
        number: -1,
        name: SERIAL_FD.to_owned(),
        target: format!("socket:[{}]", identity.inode),
        identity: Some(identity),
    });
    let attached = client.attach_console(theirs).await?;
    let begin = Begin::Again { replay_bytes: attached.replay_bytes, lost_bytes: attached.lost_bytes };
    entry.console.attach(console, begin);
    Ok(grant)
}
