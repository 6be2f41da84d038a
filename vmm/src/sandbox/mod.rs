//! The sandbox: once the guest's first instruction may run, this process can name nothing.
//!
//! Everything is opened first, or arrives as a file descriptor ([`FdStore`]). Then the process gives up what
//! it could use to get more. A guest that breaks out of a device finds a process without capabilities, that may
//! open, connect, execute or fork nothing, and that cannot make memory executable.
//!
//! The order matters, because the kernel keeps all of these per thread, and a thread inherits them from the
//! one that starts it:
//!
//! ```text
//!  main thread                                            other threads
//!  ───────────                                            ─────────────
//!  FdStore::inherit          stray files are closed
//!  open paths, connect, create the VM, map memory
//!  set up io_uring, eventfds, timers
//!        │
//!  enter_process()           no capabilities, no_new_privs, not
//!        │                   dumpable, Landlock (all but reading);
//!        │                   refused if there is a second thread
//!        │
//!  start threads ─────────────────────────────────────►  enter_thread(Io | Vcpu): Landlock, seccomp
//!        │                                                "ready" ─┐
//!        │◄────────────────────────────────────────────────────────┘
//!  enter_thread(Main)        no thread is left that may open
//!        │
//!  first KVM_RUN
//! ```
//!
//! No thread starts after that: the main thread's filter does not let it, and all device workers and vCPU threads are there.
//!
//! Namespaces, user id and cgroup are not made here: the node daemon makes them when it spawns this program,
//! because that takes privileges that this program should not start with. The seam is `exec` itself.
//!
//! **When a thread dies of SIGSYS**: the kernel log names the call (`dmesg | grep type=1326`, `syscall=` is its
//! number, `comm=` the thread). `strace -f -o trace quantix-vmm run …` as root shows it with its arguments,
//! as the last line of the thread. There is no switch that logs instead of killing: a switch could be found by
//! the wrong person. A panic with `RUST_BACKTRACE=1` prints its message and then dies of SIGSYS, because a
//! backtrace opens files.
//!
//! Two habits that code inside the sandbox needs: ask for a file's size by `lseek` or a plain `fstat` system call
//! (`File::metadata` fails here with ENOSYS: it is a call that takes paths), and leave files that were
//! created, such as sockets, where they are (unlinking takes a path too).

mod fd_store;
mod lists;
mod process;
mod report;
mod seccomp;
pub mod usage;

pub use fd_store::{FdName, FdStore, FdStoreError};
pub use process::{
    ProcessError, ProcessSandbox, drop_capabilities, enter_process, enter_process_knowing, forbid_reading,
    landlock_of_this_kernel,
};
pub use report::{Capabilities, Landlock, Report, ReportError};
pub use seccomp::{Entry, Role, SeccompError, When, install as enter_thread};
