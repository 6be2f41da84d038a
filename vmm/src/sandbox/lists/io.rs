//! What an I/O thread may ask for: the work of the devices on files, taps and streams that are open already.

#![forbid(unsafe_code)]

use libc::{F_DUPFD_CLOEXEC, F_OFD_SETLK, MADV_REMOVE};

use super::requests as r;
use super::{Entry, entries, equal, request};

pub(in crate::sandbox) const IO: &[Entry] = entries! {
    SYS_epoll_wait => "waits for the next event"
    SYS_epoll_pwait => "Seldom: waits for the next event"
    SYS_poll => "Seldom: a paused thread sleeps until a command comes; has the console's pipe room for more?"
    SYS_preadv => "Seldom: disk reads"
    SYS_pwritev => "Seldom: disk writes"
    SYS_preadv2 => "Seldom: disk reads that may not wait"
    SYS_pwritev2 => "Seldom: disk writes with flags"
    SYS_io_uring_enter => "Seldom: batches of disk requests; the rings were made before"
    SYS_readv => "frames from a tap; bytes from a stream"
    SYS_writev => "frames to a tap; bytes to a stream"
    SYS_recvfrom => "bytes from a vsock stream's socket"
    SYS_sendto => "bytes to a vsock stream's socket"
    SYS_recvmsg => "bytes from a vsock stream's socket into several buffers"
    SYS_sendmsg => "bytes to a vsock stream's socket from several buffers"
    SYS_pread64 => "Seldom: metadata of disk formats"
    SYS_pwrite64 => "Seldom: metadata of disk formats"
    SYS_fsync => "Seldom: the guest flushes a disk"
    SYS_fdatasync => "Seldom: the guest flushes a disk"
    SYS_fallocate => "Seldom: discard and write-zeroes; the balloon gives pages of guest memory back"
    SYS_ftruncate => "Seldom: a qcow2 image grows"
    SYS_lseek => "Seldom: where a raw image has data; sizes, without a call that takes a path"
    SYS_fstat => "Seldom: sizes, without a call that takes a path"
    SYS_epoll_ctl => "vsock streams come and go; a full socket is watched until it drains"
    SYS_accept4 => "a host program connects to the guest through the listener that exists"
    SYS_shutdown => "Seldom: one side of a vsock stream ends"
    SYS_timerfd_settime => "a rate limit refills"
    SYS_madvise [equal(2, MADV_REMOVE)] => "Seldom: the balloon gives pages of shared guest memory back"
    SYS_fcntl [equal(1, F_OFD_SETLK)] => "Seldom: the lock on a disk image goes when its last worker does"
    SYS_fcntl [equal(1, F_DUPFD_CLOEXEC)] => "Seldom: a vsock stream is split into its two directions"
    SYS_ioctl [request(r::KVM_SIGNAL_MSI)] => "Seldom: an interrupt of a device"
    SYS_ioctl [request(r::FIONBIO)] => "Seldom: an accepted stream must not block its thread"
    SYS_ioctl [request(r::TUNSETQUEUE)] => "Seldom: the guest changes how many queue pairs of a NIC are in use"
    SYS_ioctl [request(r::VHOST_SET_OWNER)] => "Seldom: a NIC on vhost-net becomes active for the first time"
    SYS_ioctl [request(r::VHOST_SET_FEATURES)] => "Seldom: a NIC on vhost-net becomes active"
    SYS_ioctl [request(r::VHOST_SET_MEM_TABLE)] => "Seldom: a NIC on vhost-net becomes active"
    SYS_ioctl [request(r::VHOST_SET_VRING_NUM)] => "Seldom: a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_SET_VRING_ADDR)] => "Seldom: a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_SET_VRING_BASE)] => "Seldom: a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_GET_VRING_BASE)] => "Seldom: a NIC on vhost-net stops"
    SYS_ioctl [request(r::VHOST_SET_VRING_KICK)] => "Seldom: a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_SET_VRING_CALL)] => "Seldom: a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_SET_VRING_ERR)] => "Seldom: a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_NET_SET_BACKEND)] => "Seldom: a NIC on vhost-net starts and stops"
    SYS_ioctl [request(r::BLKDISCARD)] => "Seldom: discard on a disk that is a block device"
    SYS_ioctl [request(r::BLKZEROOUT)] => "Seldom: write-zeroes on a disk that is a block device"
};
