//! vhost-net: the host's kernel moves the frames between a queue pair and a tap, and this process sees only doorbells.
//!
//! The device file is opened by the main thread before the sandbox; the rest runs on a reactor thread. The kernel starts a
//! thread of its own for a pair when it is first used: not before the sandbox, which is entered by a process with one.
//!
//! ```text
//!  guest ──ioeventfd──► kick ──► vhost thread ◄──► tap
//!                                     │
//!  guest ◄── MSI-X ◄── worker ◄── call ┘             error: the rings are broken
//! ```
//!
//! It knows no descriptor and no device: where rings are comes in as addresses that were checked.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::tap::TapQueue;
use crate::memory::{GuestMemory, GuestSlice};

/// Where the host's kernel offers it.
pub const DEVICE: &str = "/dev/vhost-net";

/// Ring features that this file passes on: without them the guest's choice could not be kept.
pub const FEATURES: u64 = 1 << 15 | 1 << 28 | 1 << 29 | 1 << 32; // MRG_RXBUF, INDIRECT_DESC, EVENT_IDX, VERSION_1

/// `linux/vhost.h`: structures and requests.
mod uapi {
    use std::os::fd::RawFd;

    use nix::{request_code_none, request_code_read, request_code_readwrite, request_code_write};

    #[repr(C)]
    pub struct VringState {
        pub index: u32,
        pub num: u32,
    }

    #[repr(C)]
    pub struct VringFile {
        pub index: u32,
        pub fd: RawFd,
    }

    #[repr(C)]
    #[derive(Default)]
    pub struct VringAddress {
        pub index: u32,
        pub flags: u32,
        pub descriptors: u64,
        pub used: u64,
        pub available: u64,
        pub log: u64,
    }

    const TYPE: u8 = 0xaf;
    pub const GET_FEATURES: u64 = request_code_read!(TYPE, 0x00, size_of::<u64>());
    pub const SET_FEATURES: u64 = request_code_write!(TYPE, 0x00, size_of::<u64>());
    pub const SET_OWNER: u64 = request_code_none!(TYPE, 0x01);
    pub const SET_MEM_TABLE: u64 = request_code_write!(TYPE, 0x03, 8);
    pub const SET_VRING_NUM: u64 = request_code_write!(TYPE, 0x10, size_of::<VringState>());
    pub const SET_VRING_ADDR: u64 = request_code_write!(TYPE, 0x11, size_of::<VringAddress>());
    pub const SET_VRING_BASE: u64 = request_code_write!(TYPE, 0x12, size_of::<VringState>());
    pub const GET_VRING_BASE: u64 = request_code_readwrite!(TYPE, 0x12, size_of::<VringState>());
    pub const SET_VRING_KICK: u64 = request_code_write!(TYPE, 0x20, size_of::<VringFile>());
    pub const SET_VRING_CALL: u64 = request_code_write!(TYPE, 0x21, size_of::<VringFile>());
    pub const SET_VRING_ERR: u64 = request_code_write!(TYPE, 0x22, size_of::<VringFile>());
    pub const NET_SET_BACKEND: u64 = request_code_write!(TYPE, 0x30, size_of::<VringFile>());
}

/// vhost-net that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct VhostError {
    /// What is wrong, and what to do about it.
    pub reason: &'static str,
    /// What the kernel said, where it was asked.
    pub source: Option<io::Error>,
}

/// Where a ring is and how far it has come.
#[derive(Clone, Copy, Debug)]
pub struct VhostRing {
    /// Entries.
    pub size: u16,
    /// Descriptor table.
    pub descriptors: GuestSlice,
    /// Available ring.
    pub available: GuestSlice,
    /// Used ring.
    pub used: GuestSlice,
    /// Index of the next available entry.
    pub next_available: u16,
    /// The eventfd of the driver's kicks.
    pub kick: RawFd,
}

