//! A daemon in directories of its own, and what the kernel says of it. Ends with its handle.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::compare::statistics::overhead;

/// From the daemon's start to its socket.
const PATIENCE: Duration = Duration::from_secs(20);

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon.
    pub node: PathBuf,
    /// The VMM that it starts.
    pub vmm: PathBuf,
}

/// A running daemon.
pub struct Daemon {
    child: Child,
    place: TempDir,
}

/// Memory of a process.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// Resident set, in MiB.
    pub rss_mib: f64,
    /// Its proportional share, in MiB.
    pub pss_mib: f64,
}

impl Daemon {
    /// Starts one and waits for its socket.
    ///
    /// # Errors
    /// When it ends or does not listen in time; the error holds its log.
    pub fn start(programs: &Programs) -> Result<Self> {
        let place = tempfile::tempdir()?;
        let log = place.path().join("daemon.log");
        let output = fs::File::create(&log)?;
        let directory = |name: &str| place.path().join(name);
        fs::write(directory("node.toml"), CONFIG)?;
        let child = Command::new(&programs.node)
            .arg("run")
            .args(["--config".as_ref(), directory("node.toml").as_os_str()])
            .args(["--state-dir".as_ref(), directory("state").as_os_str()])
            .args(["--run-dir".as_ref(), directory("run").as_os_str()])
            .args(["--log-dir".as_ref(), directory("log").as_os_str()])
            .args(["--grpc", "127.0.0.1:0", "--rest", "127.0.0.1:0"])
            .args(["--vmm".as_ref(), programs.vmm.as_os_str()])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .with_context(|| format!("Cannot start {}", programs.node.display()))?;
        let mut daemon = Self { child, place };
        let deadline = Instant::now() + PATIENCE;
        while !daemon.socket().exists() {
            if daemon.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("The daemon does not listen:\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(daemon)
    }

    /// The local socket.
    pub fn socket(&self) -> PathBuf {
        self.place.path().join("run/node.sock")
    }

    /// Its memory now.
    ///
    /// # Errors
    /// When it is gone.
    pub fn memory(&self) -> Result<Memory> {
        // No mapping of the daemon is a guest's.
        let sum = overhead(&smaps(self.child.id())?, u64::MAX);
        Ok(Memory { rss_mib: sum.rss_kib as f64 / 1024.0, pss_mib: sum.pss_kib as f64 / 1024.0 })
    }

    /// The share of one CPU that it takes during `time`, from 0 to 1.
    ///
    /// # Errors
    /// When it is gone.
    pub async fn cpu_share(&self, time: Duration) -> Result<f64> {
        let before = cpu_time(self.child.id())?;
        tokio::time::sleep(time).await;
        Ok((cpu_time(self.child.id())? - before) / time.as_secs_f64())
    }

    /// What a VMM of this daemon keeps in memory besides its guest's, on average, in MiB (PSS).
    ///
    /// # Errors
    /// When there is none.
    pub fn vmm_overhead_mib(&self, guest_bytes: u64) -> Result<f64> {
        let mut sizes = Vec::new();
        for entry in fs::read_dir("/proc")?.filter_map(Result::ok) {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            // A process may end while it is looked at.
            if name.trim() == "quantix-vmm"
                && let Ok(text) = smaps(pid)
            {
                sizes.push(overhead(&text, guest_bytes >> 10).pss_kib as f64 / 1024.0);
            }
        }
        anyhow::ensure!(!sizes.is_empty(), "There is no process quantix-vmm");
        Ok(sizes.iter().sum::<f64>() / sizes.len() as f64)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Its VMs were deleted; what a failed run leaves ends with this.
        let _ended = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _reaped = self.child.wait();
    }
}

/// No network: the guests have none, and the host's is not to be touched.
const CONFIG: &str = "[network]\ndefault_network = false\n";

fn smaps(pid: u32) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/smaps")).with_context(|| format!("Process {pid} is gone"))
}

/// Seconds of CPU time.
fn cpu_time(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(Path::new(&path))?;
    // After the name in brackets; utime and stime are fields 14 and 15 of the whole line (proc(5)).
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|index| fields.get(*index)?.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

/// What the kernel could still give to programs, in MiB.
///
/// # Errors
/// When `/proc/meminfo` cannot be read.
pub fn available_memory_mib() -> Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")).context("No MemAvailable")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
