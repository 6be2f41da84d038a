//! What must not be possible: each call is made by a thread of each role, and the child must die of it.

use std::io;

use libc::c_long;
use quantix_vmm::sandbox::Role;

use crate::child::{End, command, end};

pub const TESTS: &[crate::Test] = &[
    ("denied::a_main_thread_dies_of_each_call", || all_die(Role::Main)),
    ("denied::an_io_thread_dies_of_each_call", || all_die(Role::Io)),
    ("denied::a_vcpu_thread_dies_of_each_call", || all_die(Role::Vcpu)),
    ("denied::some_calls_are_answered_in_place_of_death", some_are_answered),
];

/// A call with arguments that would make it work for a process that may.
pub struct Call {
    name: &'static str,
    number: c_long,
    args: [c_long; 6],
    /// The error, for a call that is answered and not punished; 0 for the control, which succeeds.
    answer: Option<i32>,
}

const fn call(name: &'static str, number: c_long, args: [c_long; 6]) -> Call {
    Call { name, number, args, answer: None }
}

fn path() -> c_long {
    c"/dev/null".as_ptr() as c_long
}

/// A zeroed structure that is large enough for any of the calls.
fn zeroes() -> c_long {
    static ZEROES: [u8; 256] = [0; 256];
    ZEROES.as_ptr() as c_long
}

const AT_FDCWD: c_long = libc::AT_FDCWD as c_long;
const EXECUTABLE: c_long = (libc::PROT_READ | libc::PROT_EXEC) as c_long;
const ANONYMOUS: c_long = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as c_long;
const AF_UNIX: c_long = libc::AF_UNIX as c_long;
const AF_INET: c_long = libc::AF_INET as c_long;
const STREAM: c_long = libc::SOCK_STREAM as c_long;
const SIGCHLD: c_long = libc::SIGCHLD as c_long;
/// What glibc makes a thread with, and a new user namespace beside it.
const THREAD_AND_NAMESPACE: c_long = 0x003d_0f00 | libc::CLONE_NEWUSER as c_long;

fn calls() -> Vec<Call> {
    [files(), sockets(), processes(), memory(), kernel(), arguments(), answered()].into_iter().flatten().collect()
}

fn files() -> Vec<Call> {
    vec![
        call("open", libc::SYS_open, [path(), 0, 0, 0, 0, 0]),
        call("openat", libc::SYS_openat, [AT_FDCWD, path(), 0, 0, 0, 0]),
        call("openat2", libc::SYS_openat2, [AT_FDCWD, path(), zeroes(), 24, 0, 0]),
        call("creat", libc::SYS_creat, [path(), 0o600, 0, 0, 0, 0]),
        call("open_by_handle_at", libc::SYS_open_by_handle_at, [AT_FDCWD, zeroes(), 0, 0, 0, 0]),
        call("memfd_create", libc::SYS_memfd_create, [path(), 0, 0, 0, 0, 0]),
        call("unlink", libc::SYS_unlink, [path(), 0, 0, 0, 0, 0]),
        call("unlinkat", libc::SYS_unlinkat, [AT_FDCWD, path(), 0, 0, 0, 0]),
        call("renameat2", libc::SYS_renameat2, [AT_FDCWD, path(), AT_FDCWD, path(), 0, 0]),
        call("mkdirat", libc::SYS_mkdirat, [AT_FDCWD, path(), 0, 0, 0, 0]),
        call("readlink", libc::SYS_readlink, [path(), zeroes(), 0, 0, 0, 0]),
        call("faccessat", libc::SYS_faccessat, [AT_FDCWD, path(), 0, 0, 0, 0]),
        call("truncate", libc::SYS_truncate, [path(), 0, 0, 0, 0, 0]),
        call("chdir", libc::SYS_chdir, [path(), 0, 0, 0, 0, 0]),
        call("dup2", libc::SYS_dup2, [0, 9, 0, 0, 0, 0]),
    ]
}

