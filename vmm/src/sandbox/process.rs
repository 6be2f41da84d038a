//! What the whole process gives up, once, before it has threads.
//!
//! Runs on the main thread. Must not be called when another thread exists: that thread would keep everything.

use std::fs::File;
use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr, Scope,
    make_bitflags,
};

use super::report::{Landlock, Report, ReportError};

/// Why the process is not in its sandbox.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// A thread exists that would keep the rights that are given up.
    #[error("Cannot enter the sandbox while a second thread runs")]
    Threads,
    /// A step failed.
    #[error("Cannot enter the sandbox: {step}")]
    Step {
        /// What was tried, in words.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a Landlock ruleset that it should know.
    #[error("Cannot enter the sandbox: forbid files, sockets and signals by Landlock")]
    Landlock(#[from] landlock::RulesetError),
    /// The file from which the state is read back cannot be opened.
    #[error("Cannot enter the sandbox: open /proc/thread-self/status")]
    Status(#[source] io::Error),
}

/// Proof that the process is in its sandbox, and the means to read back what is in force.
#[derive(Debug)]
pub struct ProcessSandbox {
    /// `/proc/thread-self/status` of the main thread; the kernel writes it anew for each read.
    status: File,
    landlock: Landlock,
    memory_deny_write_execute: bool,
}

impl ProcessSandbox {
    /// What the kernel says now about the thread that entered the sandbox. Works inside the sandbox.
    ///
    /// # Errors
    /// The status file cannot be read or lacks a line.
    pub fn report(&self) -> Result<Report, ReportError> {
        Report::read(&self.status, self.landlock, self.memory_deny_write_execute)
    }
}

/// Gives up everything that the process does not need once its resources are open, but the reading of files: that goes
/// when a thread enters its filter.
///
/// The out-of-memory score, the user id and the limits other than that on core files stay as they are.
/// An older kernel without a part of Landlock, or without memory-deny-write-execute, is no error: the report says
/// what is in force.
///
/// # Errors
/// See [`ProcessError`]; the process must then not run a guest.
pub fn enter_process() -> Result<ProcessSandbox, ProcessError> {
    enter_process_knowing(File::open("/proc/thread-self/status").map_err(ProcessError::Status)?)
}

/// As [`enter_process`], for a process whose root directory is empty: `status` is the status file of its main thread.
///
/// # Errors
/// As [`enter_process`].
pub fn enter_process_knowing(status: File) -> Result<ProcessSandbox, ProcessError> {
    forbid_second_thread()?;
    one_arena();
    no_core_files()?;
    // SAFETY: umask takes a number and cannot fail.
    unsafe { libc::umask(0o077) };
    set("make the process undumpable", libc::PR_SET_DUMPABLE, 0)?;
    set("set no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    // EINVAL before Linux 6.3: the filters forbid executable memory too, so this lock is the second one.
    let memory_deny_write_execute =
        set("deny executable memory", libc::PR_SET_MDWE, libc::PR_MDWE_REFUSE_EXEC_GAIN.into()).is_ok();
    drop_capabilities()?;
    let landlock = forbid_all_but_reading()?;
    Ok(ProcessSandbox { status, landlock, memory_deny_write_execute })
}

/// `unshare(CLONE_THREAD)` changes nothing and is refused exactly when there is more than one thread.
fn forbid_second_thread() -> Result<(), ProcessError> {
    // SAFETY: unshare takes a number; with this one it has no effect.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 { Ok(()) } else { Err(ProcessError::Threads) }
}

/// All threads share the allocator's main arena.
///
/// Any other arena opens `/proc/sys/vm/overcommit_memory` when it first shrinks, which would be death inside the
/// sandbox; and each costs memory. Device threads do not allocate in their loops, so the lock is idle.
fn one_arena() {
    // SAFETY: mallopt takes two numbers; no other thread exists that could be allocating.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// A core file would hold guest memory.
fn no_core_files() -> Result<(), ProcessError> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel reads one rlimit, which lives until after the call.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    if result == 0 { Ok(()) } else { Err(failed("forbid core files")) }
}

fn failed(step: &'static str) -> ProcessError {
    ProcessError::Step { step, source: io::Error::last_os_error() }
}

/// A `prctl` whose second argument is a number and whose others are zero.
fn set(step: &'static str, option: libc::c_int, value: libc::c_ulong) -> Result<(), ProcessError> {
    const ZERO: libc::c_ulong = 0;
    // SAFETY: the options used in this file take numbers only.
    if unsafe { libc::prctl(option, value, ZERO, ZERO, ZERO) } == 0 { Ok(()) } else { Err(failed(step)) }
}

/// `__user_cap_header_struct` and `__user_cap_data_struct` of <linux/capability.h>, version 3.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityHalf {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Empties all five sets. The bounding set can be emptied only by a process that may (`CAP_SETPCAP`); without it
/// the set has no use, because `no_new_privs` forbids to gain capabilities by `execve`.
///
/// # Errors
/// The kernel refuses to give them up.
pub fn drop_capabilities() -> Result<(), ProcessError> {
    for capability in 0..libc::c_ulong::from(u64::BITS) {
        if let Err(ProcessError::Step { step, source }) =
            set("drop the bounding set", libc::PR_CAPBSET_DROP, capability)
        {
            match source.raw_os_error() {
                // Past the last capability that this kernel knows, or not allowed to.
                Some(libc::EINVAL | libc::EPERM) => break,
                _ => return Err(ProcessError::Step { step, source }),
            }
        }
    }
    set("drop the ambient set", libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong)?;
    let header = CapabilityHeader { version: 0x2008_0522, pid: 0 };
    let none = [CapabilityHalf { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: version 3 has the kernel read one header and two halves, which live until after the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(failed("drop all capabilities")) }
}

/// The newest that the crate knows; what the kernel lacks is left out, and shows in the status.
const NEWEST: ABI = ABI::V10;

/// A ruleset that handles all that the kernel knows but the reading of files, and allows nothing. What a thread has to read
/// of `/proc` about itself, it can read only when it exists: reading ends with [`forbid_reading`].
///
/// All threads share this one domain, for signals are forbidden between two.
fn forbid_all_but_reading() -> Result<Landlock, ProcessError> {
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST) & !READING)?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Landlock { abi: effective_abi as u32 },
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => Landlock { abi: 0 },
    })
}

const READING: BitFlags<AccessFs> = make_bitflags!(AccessFs::{ReadFile});

/// Forbids the calling thread, and those that it starts, to open any file. After [`enter_process`].
///
/// # Errors
/// The kernel has Landlock and refuses the ruleset.
pub fn forbid_reading() -> Result<(), landlock::RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(READING)?
        .create()?
        .restrict_self()
        .map(drop)
}

/// What Landlock this kernel has; nothing is restricted by asking.
pub fn landlock_of_this_kernel() -> Landlock {
    const VERSION: libc::c_ulong = 1; // LANDLOCK_CREATE_RULESET_VERSION
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag the kernel reads no ruleset and returns its version, or an error.
    let abi = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0, VERSION) };
    Landlock { abi: u32::try_from(abi).unwrap_or(0) }
}
