//! How each group is measured: one call is one run of one contender.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Bench;
use super::contender::Contender::{self, Bare, QemuThreads, QemuUring, Quantix};
use super::contender::{GUEST_MIB, Guest};
use super::guest::Running;
use crate::frames::{self, Port};
use crate::vsock_peer;

const LOAD: &str = "ms=400 warm_ms=100";
const BLOCK: &str = "blk-randread-qd1,blk-randread-qd32,blk-randwrite-qd1,blk-seqread-128k-qd8,blk-seqwrite-128k-qd8";

/// Who takes part in a group.
pub fn contenders(group: &str) -> Vec<Contender> {
    match group {
        "start" | "twenty" => vec![Bare, Quantix, QemuUring],
        "blk" => vec![Quantix, QemuUring, QemuThreads],
        "vsock" => vec![Quantix],
        _ => vec![Quantix, QemuUring],
    }
}

/// One run of one contender.
pub fn measure(bench: &mut Bench, group: &str, contender: Contender) -> Result<()> {
    match group {
        "start" => start(bench, contender),
        "twenty" => twenty(bench, contender),
        "memory" => memory(bench, contender),
        "blk" => block(bench, contender),
        "exits" => exits(bench, contender),
        "net" => net(bench, contender),
        "vsock" => vsock(bench, contender),
        _ => bail!("No group is called {group}"),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn start(bench: &mut Bench, contender: Contender) -> Result<()> {
    for (row, cpus) in [("spawn to READY, 1 vCPU", 1), ("spawn to READY, 2 vCPUs", 2)] {
        if contender == Bare && cpus > 1 {
            continue;
        }
        let guest = Guest { cpus, words: "after=idle", ..Guest::default() };
        let time = Running::spawn(bench.programs.command(contender, &guest))?.ready()?;
        bench.record(row, contender, milliseconds(time));
    }
    Ok(())
}

fn twenty(bench: &mut Bench, contender: Contender) -> Result<()> {
    let guest = Guest { words: "after=off", ..Guest::default() };
    let started = std::time::Instant::now();
    let all = (0..20)
        .map(|_| Running::spawn(bench.programs.command(contender, &guest)).map(|vm| (started.elapsed(), vm)))
        .collect::<Result<Vec<_>>>()?;
    let mut last = Duration::ZERO;
    for (offset, vm) in &all {
        // A spawn's own time is in the reading of the clock before it only for the first; the offset is after it.
        last = last.max(*offset + vm.ready()?);
    }
    drop(all);
    bench.record("20 VMs at once, all READY", contender, milliseconds(last));
    Ok(())
}

fn memory(bench: &mut Bench, contender: Contender) -> Result<()> {
    let mebibytes = |kib: u64| kib as f64 / 1024.0;
    let kib = GUEST_MIB * 1024;
    let guest = Guest { words: "after=idle", ..Guest::default() };
    let vm = Running::spawn(bench.programs.command(contender, &guest))?;
    vm.ready()?;
    let (bare, _) = vm.footprint(kib)?;
    drop(vm);
    bench.record("memory beyond guest, bare (RSS)", contender, mebibytes(bare.rss_kib));
    bench.record("memory beyond guest, bare (PSS)", contender, mebibytes(bare.pss_kib));

    let tap = bench.tap.context("There is no tap")?;
    let disk = bench.disk.clone();
    let words = "bench=blk-randread-qd32,net-tx-1514 ms=50 warm_ms=10 after=idle";
    let vm = Running::spawn(
        bench.programs.command(contender, &Guest { disk: Some(&disk), tap: Some(tap), words: "after=idle", ..guest }),
    )?;
    vm.ready()?;
    let (idle, idle_threads) = vm.footprint(kib)?;
    drop(vm);
    let vm = Running::spawn(
        bench.programs.command(contender, &Guest { disk: Some(&disk), tap: Some(tap), words, ..guest }),
    )?;
    vm.ready()?;
    while vm.next()?.context("The guest ended early")?.1["bench"] != "net-tx-1514" {}
    let (busy, busy_threads) = vm.footprint(kib)?;
    bench.record("memory beyond guest, disk + NIC (RSS)", contender, mebibytes(idle.rss_kib));
    bench.record("memory beyond guest, disk + NIC (PSS)", contender, mebibytes(idle.pss_kib));
    bench.record("memory beyond guest, after I/O (RSS)", contender, mebibytes(busy.rss_kib));
    bench.record("threads, idle", contender, idle_threads as f64);
    bench.record("threads, after I/O", contender, busy_threads as f64);
    Ok(())
}

/// Runs the guest to its end and gives every line that is a bench's result to `each`.
fn results(vm: &Running, mut each: impl FnMut(&str, &Value) -> Result<()>) -> Result<()> {
    let mut count = 0;
    while let Some((_, line)) = vm.next()? {
        if let Some(name) = line["bench"].as_str() {
            count += 1;
            each(name, &line)?;
        }
    }
    if count == 0 {
        bail!("The guest measured nothing");
    }
    Ok(())
}

fn number(line: &Value, field: &str) -> Result<f64> {
    line[field].as_f64().with_context(|| format!("No {field} in {line}"))
}

fn known(name: &str) -> Result<&'static super::rows::Row> {
    super::rows::ROWS.iter().find(|row| row.name == name).with_context(|| format!("No row is called {name}"))
}

/// Records the rate of a result in its row's unit, and its median latency if there is a row for it.
fn record_rate(bench: &mut Bench, contender: Contender, name: &str, line: &Value) -> Result<()> {
    let row = known(name)?;
    let figure = match row.unit {
        "GB/s" => number(line, "bytes")? / number(line, "seconds")? / 1e9,
        _ => number(line, "ops_per_s")? / 1e3,
    };
    bench.record(row.name, contender, figure);
    if known(&format!("{name} p50")).is_ok() {
        record_latency(bench, contender, name, line)?;
    }
    Ok(())
}

fn record_latency(bench: &mut Bench, contender: Contender, name: &str, line: &Value) -> Result<()> {
    let row = known(&format!("{name} p50"))?;
    bench.record(row.name, contender, number(line, "p50_ns")? / 1e3);
    Ok(())
}

fn block(bench: &mut Bench, contender: Contender) -> Result<()> {
    let disk = bench.disk.clone();
    let words = format!("bench={BLOCK} {LOAD}");
    let guest = Guest { disk: Some(&disk), words: &words, ..Guest::default() };
    let vm = Running::spawn(bench.programs.command(contender, &guest))?;
    results(&vm, |name, line| record_rate(bench, contender, name, line))
}

fn exits(bench: &mut Bench, contender: Contender) -> Result<()> {
    let disk = bench.disk.clone();
    let words = format!("bench=pio,mmio,notify {LOAD}");
    let guest = Guest { disk: Some(&disk), words: &words, ..Guest::default() };
    let vm = Running::spawn(bench.programs.command(contender, &guest))?;
    results(&vm, |name, line| record_latency(bench, contender, name, line))
}

fn net(bench: &mut Bench, contender: Contender) -> Result<()> {
    // How soon the echoing peer notices that it is to end; no frame waits for it.
    const NOTICE: Duration = Duration::from_millis(50);
    let tap = bench.tap.context("There is no tap")?;
    for name in ["net-tx-64", "net-tx-1514", "net-rx-64", "net-rx-1514", "net-rtt"] {
        let words = format!("bench={name} {LOAD}");
        let guest = Guest { tap: Some(tap), words: &words, ..Guest::default() };
        // Before the guest is: its first frame would be lost on a port that is opened too late, and it sends no second one.
        let port = Port::open(tap, NOTICE)?;
        let vm = Running::spawn(bench.programs.command(contender, &guest))?;
        vm.ready()?;
        let over = Arc::new(AtomicBool::new(false));
        let peer = match name {
            "net-rtt" => {
                let over = over.clone();
                Some(std::thread::spawn(move || frames::echo_until(&port, &over)))
            }
            "net-rx-64" | "net-rx-1514" => {
                while vm.next()?.context("The guest ended early")?.1["event"] != "listening" {}
                let length = if name == "net-rx-64" { 64 } else { 1514 };
                // Longer than the guest counts, so that the flood is there from begin to end.
                Some(std::thread::spawn(move || frames::flood(&port, length, Duration::from_millis(800))))
            }
            _ => None,
        };
        let outcome = results(&vm, |name, line| match name {
            "net-rtt" => record_latency(bench, contender, name, line),
            _ => record_rate(bench, contender, name, line),
        });
        over.store(true, Ordering::Release);
        drop(vm);
        if let Some(peer) = peer {
            // A flood into a tap whose VMM has just gone may fail: the guest has its figures by then.
            let _ = peer.join();
        }
        outcome.with_context(|| format!("In {name}"))?;
    }
    Ok(())
}

fn vsock(bench: &mut Bench, contender: Contender) -> Result<()> {
    const PORT: u32 = 5000;
    let socket = bench.directory.path().join("vsock");
    // Left by the run before.
    let _ = std::fs::remove_file(&socket);
    let words = format!("bench=vsock-rtt {LOAD}");
    let peer_socket = socket.clone();
    let peer = std::thread::spawn(move || vsock_peer::echo(&peer_socket, PORT));
    while !vsock_peer::guest_path(&socket, PORT).exists() && !peer.is_finished() {
        std::thread::yield_now();
    }
    let guest = Guest { vsock: Some(&socket), words: &words, ..Guest::default() };
    let vm = Running::spawn(bench.programs.command(contender, &guest))?;
    results(&vm, |name, line| record_latency(bench, contender, name, line))
}
