//! The launcher stage: the small program that makes the VMMs' processes.
//!
//! The daemon has many threads, so it must not fork. It executes itself once as `quantix-node __launch`, and this is what
//! runs then: one thread, no async runtime, an empty root directory, hardly a capability, deaf for everything but orders on
//! its standard input. A VMM is made from it by one `clone3`, in a millisecond, because nothing has to be loaded first
//! and the empty root is there already. It ends when the daemon does.
//!
//! ```text
//!  start: session, groups, /proc kept open, empty root, capabilities ──► wait for an order ◄──────────────┐
//!                                                                            │                            │
//!                       clone3 ─────────── child: waits for its go           │                            │
//!                          │                  │                                                           │
//!          limits, score, id maps, "go" ────► jail::enter ──► VMM                                         │
//!                          │                                                                              │
//!                pid and pidfd to the daemon ─────────────────────────────────────────────────────────────┘
//! ```
//!
//! Must not allocate anything that lasts, must not start a thread, must not interpret what it hands on.

use std::ffi::CString;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::process::ExitCode;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use rustix::process::{Pid, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::Step;
use super::clone::{Side, clone};
use super::jail::{self, Prison};
use super::wire::{self, Answer, FIXED_FDS, Order, StageFailure};

/// The hidden subcommand.
pub const SUBCOMMAND: &str = "__launch";

/// What writing the maps of a child takes, and raising its limits.
const KEPT: CapabilitySet = CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::SYS_RESOURCE);

/// The stage, if this process was started to be it. To be called first in `main`, before any thread is started.
pub fn requested() -> Option<ExitCode> {
    (std::env::args_os().nth(1)? == SUBCOMMAND).then(run)
}

/// Serves orders until the daemon is gone.
fn run() -> ExitCode {
    // SAFETY: the daemon passes its socket as standard input, and nothing in this process has used that yet.
    let orders = unsafe { OwnedFd::from_raw_fd(0) };
    // SAFETY: as above; beside the standard streams nothing is in use, so what else was inherited is a stray.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    let ready = prepare();
    loop {
        match wire::receive::<Order>(&orders) {
            Ok(Some((order, fds))) => serve(ready.as_ref(), &order, fds),
            Ok(None) => return ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("quantix-node {SUBCOMMAND}: the daemon's orders cannot be received: {error}");
                return ExitCode::FAILURE;
            }
        }
    }
}

fn at(step: Step) -> impl Fn(rustix::io::Errno) -> StageFailure {
    move |errno| StageFailure { step, errno: errno.raw_os_error() }
}

fn because(step: Step, error: &io::Error) -> StageFailure {
    StageFailure { step, errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
}

/// Makes this process what its children start as. Returns `/proc`, by which it reaches them.
fn prepare() -> Result<OwnedFd, StageFailure> {
    let _ = rustix::process::setsid();
    let _ = rustix::thread::set_name(c"quantix-launch");
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let proc = rustix::fs::open("/proc", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at(Step::Stage))?;
    rustix::thread::set_thread_groups(&[]).map_err(at(Step::Ids))?;
    empty_root().map_err(at(Step::EmptyRoot))?;
    let held = rustix::thread::capabilities(None).map_err(at(Step::Privileges))?.permitted;
    let kept = held & KEPT;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).map_err(at(Step::Privileges))?;
    Ok(proc)
}

/// A mount namespace that holds one empty, read-only directory. What a child inherits of it is a copy that it
/// cannot change, because it belongs to a less privileged user namespace.
fn empty_root() -> rustix::io::Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)
        .map_err(|e| rustix::io::Errno::from_raw_os_error(e as i32))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("mode", "0555"), ("size", "4k"), ("nr_inodes", "1")] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_set_flag(&context, "ro")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root lies on top of the new one now; it goes with everything below it.
    unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")
}

/// One order. What fails is told to whoever gave it; the stage goes on.
fn serve(ready: Result<&OwnedFd, &StageFailure>, order: &Order, mut fds: Vec<OwnedFd>) {
    if fds.is_empty() {
        return;
    }
    let answer = fds.remove(0);
    let told = match ready.map_err(Clone::clone).and_then(|proc| start(proc, order, fds, &answer)) {
        Ok((pid, pidfd)) => {
            let told = wire::send(&answer, &Answer::Started { pid }, &[pidfd.as_fd()]);
            if told.is_err() {
                // Nobody waits for it any more, so nobody would look after it.
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            }
            told
        }
        Err(failure) => wire::send(&answer, &Answer::Failed(failure), &[]),
    };
    if let Err(error) = told {
        eprintln!("quantix-node {SUBCOMMAND}: the daemon does not hear how a launch went: {error}");
    }
}

