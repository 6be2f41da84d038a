//! The promise of the sandbox, looked at from outside: what the kernel says of a running VMM, and what it calls.

use anyhow::{Result, ensure};
use quantix_e2e::{Bench, Case, Expect, SANDBOX_LINE, case};
use quantix_lab::guest::{VSOCK_SOCKET, tool};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);
const TRACE: &str = "/dev/shm/strace.log";

/// No thread may do this after the sandbox is entered.
const FORBIDDEN: [&str; 10] =
    ["open", "openat", "openat2", "creat", "socket", "connect", "execve", "execveat", "fork", "vfork"];

/// What every thread's `status` file has to say.
const STATUS: [(&str, &str); 4] =
    [("NoNewPrivs", "1"), ("Seccomp", "2"), ("CapEff", "0000000000000000"), ("CapBnd", "0000000000000000")];

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("isolation::strace_sees_no_forbidden_call", strace_sees_no_forbidden_call),
        case("isolation::every_thread_is_bound", every_thread_is_bound),
    ]
}

/// With everything that a guest can do to make the VMM want a new descriptor: disk, network, a call to the host by vsock.
fn strace_sees_no_forbidden_call(bench: &Bench) -> Result<()> {
    let listener = format!("UNIX-LISTEN:{VSOCK_SOCKET}_5252,unlink-early");
    let _server = bench.lab.spawn(&tool(&["socat", &listener, "EXEC:/bin/cat"]), Duration::from_mins(5))?;
    let calls = FORBIDDEN.join(",");
    let guest = bench.guest().root(&bench.disks).net().vsock().balloon().test("root,ping,vsock");
    let traced = guest.under(&format!("strace -f -qq -o {TRACE} -e trace=write,{calls}"));
    bench.run(&traced)?.powered_off()?.told("ping", "answered")?;
    let trace = String::from_utf8(bench.lab.get(TRACE)?)?;
    let (before, after) = trace.split_once(SANDBOX_LINE).unwrap_or((&trace, ""));
    ensure!(before.contains("openat("), "strace has seen nothing:\n{before}");
    ensure!(after.contains("write("), "strace has seen nothing after the sandbox line:\n{before}");
    let broken: Vec<_> = after.lines().filter(|line| is_forbidden(line)).collect();
    ensure!(broken.is_empty(), "Called inside the sandbox: {broken:#?}");
    Ok(())
}

/// A line is `PID call(arguments…`.
fn is_forbidden(line: &str) -> bool {
    let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').split('(').next().unwrap_or_default();
    FORBIDDEN.contains(&call)
}

fn every_thread_is_bound(bench: &Bench) -> Result<()> {
    let guest = bench.guest().cpus(2).root(&bench.disks).net().vsock().script("echo READY; $b sleep 600");
    let mut guest = bench.start(&guest)?;
    guest.wait_for("READY", PATIENCE)?;
    let statuses = bench.lab.script("cat /proc/$(pidof quantix-vmm)/task/*/status", PATIENCE)?;
    let threads = statuses.matches("\nState:").count();
    ensure!(threads >= 3, "Two vCPUs and a main thread make at least three: {statuses}");
    for (field, value) in STATUS {
        let bound = statuses.lines().filter(|line| *line == format!("{field}:\t{value}")).count();
        ensure!(bound == threads, "{field} is {value} in {bound} of {threads} threads:\n{statuses}");
    }
    guest.ctl(&["stop"])?;
    bench.end(guest)?.exited(0)?;
    Ok(())
}
