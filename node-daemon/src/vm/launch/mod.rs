//! Starts one VMM for one VM, in a jail of its own, and finds it again after a restart of the daemon.
//!
//! ```text
//!  daemon (any task)                          stage (own process, one thread)         child
//!  run directory, control socket, /dev/kvm
//!  configuration in a sealed memfd
//!  control group with its limits
//!  Order + descriptors ─────────────────────► clone3: user, mount, pid, net, ipc,
//!                                             uts namespaces, in the control group ─► waits
//!  pid, pidfd ◄────────────────────────────── limits, score, id maps, go ───────────► session, cgroup namespace,
//!  launch record                                                                      own names, keyring, user;
//!                                                                                     no capability, no file but
//!  end of file ◄───────────────────────────────────────────────────────────────────── those named; execveat
//! ```
//!
//! The VMM is a child of the daemon (`CLONE_PARENT`), so its status and signal are known; when the daemon ends, it
//! goes on, and the next daemon finds it by the launch record in its run directory. Descriptors are numbered from 3 in the
//! order: `status` (its own status file), `control`, `kvm`, then those of the plan. The configuration must say `"api_socket": "fd:control"`.
//!
//! Async, any task; blocking calls are made on the blocking pool. Must not decide whether a VM shall run, and must not talk
//! to the VMM.

mod clone;
mod error;
mod exit;
mod jail;
mod record;
pub mod stage;
mod steps;
mod watched;
mod wire;

pub use error::LaunchError;
pub use exit::{Exit, exit_of};
pub use record::{FileIdentity, Grant, LaunchRecord, ResourceLimit};
pub use steps::Step;
pub(in crate::vm) use watched::watched;

/// The user and group of a VMM inside its own namespace.
pub(in crate::vm) const INSIDE_ID: u32 = jail::INSIDE;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, socketpair};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::model::Id;

use super::cgroup::{Cgroup, CgroupLimits, CgroupTree};
use record::start_ticks;
use wire::{Answer, FIXED_FDS, MOST_FDS, Order};

/// Name under which the VMM gets its control socket.
pub const CONTROL_FD: &str = "control";
/// Name under which the VMM gets `/dev/kvm`.
pub const KVM_FD: &str = "kvm";
/// Name under which the VMM gets the status file of its main thread.
pub const STATUS_FD: &str = "status";
/// The control socket's file in a VM's run directory.
pub const CONTROL_SOCKET: &str = "control.sock";

/// Ids of the host that belong to one VM. It uses the first of them; the rest is room for what a VM may need later.
const IDS_PER_VM: u32 = 65_536;
/// How long the way from the order to the executed program may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// VMMs go before anything else of the host when memory runs out, and before their guests' neighbours when they are larger.
const OOM_SCORE_ADJ: i32 = 200;

/// Resource, its name in `/proc/PID/limits`, value.
const RESOURCE_LIMITS: [(u32, &str, u64); 8] = [
    (libc::RLIMIT_CORE, "Max core file size", 0),
    (libc::RLIMIT_NOFILE, "Max open files", 4096),
    // Threads of its own user, which has no other process.
    (libc::RLIMIT_NPROC, "Max processes", 512),
    // Buffers that io_uring pins, and rings.
    (libc::RLIMIT_MEMLOCK, "Max locked memory", 64 << 20),
    (libc::RLIMIT_MSGQUEUE, "Max msgqueue size", 0),
    (libc::RLIMIT_SIGPENDING, "Max pending signals", 1024),
    (libc::RLIMIT_NICE, "Max nice priority", 0),
    (libc::RLIMIT_RTPRIO, "Max realtime priority", 0),
];
/// As above; its value is the plan's.
const FILE_SIZE_LIMIT: (u32, &str) = (libc::RLIMIT_FSIZE, "Max file size");

/// What does not change from VM to VM.
#[derive(Clone, Debug)]
pub struct LaunchSettings {
    /// The daemon's run directory; a VM's own is `vm/ID` in it.
    pub run_dir: PathBuf,
    /// The VMM: a static program.
    pub vmm: PathBuf,
    /// The program that has the launcher stage: the daemon itself.
    pub stage: PathBuf,
    /// First id of the host that belongs to VMs; slot N has the 65,536 ids from `id_base + N * 65536`.
    pub id_base: u32,
    /// Name of the slice in which the VMs' control groups are.
    pub slice: String,
}

