//! A Linux host with working KVM, and what can be done to it. The supervisor (its own process) keeps it; a [`Lab`] is a
//! handle that any process may open.

mod qmp;
mod spec;
mod supervisor;

pub(crate) use spec::KERNEL_WORDS;
pub use spec::{Machine, PORTS, RunDirectory, Spec};
pub use supervisor::supervise_if_asked;

use crate::cache::Cache;
use crate::control::frame::Status;
use crate::control::{HELLO_PATIENCE, Outcome, Port, Process};
use crate::error::{IoContext, LabError};
use crate::images::Images;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

/// From QEMU's start to the agent's first answer, on a busy machine; an idle one needs five seconds.
const BOOT_PATIENCE: Duration = Duration::from_mins(2);
const END_PATIENCE: Duration = Duration::from_secs(20);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How much of each log an error shows, in bytes.
const LOG_TAIL: usize = 1500;

impl Spec {
    /// An L1 that ends with this process, on the usual kernel.
    pub fn new(name: &str, images: &Images, cache: &Cache) -> Self {
        Self {
            name: name.into(),
            machine: Machine::Emulated,
            memory_mib: 4096,
            cpus: 2,
            screen: false,
            live: vec![cache.root().to_path_buf()],
            owner: Some(std::process::id()),
            idle_limit_s: None,
            kernel: images.kernel.vmlinux.clone(),
            modules: images.kernel.directory.clone(),
            initramfs: images.l1_initramfs.clone(),
        }
    }
}

/// A running L1.
#[derive(Debug)]
pub struct Lab {
    name: String,
    run: RunDirectory,
    /// The L1 ends when this handle is dropped.
    owned: bool,
}

impl Lab {
    /// Starts an L1 and waits until it answers. It ends when the handle is dropped, or with the owner that `spec` names.
    ///
    /// # Errors
    /// [`LabError::AlreadyUp`]; [`LabError::Gone`] or [`LabError::Hung`] with the ends of the logs when it does not start.
    pub fn start(spec: &Spec) -> Result<Self, LabError> {
        let _start_lock = lock_starts()?;
        sweep()?;
        start_locked(spec)
    }