fn sockets() -> Vec<Call> {
    vec![
        call("socket inet", libc::SYS_socket, [AF_INET, STREAM, 0, 0, 0, 0]),
        call("socket unix", libc::SYS_socket, [AF_UNIX, STREAM, 0, 0, 0, 0]),
        call("socketpair", libc::SYS_socketpair, [AF_UNIX, STREAM, 0, zeroes(), 0, 0]),
        call("connect", libc::SYS_connect, [0, zeroes(), 16, 0, 0, 0]),
        call("bind", libc::SYS_bind, [0, zeroes(), 16, 0, 0, 0]),
        call("listen", libc::SYS_listen, [0, 1, 0, 0, 0, 0]),
    ]
}

fn processes() -> Vec<Call> {
    let parent = c_long::from(std::os::unix::process::parent_id().cast_signed());
    vec![
        call("execve", libc::SYS_execve, [path(), 0, 0, 0, 0, 0]),
        call("execveat", libc::SYS_execveat, [AT_FDCWD, path(), 0, 0, 0, 0]),
        call("fork", libc::SYS_fork, [0; 6]),
        call("vfork", libc::SYS_vfork, [0; 6]),
        call("clone process", libc::SYS_clone, [SIGCHLD, 0, 0, 0, 0, 0]),
        call("clone namespace", libc::SYS_clone, [THREAD_AND_NAMESPACE, 0, 0, 0, 0, 0]),
        call("kill parent", libc::SYS_kill, [parent, 0, 0, 0, 0, 0]),
        call("kill self", libc::SYS_kill, [std::process::id().into(), 0, 0, 0, 0, 0]),
        call("tgkill parent", libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0]),
        call("pidfd_open", libc::SYS_pidfd_open, [parent, 0, 0, 0, 0, 0]),
        call("ptrace", libc::SYS_ptrace, [libc::PTRACE_TRACEME.into(), 0, 0, 0, 0, 0]),
        call("process_vm_readv", libc::SYS_process_vm_readv, [parent, zeroes(), 1, zeroes(), 1, 0]),
        call("process_vm_writev", libc::SYS_process_vm_writev, [parent, zeroes(), 1, zeroes(), 1, 0]),
        call("setuid", libc::SYS_setuid, [0; 6]),
        call("capset", libc::SYS_capset, [zeroes(), zeroes(), 0, 0, 0, 0]),
        call("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0]),
        call("setns", libc::SYS_setns, [0; 6]),
        call("sched_setaffinity", libc::SYS_sched_setaffinity, [0, 8, zeroes(), 0, 0, 0]),
        call("prlimit64", libc::SYS_prlimit64, [parent, 0, 0, zeroes(), 0, 0]),
    ]
}

fn memory() -> Vec<Call> {
    vec![
        call("mmap executable", libc::SYS_mmap, [0, 4096, EXECUTABLE, ANONYMOUS, -1, 0]),
        call("mprotect executable", libc::SYS_mprotect, [0, 4096, EXECUTABLE, 0, 0, 0]),
        call("pkey_mprotect", libc::SYS_pkey_mprotect, [0, 4096, EXECUTABLE, -1, 0, 0]),
        call("shmat", libc::SYS_shmat, [0, 0, libc::SHM_EXEC.into(), 0, 0, 0]),
        call("personality", libc::SYS_personality, [0x0040_0000, 0, 0, 0, 0, 0]),
        call("userfaultfd", libc::SYS_userfaultfd, [0; 6]),
        call("process_madvise", libc::SYS_process_madvise, [0; 6]),
    ]
}

