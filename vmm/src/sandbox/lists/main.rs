//! What the control loop may ask for: its sockets, timers and signals, and the machine's phases.
//!
//! Hotplug, snapshot and migration get their files over the control socket; nothing here opens one. A thread
//! that the control loop starts later has these rights and no more.

#![forbid(unsafe_code)]

use libc::{F_DUPFD_CLOEXEC, F_GETFL, F_OFD_SETLK, F_SETFD, F_SETFL, MADV_REMOVE, PR_SET_NAME};

use super::requests as r;
use super::{Entry, entries, equal, request};

/// The flags with which a thread, and nothing else, is made: `CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND
/// | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID`.
const THREAD: i32 = 0x003d_0f00;

pub(in crate::sandbox) const MAIN: &[Entry] = entries! {
    SYS_epoll_wait => "waits for the next event"
    SYS_epoll_pwait => "waits for the next event"
    SYS_epoll_ctl => "control connections and hot-plugged devices come and go"
    SYS_accept4 => "a client connects to the control socket that exists"
    SYS_recvmsg => "control requests, with files"
    SYS_sendmsg => "answers and events, with files"
    SYS_recvfrom => "control requests"
    SYS_sendto => "answers and events"
    SYS_shutdown => "a control connection ends"
    SYS_pread64 => "configuration and saved state; this thread's status, whose file was opened before"
    SYS_pwrite64 => "saved state"
    SYS_preadv => "saved memory comes in"
    SYS_pwritev => "memory is saved"
    SYS_readv => "saved state and migration streams come in"
    SYS_writev => "saved state and migration streams go out"
    SYS_lseek => "sizes of files that were passed"
    SYS_fstat => "sizes and kinds of files that were passed"
    SYS_fsync => "saved state is on the disk before it is reported"
    SYS_fdatasync => "saved state is on the disk before it is reported"
    SYS_ftruncate => "a file for saved memory gets its size"
    SYS_fallocate => "memory is taken back from a machine that is reset"
    SYS_madvise [equal(2, MADV_REMOVE)] => "shared guest memory is emptied when the machine is reset"
    SYS_eventfd2 => "doorbells and interrupts of a hot-plugged device"
    SYS_timerfd_settime => "deadlines, balloon statistics"
    SYS_fcntl [equal(1, F_DUPFD_CLOEXEC)] => "a file that was passed is kept twice"
    SYS_fcntl [equal(1, F_GETFL)] => "is a file that was passed open for writing?"
    SYS_fcntl [equal(1, F_SETFL)] => "a stream that was passed must not block"
    SYS_fcntl [equal(1, F_SETFD)] => "close-on-exec on what was passed"
    SYS_fcntl [equal(1, F_OFD_SETLK)] => "the lock on a hot-plugged disk"
    SYS_ioctl [request(r::KVM_SIGNAL_MSI)] => "hotplug and power-button interrupts"
    SYS_ioctl [request(r::KVM_IRQ_LINE)] => "the ACPI interrupt of the power button"
    SYS_ioctl [request(r::KVM_IRQFD)] => "interrupts of a hot-plugged device"
    SYS_ioctl [request(r::KVM_IOEVENTFD)] => "doorbells of a hot-plugged device; all of them on reset"
    SYS_ioctl [request(r::KVM_SET_GSI_ROUTING)] => "routes of a hot-plugged device; all of them on reset"
    SYS_ioctl [request(r::KVM_SET_USER_MEMORY_REGION)] => "the dirty log is switched on and off; memory hotplug"
    SYS_ioctl [request(r::KVM_GET_DIRTY_LOG)] => "which pages a snapshot or a migration still lacks"
    SYS_ioctl [request(r::KVM_GET_CLOCK)] => "pause"
    SYS_ioctl [request(r::KVM_SET_CLOCK)] => "resume, restore"
    SYS_ioctl [request(r::KVM_GET_IRQCHIP)] => "save, where the I/O APIC is in the kernel"
    SYS_ioctl [request(r::KVM_SET_IRQCHIP)] => "reset, restore, where the I/O APIC is in the kernel"
    SYS_ioctl [request(r::KVM_GET_PIT2)] => "save, where there is a timer chip"
    SYS_ioctl [request(r::KVM_SET_PIT2)] => "reset, restore, where there is a timer chip"
    SYS_ioctl [request(r::FIONBIO)] => "an accepted connection must not block"
    SYS_ioctl [request(r::BLKGETSIZE64)] => "the size of a hot-plugged block device"
    SYS_ioctl [request(r::BLKSSZGET)] => "the sector size of a hot-plugged block device"
    SYS_ioctl [request(r::TUNSETOFFLOAD)] => "a hot-plugged NIC starts with offloads off"
    SYS_ioctl [request(r::TCGETS)] => "is the serial console a terminal?"
    SYS_ioctl [request(r::TCSETS)] => "the terminal is put back at the end"
    SYS_ioctl [request(r::TIOCGWINSZ)] => "the size of the terminal, for the virtio console"
    SYS_clone [equal(0, THREAD)] => "a thread for a snapshot or a migration stream; never a process"
    SYS_set_robust_list => "such a thread starts"
    SYS_rseq => "such a thread starts"
    SYS_prctl [equal(0, PR_SET_NAME)] => "such a thread has a name"
};
