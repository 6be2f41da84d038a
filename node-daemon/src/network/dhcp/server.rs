//! One dnsmasq for one network: started, watched, and started again when it ends. A tokio task each.
//!
//! ```text
//!            pid file appears            it ends
//! Starting ───────────────────► Serving ─────────► Down(why) ── back-off, 0.5 s doubled to 60 s ──► Starting
//!    └──────── it ends, or nothing for 10 s ──────────▲
//! ```
//!
//! It is no child that dies with us: when the daemon stops, guests still get their leases renewed. The next daemon ends
//! the old one, which it knows by the pid file and the command line, and starts its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::error::{NetworkError, NetworkErrorKind};
use super::super::watch::DirWatch;

/// How it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DhcpState {
    /// Not there yet.
    Starting,
    /// Answers guests.
    Serving {
        /// Its process.
        pid: u32,
    },
    /// Ended, or could not start; it is tried again.
    Down(String),
}

/// Files that belong to one server, all in directories of its own.
#[derive(Clone, Debug)]
pub struct ServerFiles {
    /// The program, as it is called.
    pub program: PathBuf,
    /// What it is told.
    pub config: PathBuf,
    /// Written when it serves.
    pub pid: PathBuf,
    /// What it says.
    pub log: PathBuf,
}

/// First wait before another try, and the longest.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// Who served so long may be tried again at once.
const GOOD_RUN: Duration = Duration::from_mins(1);
/// How long it may take to serve, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A supervised dnsmasq. Dropping this ends the supervision, not the process.
#[derive(Debug)]
pub struct DhcpServer {
    state: watch::Receiver<DhcpState>,
    reload: std::sync::Arc<Notify>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl DhcpServer {
    /// Starts one. `told` is notified whenever its state has changed.
    pub fn start(files: ServerFiles, told: std::sync::Arc<Notify>) -> Self {
        let (sender, state) = watch::channel(DhcpState::Starting);
        let (reload, stop) = (std::sync::Arc::new(Notify::new()), CancellationToken::new());
        let supervisor = Supervisor { files, state: sender, told, reload: reload.clone(), stop: stop.clone() };
        Self { state, reload, stop, task: tokio::spawn(supervisor.run()) }
    }

    /// How it stands.
    pub fn state(&self) -> DhcpState {
        self.state.borrow().clone()
    }

    /// Returns when it has come up or gone down, or after the time that this may take.
    pub async fn decided(mut state: watch::Receiver<DhcpState>) {
        let decided = state.wait_for(|state| *state != DhcpState::Starting);
        // Nothing decided in time is what the caller reads from the state afterwards.
        drop(timeout(PATIENCE, decided).await);
    }

    /// For `decided`.
    pub fn watch(&self) -> watch::Receiver<DhcpState> {
        self.state.clone()
    }

    /// Has it read its file of hosts again.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Ends supervision and process.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!("a supervisor of dnsmasq ended badly: {error}");
        }
    }
}

impl Drop for DhcpServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Supervisor {
    files: ServerFiles,
    state: watch::Sender<DhcpState>,
    told: std::sync::Arc<Notify>,
    reload: std::sync::Arc<Notify>,
    stop: CancellationToken,
}