impl LaunchSettings {
    /// The usual ones, for a daemon that runs from its own program file.
    pub fn new(run_dir: PathBuf, vmm: PathBuf) -> Self {
        // Above all ids that people, services and container managers use.
        let id_base = 0x7000_0000;
        let slice = slice_of(&run_dir);
        Self { run_dir, vmm, stage: "/proc/self/exe".into(), id_base, slice }
    }
}

/// The name of the slice. A daemon that starts ends every VM of its slice that it does not know, so a daemon with another
/// run directory has another slice.
fn slice_of(run_dir: &Path) -> String {
    use sha2::Digest as _;
    use std::os::unix::ffi::OsStrExt as _;
    if run_dir == Path::new("/run/quantix") {
        return "quantix.slice".to_owned();
    }
    let digest = sha2::Sha256::digest(run_dir.as_os_str().as_bytes());
    let number = digest.iter().take(6).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    format!("quantix-{number:012x}.slice")
}

/// One VMM to be started.
#[derive(Debug)]
pub struct LaunchPlan {
    /// Whose it is.
    pub vm: Id,
    /// Number of the VM's own range of ids; no two VMs that run may share one.
    pub slot: u32,
    /// Configuration of the VMM, JSON.
    pub config: String,
    /// What the VMM is given, by name; beside these it gets `control` and, unless it is here, `kvm`.
    pub fds: Vec<(String, OwnedFd)>,
    /// What it may use.
    pub limits: CgroupLimits,
    /// Largest size of a file that it may write to, in bytes: that of its largest disk. `None`: no limit.
    pub file_bytes_max: Option<u64>,
    /// Where its standard error goes.
    pub log: OwnedFd,
}

/// A VMM that runs.
#[derive(Debug)]
pub struct Launched {
    /// Process id in the daemon's pid namespace.
    pub pid: u32,
    /// The process; see [`exit_of`].
    pub pidfd: OwnedFd,
    /// Path of the control socket.
    pub control: PathBuf,
    /// What it was given, for the isolation receipt.
    pub record: LaunchRecord,
}

/// Starts VMMs. Clones share one stage.
#[derive(Clone, Debug)]
pub struct Launcher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: LaunchSettings,
    tree: CgroupTree,
    stage: Mutex<Option<Stage>>,
}

/// The stage's process, and the way to it. Dropping it ends it.
#[derive(Debug)]
struct Stage {
    orders: Option<OwnedFd>,
    process: Child,
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Without its socket it ends; a stage that hangs must not keep the daemon.
        drop(self.orders.take());
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What is made for a launch, and taken back when that fails.
struct Made {
    directory: PathBuf,
    cgroup: Option<Cgroup>,
    process: Option<OwnedFd>,
    keep: bool,
}

impl Drop for Made {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        if let Some(pidfd) = &self.process {
            let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
            let _ = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        }
        remove(&self.directory, self.cgroup.as_ref());
    }
}

/// Takes down what a launch made.
fn remove(directory: &Path, cgroup: Option<&Cgroup>) {
    for file in LaunchRecord::FILES {
        let _ = fs::remove_file(directory.join(file));
    }
    // Not empty when other rooms have files of the VM there: then it is theirs.
    let _ = fs::remove_dir(directory);
    if let Some(Err(error)) = cgroup.map(Cgroup::remove) {
        tracing::warn!("A control group stays behind: {error}: {}", error.source);
    }
}

impl Launcher {
    /// Prepares for launches: finds the control group hierarchy and starts the stage.
    ///
    /// # Errors
    /// The slice cannot be made, or the stage not be started.
    pub fn open(settings: LaunchSettings) -> Result<Self, LaunchError> {
        let tree = CgroupTree::open(&settings.slice).map_err(cgroup_failed)?;
        let stage = Mutex::new(Some(spawn_stage(&settings)?));
        Ok(Self { inner: Arc::new(Inner { settings, tree, stage }) })
    }

    /// A VM's own run directory. It need not exist.
    pub fn directory(&self, vm: &Id) -> PathBuf {
        self.inner.settings.run_dir.join("vm").join(vm.as_str())
    }

