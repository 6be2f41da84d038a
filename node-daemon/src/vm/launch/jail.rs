//! From a fresh child of the stage to the VMM: the child's own side of a launch.
//!
//! Runs in the child, which has one thread and is already in its namespaces, its control group and the stage's empty root.
//! It gives up, step by step, what it does not need, and ends as another program or with the name of the step that
//! failed. It opens nothing but its own status file: there is nothing else to be opened where it is.

use std::convert::Infallible;
use std::ffi::{CString, c_int};
use std::io;
use std::os::fd::{AsRawFd as _, IntoRawFd as _, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::Step;
use super::wire::StageFailure;

/// The VM's user and group inside its own namespace: the only ones there. Not 0, so that the kernel grants nothing to a
/// program that it executes.
pub(super) const INSIDE: u32 = 1;

/// Where the VMM finds its own status file, the one thing of `/proc` that it may see: it reads from it what is in force.
pub(super) const STATUS_NUMBER: i32 = 3;

/// What the VMM calls its host.
const HOST_NAME: &str = "quantix-vm";

/// What the child is to become.
pub(super) struct Prison {
    /// The program.
    pub(super) program: OwnedFd,
    /// Its arguments.
    pub(super) arguments: Vec<CString>,
    /// What it gets as descriptors 0, 1, 2, 3, …
    pub(super) files: Vec<OwnedFd>,
    /// Where a failure is told; closes by itself when the program starts.
    pub(super) answer: OwnedFd,
    /// It has a control group.
    pub(super) cgroup: bool,
}

fn at(step: Step) -> impl Fn(io::Error) -> StageFailure {
    move |error| StageFailure { step, errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
}

/// Becomes the VMM. Comes back only with the step that failed, and where to tell it.
pub(super) fn enter(prison: Prison, proc: &OwnedFd) -> (StageFailure, RawFd) {
    let answer = prison.answer.as_raw_fd();
    match walk(prison, proc) {
        Err((failure, moved)) => (failure, moved.unwrap_or(answer)),
    }
}

/// The steps, in the order in which each leaves what the next needs.
fn walk(mut prison: Prison, proc: &OwnedFd) -> Result<Infallible, (StageFailure, Option<RawFd>)> {
    let early = |failure| (failure, None);
    let status = rustix::fs::openat(proc, "self/status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let status = status.map_err(|e| early(at(Step::Descriptors)(e.into())))?;
    prison.files.insert(STATUS_NUMBER as usize, status);
    set_apart(prison.cgroup).map_err(early)?;
    last_namespaces(proc).map_err(early)?;
    reset_signals().map_err(at(Step::Signals)).map_err(early)?;
    give_up().map_err(early)?;
    let (program, arguments) = (prison.program, prison.arguments);
    let (program, answer) =
        place(prison.files, program, prison.answer).map_err(at(Step::Descriptors)).map_err(early)?;
    Err((at(Step::Execute)(execute(program, &arguments)), Some(answer)))
}

/// A session, and nothing of the host's names and keys.
fn set_apart(cgroup: bool) -> Result<(), StageFailure> {
    rustix::process::setsid().map_err(|e| at(Step::Session)(e.into()))?;
    if cgroup {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
            .map_err(|e| at(Step::CgroupNamespace)(e.into()))?;
    }
    nix::unistd::sethostname(HOST_NAME).map_err(|e| at(Step::HostName)(e.into()))?;
    let none = c"(none)";
    // SAFETY: the kernel reads as many bytes as the string has.
    if unsafe { libc::setdomainname(none.as_ptr(), none.count_bytes()) } != 0 {
        return Err(at(Step::HostName)(io::Error::last_os_error()));
    }
    // Without it the keys of whoever started the daemon could be searched.
    let name = std::ptr::null::<libc::c_char>();
    // SAFETY: with no name the call reads no memory.
    if unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, name) } < 0 {
        let error = io::Error::last_os_error();
        // A kernel without keys has none to hide.
        if error.raw_os_error() != Some(libc::ENOSYS) {
            return Err(at(Step::Keyring)(error));
        }
    }
    Ok(())
}

/// No namespace can be made from inside the jail: not even a user namespace, which the kernel otherwise gives to anybody, with
/// all capabilities in it.
fn last_namespaces(proc: &OwnedFd) -> Result<(), StageFailure> {
    let refused = |e: rustix::io::Errno| at(Step::LastNamespaces)(e.into());
    for kind in ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"] {
        let path = format!("sys/user/max_{kind}_namespaces");
        match rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(file) => rustix::io::write(&file, b"0").map(drop).map_err(refused)?,
            // A kernel without this kind has none to be made.
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    Ok(())
}

/// Every signal does what it does in a new program, and none is blocked.
fn reset_signals() -> io::Result<()> {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of ours. The two signals that cannot be changed, and those that the
        // C library keeps for itself, are refused without effect; `execve` resets what has a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Becomes the VM's own user, without a capability and without a way to get one.
fn give_up() -> Result<(), StageFailure> {
    let ids = |e: rustix::io::Errno| at(Step::Ids)(e.into());
    // The supplementary groups were dropped by the stage; here the namespace forbids to set any.
    let (user, group) = (Uid::from_raw(INSIDE), Gid::from_raw(INSIDE));
    rustix::thread::set_thread_res_gid(group, group, group).map_err(ids)?;
    rustix::thread::set_thread_res_uid(user, user, user).map_err(ids)?;
    let privileges = |e: rustix::io::Errno| at(Step::Privileges)(e.into());
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Newer than this kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(privileges(error)),
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(privileges)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(privileges)?;
    rustix::thread::set_no_new_privs(true).map_err(privileges)
}

/// Puts the files at 0, 1, 2, … and marks all others to be closed by `execve`. Returns where the program and the answer
/// are then.
fn place(files: Vec<OwnedFd>, program: OwnedFd, answer: OwnedFd) -> io::Result<(RawFd, RawFd)> {
    let count = c_int::try_from(files.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    // First out of the way, so that no file is overwritten before it is in its place.
    let lift = |file: OwnedFd| -> io::Result<RawFd> {
        // The old number is left open: it may be the same that some place needs, and it is closed below.
        let raw = file.into_raw_fd();
        // SAFETY: fcntl takes numbers here, and `raw` is open.
        match unsafe { libc::fcntl(raw, libc::F_DUPFD_CLOEXEC, count) } {
            -1 => Err(io::Error::last_os_error()),
            lifted => Ok(lifted),
        }
    };
    let (program, answer) = (lift(program)?, lift(answer)?);
    let lifted = files.into_iter().map(lift).collect::<io::Result<Vec<_>>>()?;
    for (place, from) in (0..count).zip(&lifted) {
        // SAFETY: dup2 takes numbers. What was at `place` belongs to the stage, whose own copy stays; no Rust value of
        // this child that refers to it is used again, because the child ends by `execve` or `_exit`.
        if unsafe { libc::dup2(*from, place) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let rest = count.cast_unsigned();
    // SAFETY: only a flag of descriptors changes.
    match unsafe { libc::syscall(libc::SYS_close_range, rest, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } {
        0 => Ok((program, answer)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Executes the program, with an empty environment. Comes back only with the reason why not.
fn execute(program: RawFd, arguments: &[CString]) -> io::Error {
    let mut vector: Vec<*const libc::c_char> = arguments.iter().map(|argument| argument.as_ptr()).collect();
    vector.push(std::ptr::null());
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: both arrays end with a null pointer, their strings with a zero byte, and all live until after the call;
    // the path is empty, which with this flag means the descriptor itself.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program,
            c"".as_ptr(),
            vector.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Ends the child without running anything that the stage registered to run at its end.
pub(super) fn leave() -> ! {
    // SAFETY: takes a number, and ends the process.
    unsafe { libc::_exit(127) }
}