    /// Opens the L1 that `spec` names, or starts it when there is none. It stays when the handle is dropped.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn start_or_open(spec: &Spec) -> Result<Self, LabError> {
        let _start_lock = lock_starts()?;
        sweep()?;
        match start_locked(spec) {
            Err(LabError::AlreadyUp { .. }) => Self::open(&spec.name),
            other => other.map(Self::keep),
        }
    }

    /// Opens an L1 that is up; it stays when the handle is dropped.
    ///
    /// # Errors
    /// [`LabError::Gone`] when there is none of that name.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let run = run_directory(name);
        if !is_alive(&run) {
            return Err(LabError::Gone { name: name.into(), logs: String::new() });
        }
        Ok(Self { name: name.into(), run, owned: false })
    }

    /// The names of those that are up.
    ///
    /// # Errors
    /// [`LabError::Io`] when the directory of runs cannot be read.
    pub fn list() -> Result<Vec<String>, LabError> {
        Ok(runs()?.into_iter().filter(is_alive).filter_map(|run| name_of(&run)).collect())
    }

    /// Lets the L1 stay when this handle is dropped.
    #[must_use]
    pub fn keep(mut self) -> Self {
        self.owned = false;
        self
    }

    /// Where its sockets and logs are.
    pub fn run_directory(&self) -> &RunDirectory {
        &self.run
    }

    /// Starts a program in L1 and returns while it runs.
    ///
    /// # Errors
    /// [`LabError::Hung`] when no control port answers, [`LabError::Gone`] when L1 has ended.
    pub fn spawn(&self, argv: &[&str], timeout: Duration) -> Result<Process, LabError> {
        Process::start(Port::open(&self.name, &self.run, HELLO_PATIENCE)?, argv, timeout)
    }

    /// Runs a program in L1 to its end.
    ///
    /// # Errors
    /// As [`Lab::spawn`] and [`Process::wait`]; a failing program is not an error.
    pub fn run(&self, argv: &[&str], timeout: Duration) -> Result<Outcome, LabError> {
        let process = self.spawn(argv, timeout)?;
        process.end_input()?;
        process.wait()
    }

    /// Runs a script with `sh` in L1, and gives its standard output.
    ///
    /// # Errors
    /// As [`Lab::run`]; [`LabError::Job`] when the script does not end with 0.
    pub fn script(&self, script: &str, timeout: Duration) -> Result<String, LabError> {
        let outcome = self.run(&["sh", "-euc", script], timeout)?;
        if outcome.status == Status::Exited(0) {
            return Ok(outcome.text());
        }
        let (stdout, stderr) = (outcome.text(), outcome.errors());
        Err(LabError::Job {
            command: script.into(),
            status: format!("{:?}", outcome.status),
            output: format!("{}{}", tail(&stdout), tail(&stderr)),
        })
    }

    /// Writes a file in L1 (in memory: L1's root is an overlay on tmpfs).
    ///
    /// # Errors
    /// As [`Lab::run`]; [`LabError::Job`] when it cannot be written.
    pub fn put(&self, path: &str, content: &[u8]) -> Result<(), LabError> {
        let process = self.spawn(&["sh", "-c", "exec cat > \"$0\"", path], Duration::from_mins(2))?;
        process.input(content)?;
        process.end_input()?;
        expect_success("put", process.wait()?).map(drop)
    }

    /// Reads a file in L1.
    ///
    /// # Errors
    /// As [`Lab::run`]; [`LabError::Job`] when it cannot be read.
    pub fn get(&self, path: &str) -> Result<Vec<u8>, LabError> {
        Ok(expect_success("get", self.run(&["cat", path], Duration::from_mins(2))?)?.stdout)
    }

    /// Makes a TCP port of L1 reachable on this machine's loopback and gives the port here.
    ///
    /// # Errors
    /// [`LabError::Qmp`] when QEMU cannot.
    pub fn forward(&self, port: u16) -> Result<u16, LabError> {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").on("bind", "127.0.0.1:0")?;
        let here = socket.local_addr().on("read the address of", "127.0.0.1:0")?.port();
        drop(socket);
        let mut qmp = qmp::Qmp::connect(&self.run.qmp())?;
        qmp.human(&format!("hostfwd_add tcp:127.0.0.1:{here}-10.0.2.15:{port}"))?;
        Ok(here)
    }

    /// Saves what the screen shows (PPM); the L1 must have been started with a screen.
    ///
    /// # Errors
    /// [`LabError::Qmp`] when it has none.
    pub fn screenshot(&self, file: &Path) -> Result<(), LabError> {
        let mut qmp = qmp::Qmp::connect(&self.run.qmp())?;
        qmp.execute("screendump", &serde_json::json!({ "filename": file })).map(drop)
    }

    /// Pulls the plug: L1 is gone at once, with whatever it had not written.
    ///
    /// # Errors
    /// As [`Lab::down`].
    pub fn power_pull(mut self) -> Result<(), LabError> {
        self.owned = false;
        end(&self.run)
    }

    /// Ends the L1 and clears its run directory. There is nothing in it to keep, so this is a power-pull too.
    ///
    /// # Errors
    /// [`LabError::Io`] when the directory cannot be removed, [`LabError::Hung`] when a process does not end.
    pub fn down(self) -> Result<(), LabError> {
        self.power_pull()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.owned {
            let _ended = end(&self.run);
        }
    }
}

fn expect_success(verb: &str, outcome: Outcome) -> Result<Outcome, LabError> {
    if outcome.status == Status::Exited(0) {
        return Ok(outcome);
    }
    Err(LabError::Job { command: verb.into(), status: format!("{:?}", outcome.status), output: outcome.errors() })
}

fn start_locked(spec: &Spec) -> Result<Lab, LabError> {
    let run = run_directory(&spec.name);
    if is_alive(&run) {
        return Err(LabError::AlreadyUp { name: spec.name.clone() });
    }
    fs::create_dir_all(&run.0).on("create", &run.0)?;
    let text = serde_json::to_vec_pretty(spec).map_err(std::io::Error::from).on("encode", run.spec())?;
    fs::write(run.spec(), text).on("write", run.spec())?;
    let mut supervisor = supervisor::start(&run)?;
    let lab = Lab { name: spec.name.clone(), run, owned: true };
    lab.await_agent(&mut supervisor)?;
    // The supervisor is not ours to wait for: who clears up may be another process.
    thread::spawn(move || supervisor.wait());
    Ok(lab)
}

