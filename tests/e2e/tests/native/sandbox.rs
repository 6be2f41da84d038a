//! What `strace` sees of a VMM at work: after it said that the sandbox is entered, no thread opens, connects or executes.

use std::ffi::OsStr;

use anyhow::{Context, Result, ensure};
use quantix_bench::frames::{self, Port};
use quantix_bench::vsock_peer;
use quantix_e2e::native::{Case, Ended, Native, PATIENCE, TAP, case, in_own_network, meanwhile};

const ENTERED: &str = "Sandbox entered";
const DENIED: &[&str] = &[
    "connect",
    "creat",
    "execve",
    "execveat",
    "fork",
    "io_uring_setup",
    "open",
    "open_by_handle_at",
    "openat",
    "openat2",
    "ptrace",
    "socket",
    "socketpair",
    "vfork",
];

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![case("sandbox::strace_sees_no_denied_call", strace_sees_no_denied_call)]
}

/// Every device works, the guest resets once, the control socket is used: all of it with `strace` watching.
fn strace_sees_no_denied_call(native: &Native) -> Result<()> {
    let trace = native.path("trace");
    in_own_network(|| at_work(native, &trace)?.exited(0).map(drop))?;
    let trace = std::fs::read_to_string(trace).context("strace wrote nothing")?;
    let mut lines = trace.lines().skip_while(|line| !line.contains(ENTERED));
    ensure!(lines.next().is_some(), "The sandbox line is not in the trace");
    let calls: Vec<_> = lines.filter_map(|line| Some((call(line)?, line))).collect();
    ensure!(calls.len() > 100, "The trace ends after {} calls: nothing was at work", calls.len());
    let denied: Vec<_> = calls.iter().filter(|(call, _)| DENIED.contains(call)).map(|(_, line)| *line).collect();
    ensure!(denied.is_empty(), "After {ENTERED:?}:\n{}", denied.join("\n"));
    Ok(())
}

fn at_work(native: &Native, trace: &std::path::Path) -> Result<Ended> {
    let words = ["strace", "-f", "-s", "80", "-o"].map(OsStr::new);
    let (vm, socket) = native.vm().disk(&native.raw("disk", 64)?, "").vsock();
    let vm = vm.option("--net", format!("tap={TAP}")).flag("--rng").controlled();
    let tests = "test=blk-verify,rng,net-answer,vsock-answer mib=2 frames=50 wait_ms=60000 after=idle";
    let port = Port::open(TAP, PATIENCE)?;
    let running = vm.does(tests).under(&[&words[..], &[trace.as_os_str()]].concat()).start()?;
    running.wait_for("listening", 1)?;
    frames::check(&port, 50)?;
    running.wait_for("listening", 2)?;
    meanwhile(move || vsock_peer::check(&socket, 5001, 64 << 10))()?;
    running.wait_for("vsock-answer", 1)?;
    for action in ["pause", "stats", "resume", "stop"] {
        running.ctl(&[action])?;
    }
    let ended = running.end()?;
    ["blk-verify", "rng", "net-answer", "vsock-answer"].into_iter().try_fold(ended, Ended::passed)
}

/// The name of the call in `PID NAME(…`; nothing for signals, ends, and the second half of a call.
fn call(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once(' ')?;
    let (name, _) = rest.trim_start().split_once('(')?;
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(name)
}