/// Makes the process, and gives it what only its parent can.
fn start(proc: &OwnedFd, order: &Order, fds: Vec<OwnedFd>, answer: &OwnedFd) -> Result<(i32, OwnedFd), StageFailure> {
    let mut fds = fds.into_iter();
    let (Some(cgroup), Some(program), Some(input), Some(log)) = (fds.next(), fds.next(), fds.next(), fds.next()) else {
        return Err(StageFailure { step: Step::Plan, errno: libc::EBADF });
    };
    let described = |error: io::Error| because(Step::Descriptors, &error);
    let arguments: Result<Vec<CString>, _> = order.arguments.iter().map(|one| CString::new(one.as_str())).collect();
    let mut files = vec![input, log.try_clone().map_err(described)?, log];
    files.extend(fds);
    let prison = Prison {
        program,
        arguments: arguments.map_err(|_| StageFailure { step: Step::Plan, errno: libc::EINVAL })?,
        files,
        answer: answer.try_clone().map_err(described)?,
        cgroup: order.cgroup,
    };
    let (mut wait, mut go) = io::pipe().map_err(described)?;
    let group = order.cgroup.then(|| cgroup.as_fd());
    match clone(group).map_err(|error| because(Step::Clone, &error))? {
        Side::Child => {
            drop(go);
            // Without a go the parent has failed and told so.
            if wait.read_exact(&mut [0]).is_ok() {
                let (failure, answer) = jail::enter(prison, proc);
                // SAFETY: `enter` says that its answer socket is open at this number, and nothing else is done with it.
                let answer = unsafe { BorrowedFd::borrow_raw(answer) };
                // A daemon that is gone needs no answer.
                let _ = wire::send(answer, &Answer::Failed(failure), &[]);
            }
            jail::leave()
        }
        Side::Parent { pid, pidfd } => {
            let adopted = adopt(proc, pid, order);
            if let Err(failure) = adopted {
                let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
                return Err(failure);
            }
            let _ = go.write_all(&[1]);
            Ok((pid, pidfd))
        }
    }
}

/// Limits, score and ids of the child, which waits.
fn adopt(proc: &OwnedFd, pid: i32, order: &Order) -> Result<(), StageFailure> {
    for (resource, value) in &order.limits {
        limit(pid, *resource, *value).map_err(|error| because(Step::Limits, &error))?;
    }
    let write = |step: Step, file: &str, text: String| {
        let path = format!("{pid}/{file}");
        let file = rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).map_err(at(step))?;
        rustix::io::write(&file, text.as_bytes()).map_err(at(step)).map(drop)
    };
    write(Step::Memory, "oom_score_adj", order.oom_score_adj.to_string())?;
    write(Step::IdMaps, "setgroups", "deny".to_owned())?;
    write(Step::IdMaps, "gid_map", format!("{} {} 1", jail::INSIDE, order.owner))?;
    write(Step::IdMaps, "uid_map", format!("{} {} 1", jail::INSIDE, order.owner))
}

/// Sets a limit of the child, soft and hard; to what this process may give when that is less.
fn limit(pid: i32, resource: u32, value: u64) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let mut both = libc::rlimit64 { rlim_cur: value, rlim_max: value };
    let own = std::ptr::null_mut::<libc::rlimit64>();
    let mut held = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    let number = pid.as_raw_nonzero().get();
    // SAFETY: the kernel reads one structure and writes another; both live until after the calls.
    let done = unsafe { libc::prlimit64(number, resource, &raw const both, own) };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // SAFETY: as above.
    let known = unsafe { libc::prlimit64(number, resource, std::ptr::null(), &raw mut held) };
    if error.raw_os_error() != Some(libc::EPERM) || known != 0 || held.rlim_max >= value {
        return Err(error);
    }
    (both.rlim_cur, both.rlim_max) = (held.rlim_max, held.rlim_max);
    // SAFETY: as above.
    match unsafe { libc::prlimit64(number, resource, &raw const both, own) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How many descriptors an order has at least.
const _: () = assert!(FIXED_FDS == 5);
