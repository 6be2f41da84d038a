//! System calls as attempts: what came of one, and what there is to aim at.

use std::ffi::{CString, c_long};
use std::fs::File;
use std::io;
use std::os::fd::FromRawFd as _;

use serde_json::Value;

/// How an attempt went.
#[derive(Debug)]
pub enum Outcome {
    /// It worked, or told something: what.
    Reached(String),
    /// It did not.
    Refused(io::Error),
}

impl Outcome {
    /// A result of the standard library.
    pub fn of<T>(result: io::Result<T>, words: impl FnOnce(T) -> String) -> Self {
        match result {
            Ok(value) => Self::Reached(words(value)),
            Err(error) => Self::Refused(error),
        }
    }

    /// Nothing was there.
    pub fn nothing() -> Self {
        Self::Refused(io::ErrorKind::NotFound.into())
    }
}

/// What there is to aim at: made by the test, so that each attempt would work for who may.
#[derive(Debug)]
pub struct Targets {
    /// A process of the host, and the address of a word of its memory.
    pub pid: i32,
    /// See `pid`.
    pub address: u64,
    /// A TCP port at which the test listens on the host's loopback.
    pub port: u16,
    /// A unix socket at which the test listens, by path.
    pub socket: String,
    /// One by an abstract name.
    pub abstract_socket: String,
    /// A network interface of the host.
    pub interface: String,
}

impl Targets {
    /// What the configuration says; what is missing aims at nothing.
    pub fn of(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| value[key].as_u64().unwrap_or_default();
        Self {
            pid: i32::try_from(number("pid")).unwrap_or_default(),
            address: number("address"),
            port: u16::try_from(number("port")).unwrap_or_default(),
            socket: text("socket"),
            abstract_socket: text("abstract_socket"),
            interface: text("interface"),
        }
    }
}

/// The status file that the launcher gives every VMM as descriptor 3.
pub fn status_file() -> File {
    // SAFETY: the launcher opened it for this program; nothing else here uses the number, and this is called once.
    unsafe { File::from_raw_fd(3) }
}

/// One system call. Anything but an error counts as reached.
pub fn call(number: c_long, args: [u64; 6]) -> io::Result<c_long> {
    let [first, second, third, fourth, fifth, sixth] = args;
    // SAFETY: callers pass numbers, null, or addresses of values that live until after the call and are as large as the call
    // takes them for. A call that works against expectation changes this process only, which ends soon.
    match unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) } {
        -1 => Err(io::Error::last_os_error()),
        value => Ok(value),
    }
}

/// As [`call`], as an outcome that shows the value.
pub fn attempt(number: c_long, args: [u64; 6]) -> Outcome {
    Outcome::of(call(number, args), |value| format!("the call returned {value}"))
}

/// A C string that lives for ever: attempts are few.
pub fn text(text: &str) -> u64 {
    let text = CString::new(text).unwrap_or_default();
    CString::into_raw(text) as u64
}

/// A zeroed structure of 512 bytes that lives for ever.
pub fn zeroes() -> u64 {
    Box::leak(Box::new([0_u64; 64])).as_mut_ptr() as u64
}
