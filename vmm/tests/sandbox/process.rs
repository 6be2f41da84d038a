//! What `enter_process` changes, seen without a filter on top; and files that come from a parent.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::kill;
use nix::unistd::{Pid, getppid};
use quantix_vmm::sandbox::{Capabilities, FdStore, ProcessError, Role, enter_process, enter_thread, forbid_reading};

use crate::child::{End, command, end};

pub const TESTS: &[crate::Test] = &[
    ("process::everything_is_given_up", || succeeds("given-up")),
    ("process::landlock_forbids_what_a_filter_would_not_see", || succeeds("landlock")),
    ("process::threads_inherit_it", || succeeds("threads-inherit")),
    ("process::a_second_thread_is_refused", || succeeds("second-thread")),
    ("process::the_report_counts_the_filter", || succeeds("report")),
    ("process::files_are_inherited_by_name_and_strays_are_closed", files_are_inherited),
];

fn succeeds(name: &str) {
    let end = end(&mut command(&format!("process {name}")));
    assert!(matches!(end, End::Exit(0, _)), "{end:?}");
}

/// The child's side.
pub fn run(name: &str) {
    match name {
        "given-up" => given_up(),
        "landlock" => landlock(),
        "threads-inherit" => threads_inherit(),
        "second-thread" => second_thread(),
        "report" => report(),
        "inherit" => inherit(),
        _ => panic!("no case {name}"),
    }
}

fn given_up() {
    let sandbox = enter_process().unwrap();
    let report = sandbox.report().unwrap();
    assert_eq!(report.capabilities, Capabilities::default());
    assert!(report.no_new_privs);
    assert_eq!(report.seccomp_filters, 0);
    assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
    let (core, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE).unwrap();
    assert_eq!(core, 0);
}

fn landlock() {
    let address = SocketAddr::from_abstract_name(format!("quantix-sandbox-{}", std::process::id())).unwrap();
    let sandbox = enter_process().unwrap();
    let abi = sandbox.report().unwrap().landlock.abi;
    assert!(abi > 0, "this kernel has no Landlock: the case cannot be tested here");
    let denied = |error: std::io::Error| error.raw_os_error() == Some(libc::EACCES);
    File::open("/proc/thread-self/schedstat").unwrap();
    forbid_reading().unwrap();
    assert!(denied(File::open("/proc/thread-self/schedstat").unwrap_err()));
    assert!(denied(File::open("/etc/hostname").unwrap_err()));
    assert!(denied(File::create("/tmp/quantix-sandbox").unwrap_err()));
    if abi >= 4 {
        assert!(denied(TcpStream::connect("127.0.0.1:1").unwrap_err()));
    }
    if abi >= 6 {
        assert_eq!(kill(getppid(), None), Err(nix::Error::EPERM));
        assert_eq!(kill(Pid::this(), None), Ok(()));
        // A socket of this domain can be reached, one from outside cannot: the parent has none here, so only the first.
        let _listener = UnixListener::bind_addr(&address).unwrap();
        UnixStream::connect_addr(&address).unwrap();
    }
}

fn threads_inherit() {
    enter_process().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let error = File::create("/tmp/quantix-sandbox").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        });
    });
}

fn second_thread() {
    let (wait, release) = std::sync::mpsc::channel::<()>();
    let other = std::thread::spawn(move || release.recv());
    assert!(matches!(enter_process(), Err(ProcessError::Threads)));
    drop(wait);
    let _ = other.join();
    // Nothing was given up by the attempt.
    File::open("/etc/hostname").unwrap();
}

fn report() {
    let sandbox = enter_process().unwrap();
    enter_thread(Role::Main).unwrap();
    let report = sandbox.report().unwrap();
    assert_eq!(report.seccomp_filters, 1);
    println!("{report}");
}

fn files_are_inherited() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let stray = File::open("/dev/null").unwrap();
    for file in [writer.as_fd(), stray.as_fd()] {
        fcntl(file, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    }
    let mut command = command("process inherit");
    command.env("NUMBER", writer.as_raw_fd().to_string()).env("STRAY", stray.as_raw_fd().to_string());
    let child = end(&mut command);
    assert_eq!(child, End::Exit(0, String::new()));
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "by name");
}

fn inherit() {
    let number = std::env::var("NUMBER").unwrap();
    let stray = std::env::var("STRAY").unwrap();
    // SAFETY: this is the first thing that the child does; it has opened nothing.
    let mut store = unsafe { FdStore::inherit(&[format!("serial={number}")]) }.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/self/fd/{stray}")).exists());
    let serial = store.take(&"serial".parse().unwrap()).unwrap();
    assert_eq!(fcntl(&serial, FcntlArg::F_GETFD), Ok(FdFlag::FD_CLOEXEC.bits()));
    File::from(serial).write_all(b"by name").unwrap();
}
