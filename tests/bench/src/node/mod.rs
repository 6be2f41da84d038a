//! What the node daemon costs: from a call to a running VM, two hundred VMs on one node, and the API with them there. The
//! daemon is a real one in directories of its own, its guests are payloads that sleep, its client speaks gRPC over the local
//! socket. Runs on one thread of an async runtime.

#![allow(clippy::cast_precision_loss, reason = "kibibytes and counts are far below 2^52")]

mod calls;
mod daemon;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

pub use daemon::{Daemon, Programs};
pub use report::{Figures, is_met, json, table};

use calls::Calls;

/// Guest memory of every VM, in bytes.
const GUEST_MEMORY: u64 = 64 << 20;
/// So many are started at a time where the rate is measured.
const AT_ONCE: usize = 4;

/// What is measured, and how often.
#[derive(Debug, Clone)]
pub struct Order {
    /// The programs under test.
    pub programs: Programs,
    /// The guest.
    pub payload: PathBuf,
    /// VMs created and started one after another.
    pub starts: usize,
    /// VMs that run at the same time.
    pub crowd: usize,
    /// Calls of each kind with the crowd there.
    pub calls: usize,
}

/// Measures everything, with a daemon of its own.
///
/// # Errors
/// When the daemon does not start, or a call fails.
pub async fn measure(order: &Order) -> Result<Figures> {
    let daemon = Daemon::start(&order.programs)?;
    let calls = Calls::connect(daemon.socket()).await.context("The daemon does not answer")?;
    calls.upload_kernel(&order.payload).await.context("The payload cannot be uploaded")?;
    let mut figures = Figures { crowd: order.crowd, ..Figures::default() };
    // One to warm up: the first start of a program reads it from disk.
    create_one(&calls, "warm-up").await?;
    for index in 0..order.starts {
        figures.start_ms.push(create_one(&calls, &format!("start-{index}")).await?);
    }
    crowd(&daemon, &calls, order, &mut figures).await?;
    Ok(figures)
}

/// Milliseconds from the call to the answer that the VM runs; then it is deleted.
async fn create_one(calls: &Calls, name: &str) -> Result<f64> {
    let start = Instant::now();
    calls.create_and_start(name, GUEST_MEMORY).await?;
    let milliseconds = start.elapsed().as_secs_f64() * 1e3;
    calls.delete(name).await?;
    Ok(milliseconds)
}

async fn crowd(daemon: &Daemon, calls: &Calls, order: &Order, figures: &mut Figures) -> Result<()> {
    figures.daemon_alone_mib = daemon.memory()?.pss_mib;
    let before = daemon::available_memory_mib()?;
    let start = Instant::now();
    let names: Vec<String> = (0..order.crowd).map(|index| format!("crowd-{index:03}")).collect();
    let mut lanes = Vec::new();
    for lane in 0..AT_ONCE {
        let mine: Vec<String> = names.iter().skip(lane).step_by(AT_ONCE).cloned().collect();
        let calls = calls.clone();
        lanes.push(tokio::spawn(async move {
            for name in mine {
                calls.create_and_start(&name, GUEST_MEMORY).await?;
            }
            anyhow::Ok(())
        }));
    }
    for lane in lanes {
        lane.await??;
    }
    figures.start_rate = order.crowd as f64 / start.elapsed().as_secs_f64();
    // What the kernel frees and merges a moment later shall count.
    tokio::time::sleep(Duration::from_secs(2)).await;
    figures.vm_cost_mib = (before - daemon::available_memory_mib()?) / order.crowd as f64;
    figures.vmm_pss_mib = daemon.vmm_overhead_mib(GUEST_MEMORY)?;
    let (mut get, mut list) = (Vec::new(), Vec::new());
    for index in 0..order.calls {
        let name = &names[index % names.len()];
        let start = Instant::now();
        calls.get(name).await?;
        get.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        let found = calls.list().await?;
        list.push(start.elapsed().as_secs_f64() * 1e3);
        ensure!(found == order.crowd, "{found} of {} VMs are listed", order.crowd);
    }
    (figures.get_ms, figures.list_ms) = (get, list);
    let memory = daemon.memory()?;
    (figures.daemon_rss_mib, figures.daemon_pss_mib) = (memory.rss_mib, memory.pss_mib);
    figures.daemon_idle_cpu = daemon.cpu_share(Duration::from_secs(5)).await?;
    for name in &names {
        calls.delete(name).await?;
    }
    Ok(())
}
