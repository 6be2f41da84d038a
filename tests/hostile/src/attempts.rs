//! What a compromised VMM would try: a table, one row an attempt, and how each is made.
//!
//! Each is written so that it works, or gets further, for a process that may. None lasts.

// System calls take words; whether one has a sign is theirs to say.
#![allow(clippy::cast_sign_loss)]

use std::fs;
use std::io;
use std::mem::size_of;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};

use io_uring::{IoUring, opcode, types};
use libc::{c_int, c_long};

use crate::reach::{Outcome, Targets, attempt, call, text, zeroes};

/// One attempt.
pub struct Attempt {
    /// Short, unique.
    pub name: &'static str,
    /// What it would mean if it worked.
    pub what: &'static str,
    /// Makes it.
    pub make: fn(&Targets) -> Outcome,
}

const fn row(name: &'static str, what: &'static str, make: fn(&Targets) -> Outcome) -> Attempt {
    Attempt { name, what, make }
}

/// Descriptor of `/dev/kvm`, which the launcher gives every VMM: status, control, kvm.
const KVM: u64 = 5;

/// All of them, by what they are after.
pub const ATTEMPTS: &[Attempt] = &[
    // Files.
    row("list-root", "see what is in the root directory", |_| names("/")),
    row("open-passwd", "read a file of the host", |_| opened("/etc/passwd")),
    row("open-proc", "read /proc", |_| opened("/proc/self/status")),
    row("open-dev", "open a device by its path", |_| opened("/dev/kvm")),
    row("open-sys", "read /sys", |_| names("/sys/kernel")),
    row("escape-dotdot", "leave the root directory by ..", |_| opened("../../../../etc/passwd")),
    row("escape-chroot", "leave the root directory by a second chroot", |_| {
        attempt(libc::SYS_chroot, [text("/"), 0, 0, 0, 0, 0])
    }),
    row("escape-status", "climb from the status file to the host's /proc", |_| {
        attempt(libc::SYS_openat, [3, text("../status"), 0, 0, 0, 0])
    }),
    row("write-root", "make a file", |_| made("/x")),
    row("make-directory", "make a directory", |_| attempt(libc::SYS_mkdir, [text("/d"), 0o777, 0, 0, 0, 0])),
    row("make-device", "make a device node for the host's disk", |_| {
        attempt(libc::SYS_mknod, [text("/sda"), (libc::S_IFBLK | 0o600).into(), 0x800, 0, 0, 0])
    }),
    row("open-by-handle", "open a file by its inode, past all directories", |_| {
        attempt(libc::SYS_open_by_handle_at, [3, zeroes(), 0, 0, 0, 0])
    }),
    // Sockets and networks.
    row("unix-path", "connect to a unix socket of the host", |to| Outcome::of(UnixStream::connect(&to.socket), said)),
    row("unix-abstract", "connect to an abstract unix socket of the host", |to| {
        let address = SocketAddr::from_abstract_name(to.abstract_socket.as_bytes());
        Outcome::of(address.and_then(|address| UnixStream::connect_addr(&address)), said)
    }),
    row("tcp-loopback", "connect to a service on the host's loopback", |to| {
        Outcome::of(TcpStream::connect(("127.0.0.1", to.port)), said)
    }),
    row("udp-out", "send a packet to a network", |_| {
        let sent = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", "192.0.2.1:9"));
        Outcome::of(sent, said)
    }),
    row("netlink-links", "see the host's network interfaces", |to| interface(&to.interface)),
    row("raw-packets", "read and write raw frames", |_| socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300)),
    row("vsock", "reach other machines by the host's vsock", vsock),
    // Other processes.
    row("see-process", "find a process of the host", |to| signalled(to.pid, 0)),
    row("signal-process", "end a process of the host", |to| signalled(to.pid, libc::SIGKILL)),
    row("signal-all", "end everything that can be ended", |_| everybody()),
    row("pidfd-process", "hold a process of the host", |to| attempt(libc::SYS_pidfd_open, [pid(to), 0, 0, 0, 0, 0])),
    row("ptrace-process", "trace a process of the host", |to| {
        attempt(libc::SYS_ptrace, [libc::PTRACE_ATTACH.into(), pid(to), 0, 0, 0, 0])
    }),
    row("read-memory", "read the memory of another process, such as another VM's", |to| {
        memory(libc::SYS_process_vm_readv, to)
    }),
    row("write-memory", "write the memory of another process", |to| memory(libc::SYS_process_vm_writev, to)),
    row("take-file", "take an open file out of another process", |to| {
        let held = call(libc::SYS_pidfd_open, [pid(to), 0, 0, 0, 0, 0]);
        Outcome::of(held.and_then(|fd| call(libc::SYS_pidfd_getfd, [fd as u64, 0, 0, 0, 0, 0])), |_| {
            "a file".to_owned()
        })
    }),
    row("limits-process", "change the limits of a process of the host", |to| {
        attempt(libc::SYS_prlimit64, [pid(to), libc::RLIMIT_NOFILE.into(), zeroes(), 0, 0, 0])
    }),
    // Rights.
    row("setuid-root", "become root of its namespace", |_| attempt(libc::SYS_setuid, [0; 6])),
    row("setuid-host", "become another user", |_| attempt(libc::SYS_setuid, [1000, 0, 0, 0, 0, 0])),
    row("setgroups", "take a group, such as kvm or disk", |_| {
        static GROUP: [u32; 1] = [6];
        attempt(libc::SYS_setgroups, [1, GROUP.as_ptr() as u64, 0, 0, 0, 0])
    }),
    row("gain-capability", "take a capability", |_| capability()),
    row("new-user-namespace", "become root of a namespace of its own", |_| unshare(libc::CLONE_NEWUSER)),
    row("new-mount-namespace", "make a mount namespace", |_| unshare(libc::CLONE_NEWNS)),
    row("new-net-namespace", "make a network namespace", |_| unshare(libc::CLONE_NEWNET)),
    row("mount-tmpfs", "mount a file system", |_| mount("tmpfs")),
    row("mount-proc", "mount /proc", |_| mount("proc")),
    row("remount-root", "make the root directory writable", |_| {
        attempt(libc::SYS_mount, [0, text("/"), 0, libc::MS_REMOUNT | libc::MS_BIND, 0, 0])
    }),
    row("open-tree", "take a copy of a mount", |_| attempt(libc::SYS_open_tree, [at_cwd(), text("/"), 1, 0, 0, 0])),
    row("fsopen", "make a file system by the newer calls", |_| {
        attempt(libc::SYS_fsopen, [text("tmpfs"), 0, 0, 0, 0, 0])
    }),
    row("execute", "execute a program of the host", |_| {
        attempt(libc::SYS_execve, [text("/bin/sh"), zeroes(), zeroes(), 0, 0, 0])
    }),
    // The kernel.
    row("keyctl-session", "read the keys of whoever started the daemon", keys),
    row("bpf", "load a program into the kernel", |_| attempt(libc::SYS_bpf, [5, zeroes(), 64, 0, 0, 0])),
    row("perf", "watch the host's kernel and other processes", |_| perf()),
    row("userfaultfd", "stop the kernel in the middle of an access", |_| attempt(libc::SYS_userfaultfd, [0; 6])),
    row("io-uring-file", "open a file of the host past the filter, by io_uring", |_| ring_open()),
    row("io-uring-foreign", "submit to a ring that is not its own", |_| {
        attempt(libc::SYS_io_uring_enter, [200, 1, 0, 0, 0, 0])
    }),
    row("kernel-log", "read the kernel's log", |_| attempt(libc::SYS_syslog, [3, zeroes(), 512, 0, 0, 0])),
    row("load-module", "load a kernel module", |_| attempt(libc::SYS_init_module, [zeroes(), 64, text(""), 0, 0, 0])),
    row("kexec", "replace the host's kernel", |_| attempt(libc::SYS_kexec_load, [0; 6])),
    row("reboot", "reboot the host", |_| attempt(libc::SYS_reboot, [0xfee1_dead, 672_274_793, 0x89ab_cdef, 0, 0, 0])),
    row("set-clock", "set the host's clock", |_| attempt(libc::SYS_clock_settime, [0, zeroes(), 0, 0, 0, 0])),
    row("host-name", "name the host anew", |_| attempt(libc::SYS_sethostname, [text("owned"), 5, 0, 0, 0, 0])),
    row("see-host-name", "learn the host's name", |_| host_name()),
    row("ports", "use the host's I/O ports", |_| attempt(libc::SYS_iopl, [3, 0, 0, 0, 0, 0])),
    row("swap", "swap to a file", |_| attempt(libc::SYS_swapon, [text("/x"), 0, 0, 0, 0, 0])),
    row("shared-memory", "see the host's System V shared memory", |_| segments()),
    row("priority", "go before everything else of the host", |_| {
        attempt(libc::SYS_setpriority, [0, 0, (-20_i64) as u64, 0, 0, 0])
    }),
    row("real-time", "take a CPU for good", |_| {
        static PARAMETER: c_int = 50;
        attempt(libc::SYS_sched_setscheduler, [0, 1, (&raw const PARAMETER) as u64, 0, 0, 0])
    }),
    row("core-limit", "have its memory written to a core file", |_| raise(libc::RLIMIT_CORE)),
    row("file-limit", "open more files than it may", |_| raise(libc::RLIMIT_NOFILE)),
    row("process-limit", "have more threads than it may", |_| raise(libc::RLIMIT_NPROC)),
    row("fork-bomb", "make processes without end", |_| fork_bomb()),
    row("kvm-second", "open /dev/kvm anew through the descriptor it has", |_| {
        attempt(libc::SYS_openat, [KVM, text("kvm"), 2, 0, 0, 0])
    }),
    row("kvm-reopen", "reach the device's directory from the descriptor it has", |_| {
        attempt(libc::SYS_openat, [KVM, text(".."), 0, 0, 0, 0])
    }),
];