    /// Starts a VMM. When this returns, the program was executed; whether it likes its configuration shows at the
    /// control socket, or by its end.
    ///
    /// # Errors
    /// A step failed; nothing of it is left. Also when the future is dropped.
    pub async fn launch(&self, plan: LaunchPlan) -> Result<Launched, LaunchError> {
        let inner = self.inner.clone();
        let directory = self.directory(&plan.vm);
        let ordered = tokio::task::spawn_blocking(move || inner.order(&plan, directory)).await;
        let Ordered { mut made, answer, mut record } = ordered.map_err(|e| lost(e.into()))??;
        let answer = watched(answer, Interest::READABLE).map_err(LaunchError::at(Step::Order, ""))?;
        let (pid, pidfd) = match next(&answer).await? {
            Some((Answer::Started { pid }, fds)) => (pid, fds.into_iter().next()),
            Some((Answer::Failed(failure), _)) => return Err(failure.into()),
            None => return Err(lost(io::ErrorKind::UnexpectedEof.into())),
        };
        let pidfd = pidfd.ok_or_else(|| lost(io::Error::from_raw_os_error(libc::EMFILE)))?;
        made.process = Some(pidfd.try_clone().map_err(lost)?);
        record.pid = pid.cast_unsigned();
        // The process waits for, or works on, its way to the program: it is there to be asked.
        record.start_ticks = start_ticks(record.pid).unwrap_or_default();
        record.grants.push(Grant::status(record.pid));
        let directory = made.directory.clone();
        record.write(&directory).map_err(LaunchError::at(Step::Record, directory.display().to_string()))?;
        if let Some((Answer::Failed(failure), _)) = next(&answer).await? {
            return Err(failure.into());
        }
        made.keep = true;
        Ok(Launched { pid: record.pid, pidfd, control: directory.join(CONTROL_SOCKET), record })
    }

    /// Finds the VMM of a VM that an earlier daemon started. `None` when it does not run any more; then nothing was cleaned.
    pub fn adopt(&self, vm: &Id) -> Option<Launched> {
        let directory = self.directory(vm);
        let record = LaunchRecord::read(&directory).filter(|record| record.vm == *vm)?;
        let pid = Pid::from_raw(record.pid.cast_signed())?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Asked after the pidfd is there: were the number another process's by now, its start would tell.
        (start_ticks(record.pid) == Some(record.start_ticks)).then_some(())?;
        Some(Launched { pid: record.pid, pidfd, control: directory.join(CONTROL_SOCKET), record })
    }

    /// Takes down what a launch made, when the VMM has ended. Kills what may still be in its control group.
    pub async fn clean(&self, vm: &Id) {
        let (launcher, vm) = (self.clone(), vm.clone());
        let work = move || {
            let cgroup = launcher.inner.tree.find(&vm, &CgroupLimits::default());
            remove(&launcher.directory(&vm), cgroup.as_ref());
        };
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::warn!("Cleaning up after a VMM did not end well: {error}");
        }
    }

    /// Takes down what is left of launches of all VMs but these. For the start of the daemon.
    pub async fn sweep(&self, keep: BTreeSet<Id>) {
        let launcher = self.clone();
        let work = move || {
            let swept = launcher.inner.tree.sweep(&keep);
            let mut directories = 0;
            for entry in fs::read_dir(launcher.inner.settings.run_dir.join("vm")).into_iter().flatten().flatten() {
                let id = entry.file_name().to_str().and_then(|name| Id::try_from(name).ok());
                if id.is_some_and(|id| !keep.contains(&id)) {
                    remove(&entry.path(), None);
                    directories += 1;
                }
            }
            if swept + directories > 0 {
                tracing::info!("Swept {swept} control groups and {directories} run directories of VMs that are gone");
            }
        };
        if let Err(error) = tokio::task::spawn_blocking(work).await {
            tracing::warn!("Sweeping left-overs did not end well: {error}");
        }
    }
}

/// An order that is on its way.
struct Ordered {
    made: Made,
    answer: OwnedFd,
    record: LaunchRecord,
}

