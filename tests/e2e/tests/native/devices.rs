//! Every device on its happy path, the host's side included. All of it in the sandbox, which is the default.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quantix_bench::frames::{self, Port};
use quantix_bench::vsock_peer;
use quantix_e2e::native::{Case, Native, PATIENCE, TAP, case, in_own_network, meanwhile};

use crate::boot::passes;

const MIB: u64 = 64;
const VSOCK_HOST_PORT: u32 = 5000;
const VSOCK_GUEST_PORT: u32 = 5001;

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("disk::raw", |native| passes(native.vm().disk(&native.raw("disk", MIB)?, ""), "blk-verify")),
        case("disk::raw_direct", |native| passes(native.vm().disk(&native.raw("disk", MIB)?, ",direct"), "blk-verify")),
        case("disk::raw_four_queues", |native| {
            passes(native.vm().option("--cpus", "4").disk(&native.raw("disk", MIB)?, ",queues=4"), "blk-verify")
        }),
        case("disk::qcow2", |native| {
            passes(native.vm().disk(&native.qcow2("disk", MIB, None)?, ",format=qcow2"), "blk-verify")
        }),
        case("disk::qcow2_keeps_what_was_written", qcow2_keeps_what_was_written),
        case("disk::qcow2_over_a_backing_file", qcow2_over_a_backing_file),
        case("disk::read_only", read_only),
        case("rng::entropy", |native| passes(native.vm().flag("--rng"), "rng")),
        case("console::echoes_what_is_typed", console_echoes),
        case("net::guest_to_host_and_back", guest_to_host_and_back),
        case("net::host_to_guest_and_back", host_to_guest_and_back),
        case("net::is_limited_while_it_runs", net_is_limited_while_it_runs),
        case("vsock::guest_calls_host", |native| guest_calls_host(native, "vsock-echo")),
        case("vsock::stream_out_of_credit", |native| guest_calls_host(native, "vsock-stream")),
        case("vsock::host_calls_guest", host_calls_guest),
    ]
}

fn qcow2_keeps_what_was_written(native: &Native) -> Result<()> {
    let vm = native.vm().disk(&native.qcow2("disk", MIB, None)?, ",format=qcow2").does("seed=7");
    passes(vm.clone(), "blk-verify")?;
    passes(vm.does("keep=1"), "blk-verify")
}

/// The overlay shows what is below, takes all writes, and the backing file stays as it was.
fn qcow2_over_a_backing_file(native: &Native) -> Result<()> {
    let backing = native.raw("backing", MIB)?;
    passes(native.vm().disk(&backing, "").does("seed=7"), "blk-verify")?;
    let before = std::fs::read(&backing)?;
    let vm = native.vm().disk(&native.qcow2("overlay", MIB, Some(&backing))?, ",format=qcow2");
    passes(vm.clone().does("seed=7 keep=1"), "blk-verify")?;
    passes(vm.does("seed=8"), "blk-verify")?;
    ensure!(std::fs::read(&backing)? == before, "The backing file changed");
    Ok(())
}

fn read_only(native: &Native) -> Result<()> {
    let disk = native.raw("disk", MIB)?;
    passes(native.vm().disk(&disk, "").does("seed=7"), "blk-verify")?;
    let ended = native.vm().disk(&disk, ",readonly").does("test=blk-verify seed=7 keep=1").run()?;
    let line = ended.exited(0)?.passed("blk-verify")?.line("test", "blk-verify")?;
    ensure!(line["read_only"] == true, "{line}");
    Ok(())
}

fn console_echoes(native: &Native) -> Result<()> {
    let socket = native.path("console.sock");
    let vm = native.vm().option("--console", format!("socket={}", socket.display())).does("test=console-echo");
    let running = vm.start()?;
    running.wait_for("ready", 1)?;
    let mut typed = UnixStream::connect(&socket).context("Nobody listens for the console")?;
    typed.set_read_timeout(Some(PATIENCE))?;
    let mut shown = BufReader::new(typed.try_clone()?).lines();
    let long = "0123456789".repeat(200);
    for word in ["first", &long, "quit"] {
        writeln!(typed, "{word}")?;
        let echoed = shown.by_ref().find(|line| !line.as_ref().is_ok_and(|line| line == "hello"));
        let echoed = echoed.context("The console was closed")??;
        ensure!(echoed == word, "{word:?} came back as {echoed:?}");
    }
    running.end()?.exited(0)?.passed("console-echo")?;
    Ok(())
}

fn guest_to_host_and_back(native: &Native) -> Result<()> {
    in_own_network(|| {
        let port = Port::open(TAP, Duration::from_secs(3))?;
        let running = native.vm().option("--net", format!("tap={TAP}")).does("test=net-echo frames=500").start()?;
        running.wait_for("listening", 1)?;
        let echoed = frames::echo(&port)?;
        running.end()?.exited(0)?.passed("net-echo")?;
        ensure!(echoed == 500, "{echoed} frames came");
        Ok(())
    })
}

fn host_to_guest_and_back(native: &Native) -> Result<()> {
    in_own_network(|| {
        let port = Port::open(TAP, PATIENCE)?;
        let running = native.vm().option("--net", format!("tap={TAP}")).does("test=net-answer frames=500").start()?;
        running.wait_for("listening", 1)?;
        frames::check(&port, 500)?;
        running.end()?.exited(0)?.passed("net-answer")?;
        Ok(())
    })
}

/// A limit of the control socket holds from then on, and goes: frames come at its rate, then freely, and none is lost.
fn net_is_limited_while_it_runs(native: &Native) -> Result<()> {
    in_own_network(|| {
        let port = Port::open(TAP, PATIENCE)?;
        let vm = native.vm().option("--net", format!("tap={TAP}")).controlled();
        let running = vm.does("test=net-answer frames=150 wait_ms=60000").start()?;
        running.wait_for("listening", 1)?;
        running.ctl(&["limit", "net0", "--iops", "50"])?;
        let start = Instant::now();
        frames::check(&port, 100)?;
        // 200 frames in both directions at 50 a second, less the burst of a tenth of a second.
        let took = start.elapsed();
        ensure!(took > Duration::from_millis(3500), "200 frames at 50 a second passed in {took:?}");
        running.ctl(&["limit", "net0"])?;
        let start = Instant::now();
        frames::check(&port, 50)?;
        let took = start.elapsed();
        ensure!(took < Duration::from_millis(1500), "Without a limit 100 frames took {took:?}");
        running.end()?.exited(0)?.passed("net-answer")?;
        Ok(())
    })
}

fn guest_calls_host(native: &Native, test: &str) -> Result<()> {
    let (vm, socket) = native.vm().vsock();
    let place = vsock_peer::guest_path(&socket, VSOCK_HOST_PORT);
    let peer = meanwhile(move || vsock_peer::echo(&socket, VSOCK_HOST_PORT));
    while !place.exists() {
        std::thread::yield_now();
    }
    vm.does(&format!("test={test} mib=4")).run()?.exited(0)?.passed(test)?;
    ensure!(peer()? > 0, "Nothing came");
    Ok(())
}

fn host_calls_guest(native: &Native) -> Result<()> {
    let (vm, socket) = native.vm().vsock();
    let running = vm.does("test=vsock-answer").start()?;
    running.wait_for("listening", 1)?;
    meanwhile(move || vsock_peer::check(&socket, VSOCK_GUEST_PORT, 1 << 20))()?;
    running.end()?.exited(0)?.passed("vsock-answer")?;
    Ok(())
}
