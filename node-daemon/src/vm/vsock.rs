//! The host's side of a VM's vsock: where host programs connect into the guest, and who connects for the guest.
//!
//! A sandboxed VMM can make no socket. It is given a listener (`vsock`, at `vsock.sock` in the VM's run directory, for
//! `CONNECT <port>`), and one end of a SEQPACKET socket (`vsock-connect`), over which it asks: `id: u32, port: u32`,
//! little-endian, answered by `id: u32, errno: u32` and the connected stream. Here is the other end: one task a VM.
//!
//! ```text
//!  guest ─ connect to host, port P ─► VMM ─ id, P ─► broker ─┬─ P is registered: a stream to that room of the daemon
//!                                         ◄─ stream ─────────┴─ else: whoever listens at vsock.sock_P beside the listener
//! ```
//!
//! Everything that comes from the VMM is hostile. What it can say is a number; what it can reach is a listener in its
//! own VM's directory, or a room that registered the port for this VM. Requests are served one after another, at most
//! [`BURST`] in a tenth of a second; one that is not read back stops the next from being looked at.
//!
//! So that a daemon that starts again can go on, the VMM keeps a copy of this end under the name `vsock-broker`: take it with
//! `TakeFd`, give a copy back with `AddFd`, and [`serve`] it.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType, connect, recv, sendmsg, socket_with, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::launch::watched;

/// The listener's file in a VM's run directory; `vsock.sock_PORT` beside it are listeners for the guest.
pub const SOCKET: &str = "vsock.sock";
/// Name under which the VMM gets the listener: `"vsock": {"socket": "fd:vsock"}`.
pub const LISTENER_FD: &str = "vsock";
/// Name under which the VMM gets its end of the broker's socket.
pub const CONNECT_FD: &str = "vsock-connect";
/// Name under which the VMM keeps the broker's end, for a daemon that starts again.
pub const BROKER_FD: &str = "vsock-broker";

/// Requests that are served in one [`WINDOW`].
const BURST: u32 = 64;
/// What a burst is counted in.
const WINDOW: Duration = Duration::from_millis(100);
/// Length of a request and of an answer, in bytes.
const PACKET: usize = 8;

/// What a VMM is given for its vsock device, and what the daemon keeps.
#[derive(Debug)]
pub struct VsockFds {
    /// For the launch plan.
    pub fds: Vec<(String, OwnedFd)>,
    /// For [`serve`].
    pub broker: OwnedFd,
}

/// Ports at which rooms of the daemon listen for this VM's guest, each with the way to hand a connection over.
pub type Ports = HashMap<u32, mpsc::Sender<UnixStream>>;

/// Listens in the VM's run directory, which is made if need be, and makes the broker's socket.
///
/// # Errors
/// The directory cannot be made, or its path is too long for a socket.
pub fn prepare(directory: &Path) -> io::Result<VsockFds> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let path = directory.join(SOCKET);
    // The longest port has ten digits; a path that leaves no room for it would fail only later.
    SocketAddrUnix::new(port_path(directory, u32::MAX))?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    let (broker, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let named = [(LISTENER_FD, listener.into()), (CONNECT_FD, theirs), (BROKER_FD, broker.try_clone()?)];
    Ok(VsockFds { fds: named.map(|(name, fd): (&str, OwnedFd)| (name.to_owned(), fd)).into(), broker })
}

/// Serves one VMM until it ends.
///
/// # Errors
/// The VMM breaks the protocol, or the socket fails: then the guest can start no more connections until its VMM is started
/// again.
pub async fn serve(broker: OwnedFd, directory: &Path, ports: &Ports) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&broker, true)?;
    let broker = watched(broker, Interest::READABLE | Interest::WRITABLE)?;
    let (mut window, mut served) = (Instant::now(), 0);
    while let Some((id, port)) = request(&broker).await? {
        if window.elapsed() > WINDOW {
            (window, served) = (Instant::now(), 0);
        }
        served += 1;
        if served > BURST {
            tokio::time::sleep_until(window + WINDOW).await;
        }
        let stream = match ports.get(&port) {
            Some(room) => hand_over(room),
            None => connect_to(directory, port),
        };
        answer(&broker, id, stream).await?;
    }
    Ok(())
}

/// The next request as (id, port); `None` when the VMM has ended.
async fn request(broker: &AsyncFd<OwnedFd>) -> io::Result<Option<(u32, u32)>> {
    broker
        .async_io(Interest::READABLE, |socket| {
            // One byte more, to see what is too long. Descriptors that come along are closed by the kernel: no room is
            // given for them.
            let mut packet = [0; PACKET + 1];
            let (length, _) = recv(socket, &mut packet, RecvFlags::empty())?;
            match length {
                0 => Ok(None),
                PACKET => {
                    let [i0, i1, i2, i3, p0, p1, p2, p3, _] = packet;
                    Ok(Some((u32::from_le_bytes([i0, i1, i2, i3]), u32::from_le_bytes([p0, p1, p2, p3]))))
                }
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a request of the wrong length")),
            }
        })
        .await
}