impl Inner {
    /// Makes everything that a launch needs, and sends the order.
    fn order(&self, plan: &LaunchPlan, directory: PathBuf) -> Result<Ordered, LaunchError> {
        let owner = self.owner(plan)?;
        let program = open_program(&self.settings.vmm)?;
        let kvm = if plan.fds.iter().any(|(name, _)| name == KVM_FD) { None } else { Some(open_kvm()?) };
        let config = sealed(&plan.config).map_err(LaunchError::at(Step::Config, ""))?;
        make_directory(&directory)?;
        let mut made = Made { directory, cgroup: None, process: None, keep: false };
        made.cgroup = self.tree.create(&plan.vm, &plan.limits).map_err(cgroup_failed)?;
        let group = made.cgroup.as_ref().map(Cgroup::open).transpose().map_err(cgroup_failed)?;
        let control = listener(&made.directory.join(CONTROL_SOCKET))?;
        let mut named: Vec<(&str, BorrowedFd<'_>)> = vec![(CONTROL_FD, control.as_fd())];
        named.extend(kvm.iter().map(|kvm| (KVM_FD, kvm.as_fd())));
        named.extend(plan.fds.iter().map(|(name, fd)| (name.as_str(), fd.as_fd())));
        let limits = resource_limits(plan.file_bytes_max);
        let order = Order {
            owner,
            arguments: arguments(named.iter().map(|(name, _)| *name)),
            limits: limits.iter().map(|(resource, _, value)| (*resource, *value)).collect(),
            oom_score_adj: OOM_SCORE_ADJ,
            cgroup: group.is_some(),
        };
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (answer, theirs) = pair.map_err(LaunchError::at(Step::Order, ""))?;
        rustix::io::ioctl_fionbio(&answer, true).map_err(LaunchError::at(Step::Order, ""))?;
        let group = group.as_ref().map_or(theirs.as_fd(), OwnedFd::as_fd);
        let mut fds = vec![theirs.as_fd(), group, program.as_fd(), config.as_fd(), plan.log.as_fd()];
        fds.extend(named.iter().map(|(_, fd)| *fd));
        let grants = grants(&config, &plan.log, &named).map_err(LaunchError::at(Step::Descriptors, ""))?;
        self.send(&order, &fds)?;
        let record = LaunchRecord {
            vm: plan.vm.clone(),
            pid: 0,
            start_ticks: 0,
            owner,
            cgroup: made.cgroup.as_ref().map(|group| group.name.clone()),
            missing_limits: made.cgroup.iter().flat_map(|group| &group.missing).map(|&name| name.to_owned()).collect(),
            resource_limits: limits
                .iter()
                .map(|(_, name, value)| ResourceLimit { name: (*name).to_owned(), value: *value })
                .collect(),
            oom_score_adj: OOM_SCORE_ADJ,
            program: FileIdentity::of(&program).map_err(LaunchError::at(Step::Program, ""))?,
            grants,
        };
        Ok(Ordered { made, answer, record })
    }

    /// The VM's own user and group. Refuses a plan that no launch can serve.
    fn owner(&self, plan: &LaunchPlan) -> Result<u32, LaunchError> {
        let names: BTreeSet<&str> = plan.fds.iter().map(|(name, _)| name.as_str()).collect();
        if names.len() != plan.fds.len() || names.contains(CONTROL_FD) || names.contains(STATUS_FD) {
            return Err(LaunchError::plan("two descriptors have one name"));
        }
        if plan.fds.len() + FIXED_FDS + 3 > MOST_FDS {
            let most = MOST_FDS - FIXED_FDS - 2;
            return Err(LaunchError::plan(format!("{} descriptors; a VM can be given {most}", plan.fds.len())));
        }
        let first = plan.slot.checked_mul(IDS_PER_VM).and_then(|offset| offset.checked_add(self.settings.id_base));
        // The last id of all means "no id".
        first
            .filter(|first| first.checked_add(IDS_PER_VM).is_some())
            .ok_or_else(|| LaunchError::plan(format!("slot {} has no ids", plan.slot)))
    }

    /// Sends an order to the stage; starts it anew when it is gone.
    fn send(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> Result<(), LaunchError> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(orders) = stage.as_ref().and_then(|stage| stage.orders.as_ref()) {
            match wire::send(orders, order, fds) {
                Ok(()) => return Ok(()),
                Err(error)
                    if !matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN)) =>
                {
                    return Err(LaunchError::new(Step::Order, "", error));
                }
                Err(error) => tracing::warn!("The launcher stage has ended and is started again: {error}"),
            }
        }
        *stage = None;
        let fresh = stage.insert(spawn_stage(&self.settings)?);
        let orders = fresh.orders.as_ref().ok_or_else(|| lost(io::ErrorKind::NotConnected.into()))?;
        wire::send(orders, order, fds).map_err(LaunchError::at(Step::Order, ""))
    }
}