impl Supervisor {
    async fn run(self) {
        let mut wait = FIRST_WAIT;
        loop {
            let begun = Instant::now();
            let reason = match self.serve().await {
                Ok(Some(reason)) => reason,
                Ok(None) => return,
                Err(error) => error.chain(),
            };
            tracing::warn!(config = %self.files.config.display(), "dnsmasq: {reason}");
            self.tell(DhcpState::Down(reason));
            if begun.elapsed() >= GOOD_RUN {
                wait = FIRST_WAIT;
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(wait) => {}
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    fn tell(&self, state: DhcpState) {
        self.state.send_replace(state);
        self.told.notify_one();
    }

    /// Runs it once. Returns why it ended, or nothing when it was told to.
    async fn serve(&self) -> Result<Option<String>, NetworkError> {
        end_leftover(&self.files).await?;
        let mut child = self.spawn()?;
        tokio::select! {
            status = child.wait() => return Ok(Some(self.ended(status))),
            up = timeout(PATIENCE, self.up()) => {
                let Ok(up) = up else {
                    self.end(&mut child).await;
                    return Ok(Some(format!("It did not begin to serve within {} s", PATIENCE.as_secs())));
                };
                up.map_err(NetworkError::io("Cannot wait for dnsmasq's pid file"))?;
            }
            () = self.stop.cancelled() => {
                self.end(&mut child).await;
                return Ok(None);
            }
        }
        self.tell(DhcpState::Serving { pid: child.id().unwrap_or_default() });
        loop {
            tokio::select! {
                status = child.wait() => return Ok(Some(self.ended(status))),
                () = self.reload.notified() => signal(&child, Signal::HUP),
                () = self.stop.cancelled() => {
                    self.end(&mut child).await;
                    return Ok(None);
                }
            }
        }
    }

    fn spawn(&self) -> Result<Child, NetworkError> {
        // A new file each time, so that it does not grow for ever.
        let log = File::create(&self.files.log)
            .map_err(NetworkError::io(format!("Cannot write {}", self.files.log.display())))?;
        Command::new(&self.files.program)
            .arg("--keep-in-foreground")
            .arg(format!("--conf-file={}", self.files.config.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            // A Ctrl-C for the daemon is not for it.
            .process_group(0)
            .spawn()
            .map_err(|e| match e.kind() {
                io::ErrorKind::NotFound => NetworkError::new(
                    NetworkErrorKind::Missing,
                    "The program dnsmasq is missing, and without it guests get no addresses: install dnsmasq-base",
                ),
                _ => NetworkError::io("Cannot start dnsmasq")(e),
            })
    }

    /// Returns when the pid file is there.
    async fn up(&self) -> io::Result<()> {
        let directory = self.files.pid.parent().unwrap_or(Path::new("/"));
        let watch = DirWatch::new()?;
        watch.add(directory)?;
        while read_pid(&self.files.pid).is_none() {
            watch.changed().await?;
        }
        Ok(())
    }

    async fn end(&self, child: &mut Child) {
        signal(child, Signal::TERM);
        if timeout(PATIENCE, child.wait()).await.is_err()
            && let Err(error) = child.kill().await
        {
            tracing::error!("cannot end dnsmasq: {error}");
        }
        remove(&self.files.pid);
    }

    /// Why it ended, in its own last words.
    fn ended(&self, status: io::Result<ExitStatus>) -> String {
        let how = status.map_or_else(|e| format!("its end is not known: {e}"), |status| status.to_string());
        let log = fs::read_to_string(&self.files.log).unwrap_or_default();
        match log.lines().rfind(|line| !line.trim().is_empty()) {
            Some(words) => format!("It ended ({how}): {}", words.chars().take(200).collect::<String>().trim()),
            None => format!("It ended ({how})"),
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    // No id: it has ended and was waited for.
    if let Some(Err(error)) = pid.map(|pid| rustix::process::kill_process(pid, signal)) {
        tracing::warn!("cannot signal dnsmasq: {error}");
    }
}

fn read_pid(file: &Path) -> Option<Pid> {
    fs::read_to_string(file).ok()?.trim().parse().ok().and_then(Pid::from_raw)
}

fn remove(file: &Path) {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!("cannot remove {}: {error}", file.display());
        }
        _ => {}
    }
}

/// Ends a dnsmasq that an earlier daemon left for these files, and removes its pid file.
pub async fn end_leftover(files: &ServerFiles) -> Result<(), NetworkError> {
    let Some(pid) = read_pid(&files.pid) else { return Ok(()) };
    let failed = || NetworkError::io(format!("Cannot end the dnsmasq of before, process {}", pid.as_raw_nonzero()));
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(failed()(error.into())),
        // The pid may be somebody else's by now; it cannot change any more while we hold the descriptor.
        Ok(fd) if is_ours(pid, &files.config) => end_process(fd).await.map_err(failed())?,
        Ok(_) => {}
    }
    remove(&files.pid);
    Ok(())
}

fn is_ours(pid: Pid, config: &Path) -> bool {
    let wanted = format!("--conf-file={}", config.display());
    fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()))
        .is_ok_and(|line| line.split(|b| *b == 0).any(|word| word == wanted.as_bytes()))
}

async fn end_process(fd: OwnedFd) -> io::Result<()> {
    pidfd_send_signal(&fd, Signal::TERM)?;
    // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and the `AsyncFd` owns it.
    let fd = unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE) }?;
    if timeout(PATIENCE, fd.readable()).await.is_err() {
        pidfd_send_signal(fd.get_ref(), Signal::KILL)?;
        drop(timeout(PATIENCE, fd.readable()).await);
    }
    Ok(())
}
