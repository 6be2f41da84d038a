//! The whole comparison: quantix-vmm, a bare KVM program and QEMU microvm, the same guest, in turns, in one run.
//!
//! The calling thread starts one guest after another and waits for it; only network and vsock peers are threads. It
//! moves into a network namespace of its own, so the tap ends with the process however that ends.

#![allow(clippy::cast_precision_loss, reason = "kibibytes, threads and CPUs are far below 2^52")]

pub mod contender;
mod groups;
pub mod guest;
pub mod report;
pub mod rows;
pub mod statistics;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use contender::{Contender, Programs};
use statistics::{Summary, summary};

/// The groups, in the order in which they are measured.
pub const GROUPS: &[&str] = &["start", "twenty", "memory", "blk", "exits", "net", "vsock"];
const DISK_MIB: usize = 256;
const TAP: &str = "bench0";

/// What to compare.
pub struct Request {
    /// quantix-vmm.
    pub vmm: PathBuf,
    /// The payload's ELF file.
    pub payload: PathBuf,
    /// Measured runs; one more comes first and does not count.
    pub runs: usize,
    /// Only these groups; all if empty.
    pub only: Vec<String>,
}

/// What came out.
pub struct Comparison {
    /// Measured runs.
    pub runs: usize,
    /// Load averages (one minute) at start and end.
    pub load: (f64, f64),
    /// Share of the host's CPU time that others used in the second before the first run, 0 to 1.
    pub busy: f64,
    /// Figures by row name and contender.
    pub figures: BTreeMap<(&'static str, Contender), Summary>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

/// All that the groups need.
struct Bench {
    programs: Programs,
    directory: tempfile::TempDir,
    disk: PathBuf,
    tap: Option<&'static str>,
    figures: BTreeMap<(&'static str, Contender), Vec<f64>>,
    warm_up: bool,
}

impl Bench {
    fn record(&mut self, row: &'static str, contender: Contender, figure: f64) {
        if !self.warm_up {
            self.figures.entry((row, contender)).or_default().push(figure);
        }
    }
}

/// Measures everything that was asked for.
///
/// # Errors
///
/// If a group has no such name or the disk cannot be made. What cannot be measured is no error but listed.
pub fn measure(request: &Request) -> Result<Comparison> {
    ensure!(request.runs > 0, "No runs were asked for");
    if let Some(unknown) = request.only.iter().find(|name| !GROUPS.contains(&name.as_str())) {
        anyhow::bail!("No group is called {unknown}; there are {}", GROUPS.join(", "));
    }
    let mut missing = Vec::new();
    let tap = match make_tap() {
        Ok(()) => Some(TAP),
        Err(error) => {
            missing.push(format!("network: {error:#}"));
            None
        }
    };
    let before = load_average()?;
    let busy = busy_share()?;
    if busy > report::QUIET {
        eprintln!("{}", report::noise(busy));
    }
    let mut bench = prepare(request, tap)?;
    for group in GROUPS.iter().filter(|group| request.only.is_empty() || request.only.iter().any(|name| name == *group))
    {
        run_group(&mut bench, group, request.runs, &mut missing);
    }
    let figures = bench.figures.iter().filter_map(|(key, figures)| Some((*key, summary(figures)?))).collect();
    Ok(Comparison { runs: request.runs, load: (before, load_average()?), busy, figures, missing })
}

/// In turns, run by run; whoever fails once is out of this group.
fn run_group(bench: &mut Bench, group: &str, runs: usize, missing: &mut Vec<String>) {
    let mut contenders = groups::contenders(group);
    for run in 0..=runs {
        bench.warm_up = run == 0;
        contenders.retain(|contender| match groups::measure(bench, group, *contender) {
            Ok(()) => true,
            Err(error) => {
                missing.push(format!("{group}, {contender:?}, run {run}: {error:#}"));
                false
            }
        });
    }
}

fn prepare(request: &Request, tap: Option<&'static str>) -> Result<Bench> {
    let directory = tempfile::tempdir().context("Cannot make a directory for the disk")?;
    let disk = directory.path().join("disk.img");
    let mut file = File::create(&disk).context("Cannot make the disk")?;
    let chunk = vec![0x5a; 1 << 20];
    (0..DISK_MIB).try_for_each(|_| file.write_all(&chunk)).context("Cannot fill the disk")?;
    // Written back now, so that it is not written back while others are measured.
    file.sync_all().context("Cannot write the disk")?;
    let programs = Programs {
        bench: std::env::current_exe().context("Cannot find this program")?,
        vmm: request.vmm.clone(),
        payload: request.payload.clone(),
    };
    Ok(Bench { programs, directory, disk, tap, figures: BTreeMap::new(), warm_up: true })
}

fn make_tap() -> Result<()> {
    // SAFETY: no pointers; only this thread and those that it starts later are moved.
    let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    ensure!(moved == 0, "Cannot make a network namespace: {}", std::io::Error::last_os_error());
    let quiet = format!("/proc/sys/net/ipv6/conf/{TAP}/disable_ipv6");
    for line in [format!("tuntap add {TAP} mode tap"), format!("link set {TAP} up")] {
        let status = Command::new("ip").args(line.split(' ')).status().context("Cannot start ip")?;
        ensure!(status.success(), "ip {line} ended with {status}");
        // Router solicitations are not part of the load; a kernel without IPv6 has none.
        let _ = std::fs::write(&quiet, "1");
    }
    Ok(())
}

fn load_average() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").context("Cannot read the load average")?;
    text.split(' ').next().and_then(|word| word.parse().ok()).context("The load average is no number")
}

/// What share of a second's CPU time, over all CPUs, somebody used while this program did nothing.
fn busy_share() -> Result<f64> {
    let (idle, all) = cpu_ticks()?;
    // A measurement of a second, not a wait for something.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let (idle, all) = (cpu_ticks()?.0 - idle, cpu_ticks()?.1 - all);
    Ok(1.0 - (idle as f64 / (all as f64).max(1.0)).clamp(0.0, 1.0))
}

/// Ticks of all CPUs since the start of the host: idle or waiting for a disk, and in all.
fn cpu_ticks() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").context("Cannot read /proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    let idle = ticks.iter().skip(3).take(2).sum();
    // Guest time, the last two, is counted in the first two as well.
    Ok((idle, ticks.iter().take(8).sum()))
}