fn said<T: std::fmt::Debug>(value: T) -> String {
    format!("{value:?}")
}

fn pid(targets: &Targets) -> u64 {
    u64::from(targets.pid.cast_unsigned())
}

fn at_cwd() -> u64 {
    i64::from(libc::AT_FDCWD) as u64
}

fn names(path: &str) -> Outcome {
    let found = fs::read_dir(path).map(|entries| entries.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>());
    match found {
        Ok(names) if names.is_empty() => Outcome::nothing(),
        found => Outcome::of(found, said),
    }
}

fn opened(path: &str) -> Outcome {
    Outcome::of(fs::File::open(path), said)
}

fn made(path: &str) -> Outcome {
    let made = fs::File::create(path);
    let _ = fs::remove_file(path);
    Outcome::of(made, said)
}

fn socket(family: c_int, kind: c_int, protocol: u64) -> Outcome {
    attempt(libc::SYS_socket, [family as u64, kind as u64, protocol, 0, 0, 0])
}

/// In a network namespace of one's own the host's interfaces have no index.
fn interface(name: &str) -> Outcome {
    let Ok(name) = std::ffi::CString::new(name) else { return Outcome::nothing() };
    // SAFETY: the name is a C string.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Outcome::Refused(io::Error::last_os_error()),
        index => Outcome::Reached(format!("interface {index}")),
    }
}