/// Answers a request; waits while the VMM does not read.
async fn answer(broker: &AsyncFd<OwnedFd>, id: u32, stream: io::Result<OwnedFd>) -> io::Result<()> {
    let error = stream.as_ref().err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO)).cast_unsigned();
    let mut packet = [0; PACKET];
    packet[..4].copy_from_slice(&id.to_le_bytes());
    packet[4..].copy_from_slice(&error.to_le_bytes());
    let fds: Vec<_> = stream.iter().map(OwnedFd::as_fd).collect();
    broker
        .async_io(Interest::WRITABLE, |socket| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(&fds));
            }
            sendmsg(socket, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}

fn port_path(directory: &Path, port: u32) -> std::path::PathBuf {
    directory.join(format!("{SOCKET}_{port}"))
}

/// A stream to a room of the daemon. A room that does not keep up refuses.
fn hand_over(room: &mpsc::Sender<UnixStream>) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    room.try_send(ours).map_err(|_| io::Error::from_raw_os_error(libc::ECONNREFUSED))?;
    Ok(theirs.into())
}

/// A stream to whoever listens for this port. Does not wait: a listener whose backlog is full counts as refusing.
fn connect_to(directory: &Path, port: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(port_path(directory, port))?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, recvmsg, send};

    use super::*;

    /// The VMM's side: asks, and gets an errno or a stream.
    fn ask(connect: &OwnedFd, id: u32, port: u32) -> Result<UnixStream, u32> {
        let packet = [id.to_le_bytes(), port.to_le_bytes()].concat();
        send(connect, &packet, SendFlags::empty()).unwrap();
        let mut answer = [0; PACKET];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(connect, &mut [io::IoSliceMut::new(&mut answer)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        assert_eq!(answer[..4], id.to_le_bytes());
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        });
        match fds.next().and_then(|mut fds| fds.next()) {
            Some(fd) => Ok(fd.into()),
            None => Err(u32::from_le_bytes(answer[4..].try_into().unwrap())),
        }
    }

    fn taken(fds: VsockFds) -> (OwnedFd, OwnedFd) {
        let connect = fds.fds.into_iter().find(|(name, _)| name == CONNECT_FD).unwrap().1;
        (connect, fds.broker)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_guest_reaches_what_listens_for_it_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let (connect, broker) = taken(prepare(directory.path()).unwrap());
        let listener = UnixListener::bind(directory.path().join("vsock.sock_5000")).unwrap();
        // Port 22 of nobody; `vsock.sock` itself is no port.
        let (room, mut rooms) = mpsc::channel(1);
        let path = directory.path().to_owned();
        let task = tokio::spawn(async move { serve(broker, &path, &Ports::from([(9700, room)])).await });
        let asking = tokio::task::spawn_blocking(move || {
            ask(&connect, 1, 5000).unwrap().write_all(b"hello").unwrap();
            assert_eq!(ask(&connect, 2, 22).unwrap_err(), libc::ENOENT.cast_unsigned());
            ask(&connect, 3, 9700).unwrap().write_all(b"agent").unwrap();
            // Nobody has taken the first one yet.
            assert_eq!(ask(&connect, 4, 9700).unwrap_err(), libc::ECONNREFUSED.cast_unsigned());
        });
        asking.await.unwrap();
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        let mut agent = rooms.recv().await.unwrap();
        agent.set_nonblocking(false).unwrap();
        agent.read_to_string(&mut text).unwrap();
        assert_eq!(text, "helloagent");
        task.await.unwrap().expect("the end of the VMM is no error");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_vmm_that_breaks_the_rules_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let (connect, broker) = taken(prepare(directory.path()).unwrap());
        send(&connect, &[7; PACKET + 5], SendFlags::empty()).unwrap();
        let error = serve(broker, directory.path(), &Ports::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_flood_is_slowed_down() {
        let directory = tempfile::tempdir().unwrap();
        let (connect, broker) = taken(prepare(directory.path()).unwrap());
        let path = directory.path().to_owned();
        tokio::spawn(async move { serve(broker, &path, &Ports::new()).await });
        let start = Instant::now();
        let asking = tokio::task::spawn_blocking(move || {
            for id in 0..BURST * 3 {
                ask(&connect, id, 1).unwrap_err();
            }
        });
        asking.await.unwrap();
        assert!(start.elapsed() >= WINDOW, "{:?}", start.elapsed());
    }
}
