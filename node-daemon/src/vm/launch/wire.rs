//! What the daemon and its launcher stage say to each other: one JSON document a packet on `SOCK_SEQPACKET`, descriptors
//! ride along (`SCM_RIGHTS`).
//!
//! ```text
//!  daemon ── Order + descriptors (the first of them: where to answer) ──► stage
//!         ◄── Answer::Started + pidfd ───────────────────────────────────── stage
//!         ◄── Answer::Failed ─────────────────────────────── stage, or the child that was to be the VMM
//!         ◄── end of file: the child has become the VMM ──────────────────── (close-on-exec)
//! ```
//!
//! Both ends are ours; bounds are kept all the same. Any thread; calls block.

#![forbid(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest packet in bytes.
const LONGEST: usize = 128 << 10;

/// Most descriptors in one packet (`SCM_MAX_FD`).
pub(super) const MOST_FDS: usize = 253;

/// Descriptors that every order has before those that the VMM is given by name.
pub(super) const FIXED_FDS: usize = 5;

/// One VMM to be started. Descriptors, in order: where to answer, the control group's directory, the program, standard
/// input, standard output and error; then those that the program gets as 3, 4, ….
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// Outside the VM's own user namespace: its user and its group.
    pub(super) owner: u32,
    /// Arguments, the program's name first.
    pub(super) arguments: Vec<String>,
    /// Resource limits: number of the resource, value.
    pub(super) limits: Vec<(u32, u64)>,
    /// Who goes first when memory runs out.
    pub(super) oom_score_adj: i32,
    /// There is a control group; without one the second descriptor means nothing.
    pub(super) cgroup: bool,
}

/// How far it came.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The process is there. Its pidfd rides along.
    Started {
        /// Process id in the daemon's pid namespace.
        pid: i32,
    },
    /// It will not become a VMM.
    Failed(StageFailure),
}

/// Which step failed, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct StageFailure {
    /// The step's name in the table of steps.
    pub(super) step: super::Step,
    /// What the kernel said.
    pub(super) errno: i32,
}

/// Sends one document.
pub(super) fn send(socket: impl AsFd, document: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(document)?;
    if bytes.len() > LONGEST || fds.len() > MOST_FDS {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one document; `None` at the end. `WouldBlock` on a socket that does not wait.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    if message.bytes == 0 {
        return Ok(None);
    }
    let document = serde_json::from_slice(bytes.get(..message.bytes).unwrap_or_default())?;
    Ok(Some((document, fds)))
}