/// One open `/dev/vhost-net`: it serves one queue pair, ring 0 for receiving and ring 1 for transmitting.
#[derive(Debug)]
pub struct VhostNet {
    device: File,
    calls: [EventFd; 2],
    errors: [EventFd; 2],
    owned: bool,
}

impl VhostNet {
    /// Opens the host's device.
    pub fn open() -> Result<Self, VhostError> {
        let opened = File::options().read(true).write(true).open(Path::new(DEVICE));
        let device = opened.map_err(|source| {
            let reason = match source.kind() {
                io::ErrorKind::NotFound => "this host has no /dev/vhost-net; load the module vhost_net",
                io::ErrorKind::PermissionDenied => "/dev/vhost-net may not be opened; check its owner and mode",
                _ => "/dev/vhost-net cannot be opened",
            };
            VhostError { reason, source: Some(source) }
        })?;
        Self::adopt(device.into())
    }

    /// Takes a device that somebody else opened.
    pub fn adopt(device: OwnedFd) -> Result<Self, VhostError> {
        let device = File::from(device);
        let offered = features(&device)
            .map_err(|source| VhostError { reason: "the descriptor is not /dev/vhost-net", source: Some(source) })?;
        if offered & FEATURES != FEATURES {
            let reason = "the host's vhost-net is too old: it lacks a ring feature that guests use";
            return Err(VhostError { reason, source: None });
        }
        let eventfd = || {
            EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
                .map_err(|source| VhostError { reason: "no event descriptor could be made", source: Some(source) })
        };
        let (calls, errors) = ([eventfd()?, eventfd()?], [eventfd()?, eventfd()?]);
        Ok(Self { device, calls, errors, owned: false })
    }

    /// Readable when the driver is to be interrupted for a ring.
    pub fn call_fds(&self) -> [RawFd; 2] {
        self.calls.each_ref().map(EventFd::as_raw_fd)
    }

    /// Readable when the kernel found a ring broken.
    pub fn error_fds(&self) -> [RawFd; 2] {
        self.errors.each_ref().map(EventFd::as_raw_fd)
    }

    /// Whether the driver was to be interrupted for `ring` since this was last asked.
    pub fn take_call(&self, ring: usize) -> bool {
        self.calls.get(ring).is_some_and(|call| call.read().is_ok())
    }

    /// Whether the kernel found `ring` broken since this was last asked.
    pub fn take_error(&self, ring: usize) -> bool {
        self.errors.get(ring).is_some_and(|error| error.read().is_ok())
    }

    /// Hands both rings and the tap to the kernel. Nothing moves before this, and nothing after [`Self::stop`].
    pub fn start(
        &mut self,
        memory: GuestMemory,
        guest_features: u64,
        rings: [VhostRing; 2],
        tap: &TapQueue,
    ) -> io::Result<()> {
        if !self.owned {
            // Starts the kernel's thread, with the rights that the calling thread has left.
            // SAFETY: takes no pointer.
            check(unsafe { libc::ioctl(self.device.as_raw_fd(), uapi::SET_OWNER as _) })?;
            self.owned = true;
        }
        let features = guest_features & FEATURES;
        // SAFETY: the request reads one u64, which outlives the call.
        unsafe { self.request(uapi::SET_FEATURES, &features) }?;
        let table = memory_table(memory);
        // SAFETY: the request reads a count and as many regions of 32 bytes, which is what the table has.
        check(unsafe { libc::ioctl(self.device.as_raw_fd(), uapi::SET_MEM_TABLE as _, table.as_ptr()) })?;
        for (index, ring) in (0..).zip(&rings) {
            self.set_ring(index, ring)?;
        }
        for index in 0..2 {
            self.set_backend(index, tap.as_raw_fd())?;
        }
        Ok(())
    }