fn kernel() -> Vec<Call> {
    vec![
        call("io_uring_setup", libc::SYS_io_uring_setup, [4, zeroes(), 0, 0, 0, 0]),
        call("io_uring_register", libc::SYS_io_uring_register, [0; 6]),
        call("mount", libc::SYS_mount, [path(), path(), path(), 0, 0, 0]),
        call("umount2", libc::SYS_umount2, [path(), 0, 0, 0, 0, 0]),
        call("fsopen", libc::SYS_fsopen, [path(), 0, 0, 0, 0, 0]),
        call("chroot", libc::SYS_chroot, [path(), 0, 0, 0, 0, 0]),
        call("keyctl", libc::SYS_keyctl, [0; 6]),
        call("bpf", libc::SYS_bpf, [0, zeroes(), 64, 0, 0, 0]),
        call("perf_event_open", libc::SYS_perf_event_open, [zeroes(), 0, -1, -1, 0, 0]),
        call("seccomp", libc::SYS_seccomp, [1, 0, zeroes(), 0, 0, 0]),
        call("landlock_create_ruleset", libc::SYS_landlock_create_ruleset, [0, 0, 1, 0, 0, 0]),
        call("init_module", libc::SYS_init_module, [0; 6]),
        call("clock_settime", libc::SYS_clock_settime, [0, zeroes(), 0, 0, 0, 0]),
        call("iopl", libc::SYS_iopl, [3, 0, 0, 0, 0, 0]),
        call("modify_ldt", libc::SYS_modify_ldt, [1, zeroes(), 16, 0, 0, 0]),
        call("no such call", 599, [0; 6]),
    ]
}

/// Calls that are allowed with other arguments.
fn arguments() -> Vec<Call> {
    const KVM_CREATE_VM: c_long = 0xae01;
    const TUNSETIFF: c_long = 0x4004_54ca;
    const TIOCSTI: c_long = 0x5412;
    vec![
        call("ioctl KVM_CREATE_VM", libc::SYS_ioctl, [0, KVM_CREATE_VM, 0, 0, 0, 0]),
        call("ioctl TUNSETIFF", libc::SYS_ioctl, [0, TUNSETIFF, zeroes(), 0, 0, 0]),
        call("ioctl TIOCSTI", libc::SYS_ioctl, [0, TIOCSTI, zeroes(), 0, 0, 0]),
        call("fcntl F_SETOWN", libc::SYS_fcntl, [0, libc::F_SETOWN.into(), 0, 0, 0, 0]),
        call("madvise MADV_POPULATE_WRITE", libc::SYS_madvise, [0, 0, libc::MADV_POPULATE_WRITE.into(), 0, 0, 0]),
        call("prctl PR_SET_DUMPABLE", libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0]),
    ]
}

fn answered() -> Vec<Call> {
    let answered = |name, number, args| Call { name, number, args, answer: Some(libc::ENOSYS) };
    vec![
        // The control: had the others died of something else on their way, so would this one.
        Call { name: "getpid", number: libc::SYS_getpid, args: [0; 6], answer: Some(0) },
        answered("clone3", libc::SYS_clone3, [zeroes(), 88, 0, 0, 0, 0]),
        answered("statx", libc::SYS_statx, [AT_FDCWD, path(), 0, 0, zeroes(), 0]),
        answered("newfstatat", libc::SYS_newfstatat, [AT_FDCWD, path(), zeroes(), 0, 0, 0]),
    ]
}

/// The child's side: looks up a case, before the sandbox is entered.
pub fn find(name: &str) -> Call {
    let name = name.replace('+', " ");
    calls().into_iter().find(|call| call.name == name).unwrap()
}

/// The child's side: makes the call, and says what it got if it lives.
pub fn attempt(call: &Call) {
    let [first, second, third, fourth, fifth, sixth] = call.args;
    // SAFETY: pointers are null, or lead to constants that the calls of this table only read; a call that is let
    // through against expectation fails, or changes a process that ends at once.
    let result = unsafe { libc::syscall(call.number, first, second, third, fourth, fifth, sixth) };
    let error = if result == -1 { io::Error::last_os_error().raw_os_error().unwrap_or(0) } else { 0 };
    eprintln!("error {error}");
}

fn attempted(role: Role, call: &Call) -> End {
    end(&mut command(&format!("deny {role:?} {}", call.name.replace(' ', "+"))))
}

fn all_die(role: Role) {
    for call in calls().iter().filter(|call| call.answer.is_none()) {
        assert_eq!(attempted(role, call), End::Sigsys, "{role:?}: {}", call.name);
    }
}

fn some_are_answered() {
    for role in Role::ALL {
        for call in calls() {
            if let Some(errno) = call.answer {
                assert_eq!(attempted(role, &call), End::Exit(0, format!("error {errno}\n")), "{role:?}: {}", call.name);
            }
        }
    }
}
