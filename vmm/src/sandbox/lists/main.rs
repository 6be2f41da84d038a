//! What the control loop may ask for: its sockets, timers and signals, and the machine's phases.
//!
//! Files come over the control socket; nothing here opens one, and nothing here starts a thread.

#![forbid(unsafe_code)]

use libc::{F_GETFL, F_OFD_SETLK, F_SETFD, F_SETFL, MADV_REMOVE};

use super::requests as r;
use super::{Entry, entries, equal, request};

pub(in crate::sandbox) const MAIN: &[Entry] = entries! {
    SYS_epoll_wait => "waits for the next event"
    SYS_epoll_pwait => "Seldom: waits for the next event, where the C library has no epoll_wait"
    SYS_poll => "Seldom: held console output goes on; a slow reader of it is waited for at the end"
    SYS_epoll_ctl => "control connections come and go"
    SYS_accept4 => "a client connects to the control socket that exists"
    SYS_recvmsg => "control requests, with files"
    SYS_sendmsg => "answers and events, with files"
    SYS_recvfrom => "control requests"
    SYS_sendto => "answers and events"
    SYS_shutdown => "Seldom: a control connection ends"
    SYS_pread64 => "this thread's status and the vCPUs' schedules, whose files were opened before"
    SYS_lseek => "the kernel is read again on a reset"
    SYS_fstat => "Seldom: sizes and kinds of files that were passed"
    SYS_madvise [equal(2, MADV_REMOVE)] => "shared guest memory is emptied when the machine is reset"
    SYS_timerfd_settime => "deadlines, balloon statistics"
    SYS_fcntl [equal(1, F_GETFL)] => "Seldom: is a file that was passed open for writing?"
    SYS_fcntl [equal(1, F_SETFL)] => "Seldom: a stream that was passed must not block"
    SYS_fcntl [equal(1, F_SETFD)] => "close-on-exec on what was passed"
    SYS_fcntl [equal(1, F_OFD_SETLK)] => "Seldom: the locks on disk images go with the machine"
    SYS_ioctl [request(r::KVM_SIGNAL_MSI)] => "Seldom: the interrupt of the power button"
    SYS_ioctl [request(r::KVM_IOEVENTFD)] => "all doorbells are taken off on a reset"
    SYS_ioctl [request(r::FIONBIO)] => "Seldom: an accepted connection must not block"
    SYS_ioctl [request(r::TUNSETOFFLOAD)] => "a reset puts the offloads of a NIC off"
    SYS_ioctl [request(r::TUNSETQUEUE)] => "Seldom: a reset leaves one queue pair of a NIC in use"
    SYS_ioctl [request(r::TCGETS)] => "Seldom: is the serial console a terminal?"
    SYS_ioctl [request(r::TCSETS)] => "Seldom: the terminal is put back at the end"
};