    fn set_ring(&self, index: u32, ring: &VhostRing) -> io::Result<()> {
        let address = uapi::VringAddress {
            index,
            descriptors: ring.descriptors.as_ptr() as u64,
            used: ring.used.as_ptr() as u64,
            available: ring.available.as_ptr() as u64,
            ..Default::default()
        };
        let ours = |events: &[EventFd; 2]| events.get(index as usize).map_or(-1, EventFd::as_raw_fd);
        let file = |fd| uapi::VringFile { index, fd };
        // SAFETY: each request reads one structure of the type that it is given, which outlives the call. The rings lie in
        // guest RAM, which is mapped as long as this process, and the device with it, lives (`GuestSlice`).
        unsafe {
            self.request(uapi::SET_VRING_NUM, &uapi::VringState { index, num: ring.size.into() })?;
            self.request(uapi::SET_VRING_ADDR, &address)?;
            self.request(uapi::SET_VRING_BASE, &uapi::VringState { index, num: ring.next_available.into() })?;
            self.request(uapi::SET_VRING_KICK, &file(ring.kick))?;
            self.request(uapi::SET_VRING_CALL, &file(ours(&self.calls)))?;
            self.request(uapi::SET_VRING_ERR, &file(ours(&self.errors)))
        }
    }

    /// Takes the rings back: the kernel has finished with guest memory when this returns. Gives the next available index
    /// of each.
    pub fn stop(&mut self) -> io::Result<[u16; 2]> {
        let mut next = [0; 2];
        for (index, next) in (0..).zip(&mut next) {
            self.set_backend(index, -1)?;
            let mut state = uapi::VringState { index, num: 0 };
            // SAFETY: the request reads and writes one such structure, which outlives the call.
            check(unsafe { libc::ioctl(self.device.as_raw_fd(), uapi::GET_VRING_BASE as _, &raw mut state) })?;
            *next = state.num as u16;
        }
        Ok(next)
    }

    fn set_backend(&self, index: u32, fd: RawFd) -> io::Result<()> {
        // SAFETY: the request reads one such structure, which outlives the call.
        unsafe { self.request(uapi::NET_SET_BACKEND, &uapi::VringFile { index, fd }) }
    }

    /// # Safety
    /// `number` must be a request of vhost that reads a `T` and keeps no pointer to it.
    unsafe fn request<T>(&self, number: u64, argument: &T) -> io::Result<()> {
        // SAFETY: the caller promises the type; the reference is valid for the call.
        check(unsafe { libc::ioctl(self.device.as_raw_fd(), number as _, std::ptr::from_ref(argument)) })
    }
}

/// `struct vhost_memory`: a count, padding, and four words a region.
fn memory_table(memory: GuestMemory) -> Vec<u64> {
    let regions: Vec<u64> = memory.slots().flat_map(|(guest, host, len)| [guest, len, host, 0]).collect();
    [regions.len() as u64 / 4].into_iter().chain(regions).collect()
}

fn features(device: &File) -> io::Result<u64> {
    let mut features = 0_u64;
    // SAFETY: the request writes one u64, which outlives the call; another kind of file refuses it.
    check(unsafe { libc::ioctl(device.as_raw_fd(), uapi::GET_FEATURES as _, &raw mut features) })?;
    Ok(features)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Backing;

    #[test]
    fn the_memory_table_has_the_kernels_layout() {
        let memory = GuestMemory::map(&[(0, 1 << 20), (4 << 30, 2 << 20)], Backing::default()).unwrap();
        let table = memory_table(memory);
        let slots: Vec<_> = memory.slots().collect();
        assert_eq!(table.len(), 9);
        assert_eq!(table[0], 2);
        assert_eq!(table[1..5], [0, 1 << 20, slots[0].1, 0]);
        assert_eq!(table[5..9], [4 << 30, 2 << 20, slots[1].1, 0]);
    }

    #[test]
    fn another_kind_of_file_is_refused_by_name() {
        let error = VhostNet::adopt(File::open("/dev/null").unwrap().into()).unwrap_err();
        assert_eq!(error.to_string(), "the descriptor is not /dev/vhost-net");
        assert!(error.source.is_some());
    }
}
