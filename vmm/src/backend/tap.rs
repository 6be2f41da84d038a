//! Tap devices: network frames to and from the host's kernel.
//!
//! Opened and checked by the main thread before the sandbox ([`Tap::open`], [`Tap::from_fds`]); frames move on reactor
//! threads ([`TapQueue`]). It must not create interfaces, change addresses or links: that is the node daemon's work.
//!
//! Each frame is preceded by the 12-byte header of virtio 1.3 section 5.1.6, which the kernel reads and writes itself,
//! so checksum and segmentation offloads need no code here. Plain `readv`/`writev` is used on purpose: a frame costs
//! about 0.5 µs in the tap either way, and batches through `io_uring` measured no faster.

use std::ffi::{CString, c_int, c_uint, c_ulong, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use super::IoVecs;

/// Length of the header before each frame, in bytes.
pub const HEADER_LEN: usize = 12;
const HEADER_LEN_SETTING: c_int = 12;

const IFF_FLAGS: c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// A tap that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("Tap {name}: {reason}")]
pub struct TapError {
    /// How the configuration calls it: an interface's name or `fd:NAME`.
    pub name: String,
    /// What is wrong, and what to do about it.
    pub reason: &'static str,
    /// What the kernel said, where it was asked.
    pub source: Option<io::Error>,
}

impl TapError {
    fn new(name: &str, reason: &'static str) -> Self {
        Self { name: name.to_owned(), reason, source: None }
    }

    /// For `map_err`: `name` cannot be used for `reason`, because of what the kernel said.
    fn because(name: &str, reason: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { source: Some(source), ..Self::new(name, reason) }
    }
}

/// What a guest wants to be given unfinished, or the host can take unfinished (`TUNSETOFFLOAD`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "a set of independent offloads is what it is")]
pub struct Offloads {
    /// Checksums may be partial.
    pub checksum: bool,
    /// TCP over IPv4 may be unsegmented.
    pub tso4: bool,
    /// TCP over IPv6 may be unsegmented.
    pub tso6: bool,
    /// Unsegmented TCP may carry ECN.
    pub ecn: bool,
    /// UDP over IPv4 may be unsegmented.
    pub uso4: bool,
    /// UDP over IPv6 may be unsegmented.
    pub uso6: bool,
}

impl Offloads {
    fn bits(self) -> c_uint {
        // The kernel takes segmentation only together with checksums, and both kinds of USO only together.
        if !self.checksum {
            return 0;
        }
        [
            (self.checksum, libc::TUN_F_CSUM),
            (self.tso4, libc::TUN_F_TSO4),
            (self.tso6, libc::TUN_F_TSO6),
            (self.ecn && (self.tso4 || self.tso6), libc::TUN_F_TSO_ECN),
            (self.uso4 && self.uso6, libc::TUN_F_USO4 | libc::TUN_F_USO6),
        ]
        .iter()
        .filter(|(on, _)| *on)
        .fold(0, |bits, (_, bit)| bits | bit)
    }
}

/// A tap with one queue for each queue pair of the NIC.
#[derive(Debug)]
pub struct Tap {
    name: String,
    queues: Vec<TapQueue>,
    /// Whether the far side is a kernel interface, with settings to make.
    interface: bool,
    uso: bool,
    mtu: Option<u16>,
}

impl Tap {
    /// Attaches `pairs` queues to the existing tap `name`.
    pub fn open(name: &str, pairs: u16) -> Result<Self, TapError> {
        let interface = interface_name(name)?;
        // TUNSETIFF would make the interface if it were not there: a misspelt name must be an error.
        // SAFETY: `interface` is a NUL-terminated string that outlives the call.
        if unsafe { libc::if_nametoindex(interface.as_ptr()) } == 0 {
            return Err(TapError::because(name, MISSING)(io::Error::last_os_error()));
        }
        let mut fds = Vec::new();
        for _ in 0..pairs.max(1) {
            let fd = open_tun().map_err(TapError::because(name, "/dev/net/tun cannot be opened"))?;
            let result = match attach_queue(&fd, name, pairs > 1) {
                // A tap made for several queues can be attached to only as such.
                Err(e) if pairs == 1 && e.raw_os_error() == Some(libc::EINVAL) => attach_queue(&fd, name, true),
                other => other,
            };
            result.map_err(|e| TapError::because(name, attach_reason(&e, pairs))(e))?;
            fds.push(fd);
        }
        Self::from_fds(name, fds)
    }

    /// Checks and takes queues that somebody else attached; `name` is how the configuration calls them (`fd:NAME`).
    pub fn from_fds(name: &str, fds: Vec<OwnedFd>) -> Result<Self, TapError> {
        let mut interface = None;
        for fd in &fds {
            let found = check_queue(name, fd)?;
            if interface.get_or_insert_with(|| found.clone()) != &found {
                return Err(TapError::new(name, "its descriptors belong to different interfaces"));
            }
        }
        let interface = interface.ok_or_else(|| TapError::new(name, "no descriptor was given"))?;
        let queues = fds.into_iter().map(|fd| TapQueue { fd }).collect();
        let mut tap = Self { name: name.to_owned(), queues, interface: true, uso: false, mtu: mtu_of(&interface) };
        let uso = Offloads { checksum: true, uso4: true, uso6: true, ..Offloads::default() };
        tap.uso = tap.set_offloads(uso).is_ok();
        tap.set_offloads(Offloads::default()).map_err(TapError::because(name, "its offloads cannot be set"))?;
        // Until the driver asks for more pairs, the kernel must spread no frames over queues that nobody reads.
        tap.use_pairs(1).map_err(TapError::because(name, "its number of queues cannot be set"))?;
        Ok(tap)
    }

    /// A tap whose far sides are sockets in our hands instead of a kernel interface: each packet is a header and a frame.
    /// For device tests, fuzz targets and benches, which can do without an interface and its privileges.
    pub fn over_sockets(pairs: u16) -> io::Result<(Self, Vec<OwnedFd>)> {
        let (mut queues, mut far) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            let (ours, theirs) = packet_sockets()?;
            queues.push(TapQueue { fd: ours });
            far.push(theirs);
        }
        Ok((Self { name: "sockets".to_owned(), queues, interface: false, uso: true, mtu: Some(1500) }, far))
    }

    /// How the configuration calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its queues: as many as were asked for. All but the first begin detached.
    pub fn queues(&self) -> &[TapQueue] {
        &self.queues
    }

    /// Whether this kernel knows UDP segmentation offload (6.2 and later).
    pub fn has_uso(&self) -> bool {
        self.uso
    }

    /// The interface's MTU in bytes when it was opened, if it could be asked for.
    pub fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// Attaches the first `pairs` queues and detaches the others.
    pub fn use_pairs(&self, pairs: u16) -> io::Result<()> {
        // A tap with one queue cannot be detached from.
        let spare = self.queues.iter().enumerate().skip(1).filter(|_| self.interface);
        spare.into_iter().try_for_each(|(i, queue)| queue.set_attached(i < usize::from(pairs)))
    }

    /// Tells the kernel what the guest takes unfinished. One call for all queues.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        let Some(queue) = self.queues.first().filter(|_| self.interface) else { return Ok(()) };
        // SAFETY: TUNSETOFFLOAD takes its flags by value; it touches no memory of ours.
        check(unsafe { libc::ioctl(queue.fd.as_raw_fd(), libc::TUNSETOFFLOAD as _, c_ulong::from(offloads.bits())) })
    }
}