/// Connects to the host's own context id, port 1: that nobody listens there is an answer from outside, too.
fn vsock(_: &Targets) -> Outcome {
    let made = call(libc::SYS_socket, [libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64, 0, 0, 0, 0]);
    // SAFETY: `sockaddr_vm` is a plain C struct of integers, for which zeros are valid.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
    (address.svm_cid, address.svm_port) = (2, 1);
    let connected = made.and_then(|fd| {
        let length = size_of::<libc::sockaddr_vm>() as u64;
        call(libc::SYS_connect, [fd as u64, (&raw const address) as u64, length, 0, 0, 0])
    });
    match connected {
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
            Outcome::Reached("an answer: nobody listens".to_owned())
        }
        connected => Outcome::of(connected, said),
    }
}

fn signalled(pid: i32, signal: c_int) -> Outcome {
    attempt(libc::SYS_kill, [u64::from(pid.cast_unsigned()), signal as u64, 0, 0, 0, 0])
}

/// Signal 0 to everybody: it works when there is anybody else that may be signalled.
fn everybody() -> Outcome {
    attempt(libc::SYS_kill, [(-1_i64) as u64, 0, 0, 0, 0, 0])
}

fn memory(number: c_long, targets: &Targets) -> Outcome {
    let word = zeroes();
    let local = libc::iovec { iov_base: word as *mut libc::c_void, iov_len: 8 };
    let remote = libc::iovec { iov_base: targets.address as *mut libc::c_void, iov_len: 8 };
    attempt(number, [pid(targets), (&raw const local) as u64, 1, (&raw const remote) as u64, 1, 0])
}

/// `capset` with one capability, `CAP_SYS_ADMIN`.
fn capability() -> Outcome {
    static HEADER: [u32; 2] = [0x2008_0522, 0];
    static DATA: [u32; 6] = [1 << 21, 1 << 21, 0, 0, 0, 0];
    attempt(libc::SYS_capset, [HEADER.as_ptr() as u64, DATA.as_ptr() as u64, 0, 0, 0, 0])
}

