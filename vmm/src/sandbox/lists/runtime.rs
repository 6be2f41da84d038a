//! What Rust's standard library, glibc and the allocator call by themselves, in a thread of any role.

#![forbid(unsafe_code)]

use libc::{ENOSYS, F_GETFD, MADV_DONTNEED, PROT_EXEC};

use super::{Entry, answer, entries, equal, own_process, without};

/// In force in every thread.
pub(in crate::sandbox) const RUNTIME: &[Entry] = entries! {
    SYS_futex => "locks, channels, thread join"
    SYS_clock_gettime => "Seldom: time, when the host's clock source cannot be read from user space"
    SYS_clock_nanosleep => "Seldom: a bounded pause"
    SYS_sched_yield => "Seldom: contended locks of the allocator"
    SYS_restart_syscall => "Seldom: the kernel puts it into a thread that was stopped in a timed wait and continued"
    SYS_mmap [without(2, PROT_EXEC)] => "Seldom: large allocations; never executable"
    SYS_mprotect [without(2, PROT_EXEC)] => "Seldom: the heap grows, guard pages; never executable"
    SYS_munmap => "Seldom: large allocations end; a thread's signal stack when it ends"
    SYS_mremap => "Seldom: a large vector grows; keeps the protection it had"
    SYS_brk => "the heap grows and shrinks"
    SYS_madvise [equal(2, MADV_DONTNEED)] => "Seldom: glibc returns the stack of a thread that ends"
    SYS_getrandom => "Seldom: seeds of hash maps"
    SYS_sched_getaffinity => "Seldom: glibc counts processors when a thread first allocates"
    SYS_sigaltstack => "Seldom: the overflow stack of a thread, taken down when it ends"
    SYS_rt_sigprocmask => "Seldom: thread end, abort"
    SYS_rt_sigreturn => "return from a signal handler"
    SYS_rt_sigaction => "Seldom: abort restores the default action"
    SYS_getpid => "Seldom: abort finds itself"
    SYS_gettid => "Seldom: abort and thread-directed signals find themselves"
    SYS_tgkill [own_process(0)] => "abort; a kick to another thread of this process and of no other"
    SYS_write => "log lines on stderr; wake-ups through eventfds"
    SYS_read => "eventfds are drained"
    SYS_close => "what a thread owns is dropped"
    SYS_fcntl [equal(1, F_GETFD)] => "Seldom: debug builds check that a file is open before they close it"
    SYS_exit => "Seldom: a thread ends"
    SYS_exit_group => "the process ends"
};

/// Refused in every thread, but with an error that the caller is known to cope with.
pub(in crate::sandbox) const ANSWERED: &[Entry] = entries! {
    SYS_clone3 [answer(ENOSYS)] => "Seldom: its flags lie in memory, where a filter cannot look; glibc falls back to clone"
    SYS_statx [answer(ENOSYS)] => "Seldom: takes a path; the standard library only wants a size hint and goes on without"
    SYS_newfstatat [answer(ENOSYS)] => "Seldom: takes a path; what fstat of older glibc calls when statx is missing"
};