/// One queue of a tap. Calls never block.
#[derive(Debug)]
pub struct TapQueue {
    fd: OwnedFd,
}

impl TapQueue {
    /// The fd, for waiting on it.
    pub fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Sends one frame: header and bytes.
    #[inline]
    pub fn send(&self, frame: &IoVecs) -> io::Result<usize> {
        let vectors = frame.as_slice();
        // SAFETY: the vectors lead into guest RAM, mapped as long as the process lives (`IoVecs`); the kernel only reads.
        let n = unsafe { libc::writev(self.fd.as_raw_fd(), vectors.as_ptr(), count(vectors)) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }

    /// Receives one frame: header and bytes go to `room`, and what has no room there to `overflow`.
    /// Returns the frame's length with header; `WouldBlock` when there is none.
    #[inline]
    pub fn receive(&self, room: &mut IoVecs, overflow: &mut [u8]) -> io::Result<usize> {
        let fd = self.fd.as_raw_fd();
        room.with_tail(overflow, |vectors| {
            // SAFETY: all vectors but the last lead into guest RAM, mapped as long as the process lives; the last is
            // `overflow`, borrowed for the length of this call.
            let n = unsafe { libc::readv(fd, vectors.as_ptr(), count(vectors)) };
            usize::try_from(n).map_err(|_| io::Error::last_os_error())
        })
    }

    /// Attaches or detaches this queue; doing twice what is done already is no error.
    fn set_attached(&self, attached: bool) -> io::Result<()> {
        let mut request = interface_request("");
        let flag = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
        request.ifr_ifru.ifru_flags = flag as i16;
        match request_ioctl(&self.fd, libc::TUNSETQUEUE as c_ulong, &mut request) {
            // What the kernel answers when the queue is in that state.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }
}

/// The number of vectors as system calls take it; too many are refused there.
fn count(vectors: &[libc::iovec]) -> c_int {
    c_int::try_from(vectors.len()).unwrap_or(c_int::MAX)
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

const MISSING: &str = "there is no such network interface; make it with: ip tuntap add NAME mode tap";

fn interface_name(name: &str) -> Result<CString, TapError> {
    let wrong = || TapError::new(name, "an interface name has 1 to 15 bytes, without '/' and blanks");
    let valid = (1..libc::IFNAMSIZ).contains(&name.len())
        && !name.bytes().any(|b| b == b'/' || b == b'%' || b.is_ascii_whitespace());
    if valid { CString::new(name).map_err(|_| wrong()) } else { Err(wrong()) }
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: `ifreq` is a plain C struct of integers and unions of them: all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    request
}

fn request_ioctl(fd: &OwnedFd, number: c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the ioctls used here (TUNSETIFF, TUNGETIFF, TUNSETQUEUE, SIOCGIFMTU) read and write one `ifreq`, which
    // `request` is and stays for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number as _, std::ptr::from_mut(request)) })
}

fn open_tun() -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC;
    // SAFETY: the path is a NUL-terminated constant.
    let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), flags) };
    check(fd)?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach_queue(fd: &OwnedFd, name: &str, multi: bool) -> io::Result<()> {
    let mut request = interface_request(name);
    let flags = IFF_FLAGS | if multi { libc::IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = flags as i16;
    request_ioctl(fd, libc::TUNSETIFF as c_ulong, &mut request)
}

fn attach_reason(error: &io::Error, pairs: u16) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another process uses it; stop that one or choose another tap",
        Some(libc::EPERM) => "permission denied; it belongs to another user",
        Some(libc::EINVAL) if pairs > 1 => {
            "it is not a tap made for several queues; make it with: ip tuntap add NAME mode tap multi_queue"
        }
        Some(libc::EINVAL) => "it is not a tap",
        Some(libc::E2BIG) => "it has no free queues left",
        _ => "it cannot be attached to",
    }
}

