//! What `strace` sees of a VMM at work: after it said that the sandbox is entered, no thread opens, connects or executes.

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, ensure};
use quantix_bench::frames::{self, Port};
use quantix_bench::vsock_peer;
use quantix_e2e::native::{Case, Ended, Native, PATIENCE, TAP, case, in_own_network, meanwhile};
use quantix_vmm::sandbox::usage::Usage;

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
    vec![case("sandbox::strace_sees_no_denied_call_and_no_superfluous_one", strace_sees_what_the_lists_have)]
}

/// Every device works, the guest resets once, every command of the control socket is given: all of it with `strace`
/// watching. No thread makes a call that it must not, and no list has an entry that nothing of this needs.
fn strace_sees_what_the_lists_have(native: &Native) -> Result<()> {
    let trace = native.path("trace");
    in_own_network(|| at_work(native, &trace))?;
    let trace = std::fs::read_to_string(trace).context("strace wrote nothing")?;
    let mut lines = trace.lines().skip_while(|line| !line.contains(ENTERED));
    ensure!(lines.next().is_some(), "The sandbox line is not in the trace");
    let calls: Vec<_> = lines.filter_map(|line| Some((call(line)?, line))).collect();
    ensure!(calls.len() > 100, "The trace ends after {} calls: nothing was at work", calls.len());
    // The broker is a process of its own: it connects for the guest.
    let forbidden = |(call, line): &&(&str, &str)| DENIED.contains(call) && !line.contains("<vsock-broker>");
    let denied: Vec<_> = calls.iter().filter(forbidden).map(|(_, line)| *line).collect();
    ensure!(denied.is_empty(), "After {ENTERED:?}:\n{}", denied.join("\n"));
    let mut usage = Usage::default();
    let ours: Vec<_> = trace.lines().filter(|line| !line.contains("<vsock-broker>")).collect();
    usage.add(&ours.join("\n"));
    ensure!(usage.strangers().is_empty(), "In no list:\n{}", usage.strangers().join("\n"));
    let superfluous = usage
        .superfluous()
        .map(|(role, entry)| format!("{role:?} {} [{}] => {}", entry.name, entry.spelling, entry.reason));
    let superfluous: Vec<_> = superfluous.collect();
    ensure!(
        superfluous.is_empty(),
        "Nothing needed these entries; strike them out, or say Seldom:\n{}",
        superfluous.join("\n")
    );
    Ok(())
}

fn at_work(native: &Native, trace: &std::path::Path) -> Result<()> {
    let words = ["strace", "-f", "--decode-pids=comm", "-s", "80", "-o"].map(OsStr::new);
    let (vm, socket) = native.vm().disk(&native.raw("disk", 64)?, ",queues=2,iops=2000").vsock();
    let vm = vm.disk(&native.qcow2("disk.qcow2", 64, None)?, ",format=qcow2").option("--cpus", "2");
    let console = native.path("console.sock");
    let vm = vm.option("--net", format!("tap={TAP}")).flag("--rng").flag("--balloon").controlled();
    let vm = vm.option("--console", format!("socket={}", console.display())).flag("--reboot");
    let tests = "test=blk-verify,rng,net-answer,vsock-answer,vsock-echo mib=2 frames=50 wait_ms=60000 after=idle";
    let port = Port::open(TAP, PATIENCE)?;
    let running = vm.does(tests).under(&[&words[..], &[trace.as_os_str()]].concat()).start()?;
    for round in 1..=2 {
        let callers_socket = socket.clone();
        let peer = meanwhile(move || vsock_peer::echo(&callers_socket, 5000));
        running.wait_for("listening", 2 * round - 1)?;
        running.ctl(&["limit", "net0", "--iops", "500"])?;
        frames::check(&port, 50)?;
        running.wait_for("listening", 2 * round)?;
        let host_side = socket.clone();
        meanwhile(move || vsock_peer::check(&host_side, 5001, 64 << 10))()?;
        running.wait_for(r#""test":"vsock-echo""#, round)?;
        peer()?;
        let viewer = UnixStream::connect(&console).context("Nobody listens for the console")?;
        for command in COMMANDS {
            running.ctl(command)?;
        }
        drop(viewer);
        if round == 1 {
            running.ctl(&["reset"])?;
        }
    }
    running.ctl(&["stop"])?;
    let ended = running.end()?.exited(0)?;
    ["blk-verify", "rng", "net-answer", "vsock-answer", "vsock-echo"].into_iter().try_fold(ended, Ended::passed)?;
    Ok(())
}

/// What the control socket is asked while the guest rests.
const COMMANDS: &[&[&str]] = &[
    &["info"],
    &["pause"],
    &["stats"],
    &["resume"],
    &["power-button"],
    &["balloon", "16M"],
    &["limit", "disk0", "--iops", "1000"],
    &["add-fd", "null", "/dev/null"],
    &["take-fd", "null"],
    &["console", "--past"],
    &["timeline"],
];

/// The name of the call in `PID<THREAD> NAME(…`; nothing for signals, ends, and the second half of a call.
fn call(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("> ")?;
    let (name, _) = rest.trim_start().split_once('(')?;
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then_some(name)
}