/// The stage did not answer.
fn lost(source: io::Error) -> LaunchError {
    LaunchError::new(Step::Order, "", source)
}

fn cgroup_failed(error: super::cgroup::CgroupError) -> LaunchError {
    LaunchError::new(Step::Cgroup, format!("{}, {}", error.path.display(), error.doing), error.source)
}

/// The next answer; `None` at the end.
async fn next(answer: &AsyncFd<OwnedFd>) -> Result<Option<(Answer, Vec<OwnedFd>)>, LaunchError> {
    let read = answer.async_io(Interest::READABLE, |socket| wire::receive::<Answer>(socket));
    match tokio::time::timeout(DEADLINE, read).await {
        Ok(result) => result.map_err(lost),
        Err(_) => Err(lost(io::ErrorKind::TimedOut.into())),
    }
}

/// Starts the stage. The standard library does so without copying this process's memory or running code in a copy of it.
fn spawn_stage(settings: &LaunchSettings) -> Result<Stage, LaunchError> {
    let failed = || settings.stage.display().to_string();
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (orders, theirs) = pair.map_err(LaunchError::at(Step::Stage, failed()))?;
    let process = Command::new(&settings.stage)
        .arg(stage::SUBCOMMAND)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(LaunchError::at(Step::Stage, failed()))?;
    Ok(Stage { orders: Some(orders), process })
}

fn open_program(path: &Path) -> Result<OwnedFd, LaunchError> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    file.map_err(LaunchError::at(Step::Program, path.display().to_string()))
}

fn open_kvm() -> Result<OwnedFd, LaunchError> {
    rustix::fs::open("/dev/kvm", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(LaunchError::at(Step::Kvm, ""))
}

/// The run directory of one VM; only the daemon may look into it.
fn make_directory(path: &Path) -> Result<(), LaunchError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(LaunchError::at(Step::Directory, path.display().to_string()))
}

/// A text in memory that nobody can change any more.
fn sealed(text: &str) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("vmm-config", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut left = text.as_bytes();
    while !left.is_empty() {
        let count = rustix::io::write(&file, left)?;
        left = left.get(count..).unwrap_or_default();
    }
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SEAL | SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK)?;
    Ok(file)
}

/// The control socket. What an earlier run left at its path is replaced: the directory is ours alone.
fn listener(path: &Path) -> Result<OwnedFd, LaunchError> {
    let made = || -> io::Result<OwnedFd> {
        let _ = fs::remove_file(path);
        let socket = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        listen(&socket, 16)?;
        Ok(socket)
    };
    made().map_err(LaunchError::at(Step::Control, path.display().to_string()))
}

fn resource_limits(file_bytes_max: Option<u64>) -> Vec<(u32, &'static str, u64)> {
    let mut limits = RESOURCE_LIMITS.to_vec();
    limits.extend(file_bytes_max.map(|bytes| (FILE_SIZE_LIMIT.0, FILE_SIZE_LIMIT.1, bytes)));
    limits
}

/// The VMM's command line: everything but the names of its files is in the configuration.
fn arguments<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut arguments: Vec<String> = ["quantix-vmm", "run", "--config", "-"].map(str::to_owned).to_vec();
    for (number, name) in (3..).zip(std::iter::once(STATUS_FD).chain(names)) {
        arguments.push("--fd".to_owned());
        arguments.push(format!("{name}={number}"));
    }
    arguments
}

/// What the VMM gets, by number.
fn grants(config: &OwnedFd, log: &OwnedFd, named: &[(&str, BorrowedFd<'_>)]) -> io::Result<Vec<Grant>> {
    let standard = [("config", config.as_fd()), ("log", log.as_fd()), ("log", log.as_fd())];
    // The child puts its status file between them.
    (0..3)
        .chain(4..)
        .zip(standard.iter().chain(named))
        .map(|(number, (name, fd))| Grant::of(number, name, *fd))
        .collect()
}