/// Checks a queue's kind and brings it into the state that we need; returns the interface's name.
fn check_queue(name: &str, fd: &OwnedFd) -> Result<String, TapError> {
    let mut request = interface_request("");
    request_ioctl(fd, libc::TUNGETIFF as c_ulong, &mut request)
        .map_err(TapError::because(name, "the descriptor is not an attached tap"))?;
    // SAFETY: TUNGETIFF filled the flags member in.
    let flags = c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    if flags & IFF_FLAGS != IFF_FLAGS {
        return Err(TapError::new(name, "it was not attached with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"));
    }
    let setting = |reason| TapError::because(name, reason);
    set_int(fd, libc::TUNSETVNETHDRSZ as c_ulong, HEADER_LEN_SETTING)
        .map_err(setting("its header length cannot be set"))?;
    set_int(fd, libc::TUNSETVNETLE as c_ulong, 1).map_err(setting("its byte order cannot be set"))?;
    let mut on: c_int = 1;
    // SAFETY: FIONBIO reads one int, which `on` is.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut on) })
        .map_err(setting("it cannot be made non-blocking"))?;
    let bytes = request.ifr_name.iter().take_while(|&&c| c != 0).map(|&c| c.cast_unsigned());
    Ok(String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned())
}

fn set_int(fd: &OwnedFd, number: c_ulong, value: c_int) -> io::Result<()> {
    let pointer: *const c_void = (&raw const value).cast();
    // SAFETY: TUNSETVNETHDRSZ and TUNSETVNETLE read one int, to which `pointer` leads.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), number as _, pointer) })
}

fn packet_sockets() -> io::Result<(OwnedFd, OwnedFd)> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    let mut fds = [-1; 2];
    // SAFETY: `fds` has room for the two descriptors that the kernel writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: the kernel just gave us these descriptors; nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Asks for the MTU; `None` when the interface is not in our network namespace (its fd was passed in).
fn mtu_of(interface: &str) -> Option<u16> {
    // SAFETY: no pointers are passed.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(socket).ok()?;
    // SAFETY: the kernel just gave us this descriptor; nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    let mut request = interface_request(interface);
    request_ioctl(&socket, libc::SIOCGIFMTU as c_ulong, &mut request).ok()?;
    // SAFETY: SIOCGIFMTU filled the MTU member in.
    u16::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
}

#[cfg(test)]
#[path = "tap_tests.rs"]
mod tests;