impl Lab {
    fn await_agent(&self, supervisor: &mut Child) -> Result<(), LabError> {
        let deadline = Instant::now() + BOOT_PATIENCE;
        while !self.run.port(PORTS - 1).exists() {
            let ended = !matches!(supervisor.try_wait(), Ok(None));
            if ended || Instant::now() > deadline {
                return Err(LabError::Gone { name: self.name.clone(), logs: logs(&self.run) });
            }
            thread::sleep(LOOK_AGAIN);
        }
        let patience = deadline.saturating_duration_since(Instant::now());
        Port::open(&self.name, &self.run, patience).map(drop)
    }
}

/// Every L1 of this user has a directory here. The path is short: a socket's name may have 107 bytes.
fn base() -> PathBuf {
    std::env::temp_dir().join(format!("quantix-lab-{}", nix::unistd::getuid()))
}

fn run_directory(name: &str) -> RunDirectory {
    RunDirectory(base().join(name))
}

fn name_of(run: &RunDirectory) -> Option<String> {
    run.0.file_name().map(|name| name.to_string_lossy().into_owned())
}

fn lock_starts() -> Result<File, LabError> {
    let base = base();
    fs::create_dir_all(&base).on("create", &base)?;
    let path = base.join("start.lock");
    let lock = File::create(&path).on("create", &path)?;
    lock.lock().on("lock", &path)?;
    Ok(lock)
}

fn runs() -> Result<Vec<RunDirectory>, LabError> {
    let base = base();
    if !base.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(&base).on("read", &base)?;
    Ok(entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .map(RunDirectory)
        .collect())
}

/// The supervisor holds a lock as long as it lives, whatever becomes of it.
fn is_alive(run: &RunDirectory) -> bool {
    File::open(run.life_lock()).is_ok_and(|file| file.try_lock_shared().is_err())
}

/// Clears away what an L1 left whose supervisor was killed.
fn sweep() -> Result<(), LabError> {
    runs()?.iter().filter(|run| !is_alive(run)).try_for_each(end)
}

/// Kills the processes of a run, if they are still the ones that it started, and removes its directory.
fn end(run: &RunDirectory) -> Result<(), LabError> {
    let processes = fs::read_to_string(run.processes()).unwrap_or_default();
    let ids: Vec<i32> =
        processes.lines().filter_map(|line| line.split(' ').next()).filter_map(|id| id.parse().ok()).collect();
    let deadline = Instant::now() + END_PATIENCE;
    for id in ids {
        while belongs_to(id, run) {
            let _killed = kill(Pid::from_raw(id), Signal::SIGKILL);
            if Instant::now() > deadline {
                let name = name_of(run).unwrap_or_default();
                return Err(LabError::Hung { name, waited_for: format!("killed process {id}"), logs: String::new() });
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
    match fs::remove_dir_all(&run.0) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).on("remove", &run.0),
        _ => Ok(()),
    }
}

/// All of a run's processes have its directory in their arguments; one that has ended has none.
fn belongs_to(id: i32, run: &RunDirectory) -> bool {
    let directory = run.0.as_os_str().as_encoded_bytes();
    fs::read(format!("/proc/{id}/cmdline"))
        .is_ok_and(|line| line.windows(directory.len()).any(|window| window == directory))
}

/// The ends of a run's logs, for an error's text.
pub(crate) fn logs(run: &RunDirectory) -> String {
    let mut text = String::new();
    for label in ["console", "qemu", "here", "supervisor", "share0"] {
        let bytes = fs::read(run.log(label)).unwrap_or_default();
        if !bytes.is_empty() {
            let _infallible = write!(text, "\n--- {label}.log ---\n{}", tail(&String::from_utf8_lossy(&bytes)));
        }
    }
    text
}

fn tail(text: &str) -> &str {
    let start = text.len().saturating_sub(LOG_TAIL);
    let start = (start..text.len()).find(|index| text.is_char_boundary(*index)).unwrap_or_default();
    text.get(start..).unwrap_or_default()
}