/// In a child where that is possible, so that this process stays what it is for the attempts after it.
fn unshare(kind: c_int) -> Outcome {
    attempt(libc::SYS_unshare, [kind as u64, 0, 0, 0, 0, 0])
}

fn mount(kind: &str) -> Outcome {
    attempt(libc::SYS_mount, [text("none"), text("/"), text(kind), 0, 0, 0])
}

/// The keys that can be found: a session keyring of one's own is empty.
fn keys(_: &Targets) -> Outcome {
    const SESSION: u64 = (-3_i64) as u64;
    const READ: u64 = 11;
    let bytes = call(libc::SYS_keyctl, [READ, SESSION, zeroes(), 512, 0, 0]);
    match bytes {
        Ok(0) => Outcome::nothing(),
        other => Outcome::of(other, |bytes| format!("{} keys", bytes / 4)),
    }
}

/// A software event of the whole machine's CPU 0, with the kernel.
fn perf() -> Outcome {
    let event = Box::leak(Box::new([0_u64; 16]));
    // type PERF_TYPE_SOFTWARE and the structure's size, 128 bytes; the rest zeros: the CPU clock, kernel included.
    if let Some(first) = event.first_mut() {
        *first = 1 | 128 << 32;
    }
    attempt(libc::SYS_perf_event_open, [event.as_ptr() as u64, (-1_i64) as u64, 0, (-1_i64) as u64, 0, 0])
}

/// Has the kernel open a file on behalf of a ring.
fn ring_open() -> Outcome {
    let opened = IoUring::new(8).and_then(|mut ring| {
        let entry = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), c"/etc/passwd".as_ptr()).build();
        // SAFETY: the path is a constant, which outlives the request.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        ring.submit_and_wait(1)?;
        match ring.completion().next().map_or(-libc::EIO, |done| done.result()) {
            error @ ..0 => Err(io::Error::from_raw_os_error(-error)),
            file => Ok(file),
        }
    });
    Outcome::of(opened, said)
}

/// The name that `uname` tells, when it is not the jail's.
fn host_name() -> Outcome {
    // SAFETY: `utsname` is an array of bytes, for which zeros are valid; the kernel fills it.
    let mut names: libc::utsname = unsafe { std::mem::zeroed() };
    if let Err(error) = call(libc::SYS_uname, [(&raw mut names) as u64, 0, 0, 0, 0, 0]) {
        return Outcome::Refused(error);
    }
    let name: String = names.nodename.iter().take_while(|c| **c != 0).map(|c| char::from(c.cast_unsigned())).collect();
    if name == "quantix-vm" { Outcome::nothing() } else { Outcome::Reached(name) }
}

/// How many System V segments there are (`SHM_INFO`: the first word of the answer).
fn segments() -> Outcome {
    const SHM_INFO: u64 = 14;
    let info = zeroes();
    match call(libc::SYS_shmctl, [0, SHM_INFO, info, 0, 0, 0]) {
        // SAFETY: `zeroes` gave 512 bytes that live for ever; the kernel wrote a structure that begins with an int.
        Ok(_) => match unsafe { *(info as *const c_int) } {
            0 => Outcome::nothing(),
            count => Outcome::Reached(format!("{count} segments")),
        },
        Err(error) => Outcome::Refused(error),
    }
}

/// Raises a hard limit above what it is.
fn raise(resource: u32) -> Outcome {
    let all = [u64::MAX; 2];
    attempt(libc::SYS_prlimit64, [0, resource.into(), all.as_ptr() as u64, 0, 0, 0])
}

/// Makes processes until it is stopped; reached when it could make more than the limit on threads says.
fn fork_bomb() -> Outcome {
    const LIMIT: usize = 600;
    let mut children = Vec::new();
    let end = loop {
        match call(libc::SYS_clone, [libc::SIGCHLD as u64, 0, 0, 0, 0, 0]) {
            Ok(0) => loop {
                // SAFETY: takes no argument; a child only waits for its end.
                unsafe { libc::pause() };
            },
            Ok(child) => children.push(child),
            Err(error) => break Outcome::Refused(error),
        }
        if children.len() > LIMIT {
            break Outcome::Reached(format!("{} processes", children.len()));
        }
    };
    for child in children {
        let _ = call(libc::SYS_kill, [child as u64, libc::SIGKILL as u64, 0, 0, 0, 0]);
        let _ = call(libc::SYS_wait4, [child as u64, 0, 0, 0, 0, 0]);
    }
    end
}
