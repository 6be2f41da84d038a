//! What each thread role may ask of the kernel: data, one entry a line, each with its reason.
//!
//! To add a call: put the line into the narrowest list, say what needs it, and condition it on arguments
//! where it has a part that is not needed. To find out what a thread died of, see `sandbox/mod.rs`.
//! A recorded run of everything must use every entry (a native case of `tests/e2e`); one that such a run cannot be expected
//! to need says "Seldom: " before its reason.
//! There is no code here and no side effects.

#![forbid(unsafe_code)]

mod io;
mod main;
mod requests;
mod runtime;
mod vcpu;

pub(super) use io::IO;
pub(super) use main::MAIN;
pub(super) use runtime::{ANSWERED, RUNTIME};
pub(super) use vcpu::VCPU;

use super::seccomp::{Entry, When};

/// A table of entries: `SYS_name => "reason"`, with a condition in brackets after the name if need be.
macro_rules! entries {
    ($($call:ident $([$when:expr])? => $reason:literal)*) => {
        &[$($crate::sandbox::seccomp::Entry {
            name: stringify!($call),
            number: libc::$call as u32,
            when: $crate::sandbox::lists::entries!(@when $($when)?),
            spelling: concat!($(stringify!($when))?),
            reason: $reason,
        }),*]
    };
    (@when) => { $crate::sandbox::seccomp::When::Always };
    (@when $when:expr) => { $when };
}
use entries;

/// `ioctl` with this request.
const fn request(number: u32) -> When {
    When::Equal { arg: 1, value: number }
}

/// `fcntl`, `prctl` and their like: the argument at `arg` is this command.
const fn equal(arg: u8, value: i32) -> When {
    When::Equal { arg, value: value.cast_unsigned() }
}

/// None of these bits in the argument at `arg`.
const fn without(arg: u8, bits: i32) -> When {
    When::Without { arg, bits: bits.cast_unsigned() }
}

/// The argument at `arg` is this process.
const fn own_process(arg: u8) -> When {
    When::OwnProcess { arg }
}

/// Refused with an error in place of death.
const fn answer(errno: i32) -> When {
    When::Answer { errno: errno.cast_unsigned() as u16 }
}
