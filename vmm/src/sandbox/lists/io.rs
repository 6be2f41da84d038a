//! What an I/O thread may ask for: the work of the devices on files, taps and streams that are open already.

#![forbid(unsafe_code)]

use libc::{F_DUPFD_CLOEXEC, F_OFD_SETLK, MADV_REMOVE};

use super::requests as r;
use super::{Entry, entries, equal, request};

pub(in crate::sandbox) const IO: &[Entry] = entries! {
    SYS_epoll_wait => "waits for the next event"
    SYS_epoll_pwait => "waits for the next event"
    SYS_poll => "a paused thread sleeps until a command comes"
    SYS_preadv => "disk reads"
    SYS_pwritev => "disk writes"
    SYS_preadv2 => "disk reads that may not wait"
    SYS_pwritev2 => "disk writes with flags"
    SYS_io_uring_enter => "batches of disk requests; the rings were made before"
    SYS_readv => "frames from a tap; bytes from a stream"
    SYS_writev => "frames to a tap; bytes to a stream"
    SYS_recvfrom => "bytes from a vsock stream's socket"
    SYS_sendto => "bytes to a vsock stream's socket"
    SYS_recvmsg => "bytes from a vsock stream's socket into several buffers"
    SYS_sendmsg => "bytes to a vsock stream's socket from several buffers"
    SYS_pread64 => "metadata of disk formats"
    SYS_pwrite64 => "metadata of disk formats"
    SYS_fsync => "the guest flushes a disk"
    SYS_fdatasync => "the guest flushes a disk"
    SYS_fallocate => "discard and write-zeroes; the balloon gives pages of guest memory back"
    SYS_ftruncate => "a qcow2 image grows"
    SYS_lseek => "where a raw image has data; sizes, without a call that takes a path"
    SYS_fstat => "sizes, without a call that takes a path"
    SYS_epoll_ctl => "vsock streams come and go; a full socket is watched until it drains"
    SYS_accept4 => "a host program connects to the guest through the listener that exists"
    SYS_shutdown => "one side of a vsock stream ends"
    SYS_timerfd_settime => "a rate limit refills"
    SYS_madvise [equal(2, MADV_REMOVE)] => "the balloon gives pages of shared guest memory back"
    SYS_fcntl [equal(1, F_OFD_SETLK)] => "the lock on a disk image goes when its last worker does"
    SYS_fcntl [equal(1, F_DUPFD_CLOEXEC)] => "a vsock stream is split into its two directions"
    SYS_ioctl [request(r::KVM_SIGNAL_MSI)] => "an interrupt of a device"
    SYS_ioctl [request(r::KVM_IRQ_LINE)] => "level interrupts of the serial port when input comes"
    SYS_ioctl [request(r::KVM_IOEVENTFD)] => "doorbells are taken off when a worker stops"
    SYS_ioctl [request(r::FIONBIO)] => "an accepted stream must not block its thread"
    SYS_ioctl [request(r::TUNSETQUEUE)] => "the guest changes how many queue pairs of a NIC are in use"
    SYS_ioctl [request(r::VHOST_SET_OWNER)] => "a NIC on vhost-net becomes active for the first time"
    SYS_ioctl [request(r::VHOST_SET_FEATURES)] => "a NIC on vhost-net becomes active"
    SYS_ioctl [request(r::VHOST_SET_MEM_TABLE)] => "a NIC on vhost-net becomes active"
    SYS_ioctl [request(r::VHOST_SET_VRING_NUM)] => "a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_SET_VRING_ADDR)] => "a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_SET_VRING_BASE)] => "a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_GET_VRING_BASE)] => "a NIC on vhost-net stops"
    SYS_ioctl [request(r::VHOST_SET_VRING_KICK)] => "a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_SET_VRING_CALL)] => "a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_SET_VRING_ERR)] => "a NIC on vhost-net starts"
    SYS_ioctl [request(r::VHOST_NET_SET_BACKEND)] => "a NIC on vhost-net starts and stops"
    SYS_ioctl [request(r::BLKDISCARD)] => "discard on a disk that is a block device"
    SYS_ioctl [request(r::BLKZEROOUT)] => "write-zeroes on a disk that is a block device"
};
