//! A VMM as the node daemon starts it: its root directory is empty, its configuration comes by standard input, and all that it
//! has are descriptors with names.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::fcntl::{AtFlags, FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::unistd::{chdir, chroot, execveat};

use super::{Native, Running};

/// A VMM to be.
#[derive(Debug)]
pub struct Jail<'a> {
    native: &'a Native,
    named: Vec<(&'static str, OwnedFd)>,
}

impl<'a> Jail<'a> {
    /// An empty one.
    pub fn new(native: &'a Native) -> Self {
        Self { native, named: Vec::new() }
    }

    /// Passes a descriptor.
    pub fn pass(mut self, name: &'static str, fd: impl Into<OwnedFd>) -> Self {
        self.named.push((name, fd.into()));
        self
    }

    /// Starts the VMM with `configuration`.
    ///
    /// # Errors
    ///
    /// Without root's rights, or if the VMM is no static program.
    pub fn start(self, configuration: &str) -> Result<Running<'a>> {
        let root = self.native.path("root");
        fs::create_dir(&root).context("No place for an empty root directory")?;
        let program = File::open(&self.native.vmm).context("Cannot open the VMM")?;
        let mut line: Vec<_> = ["quantix-vmm", "run", "--config", "-"].map(String::from).to_vec();
        for (name, fd) in &self.named {
            line.extend(["--fd".to_owned(), format!("{name}={}", fd.as_raw_fd())]);
        }
        let line = line.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
        let mut command = Command::new(&self.native.vmm);
        command.stdin(Stdio::piped());
        let named = self.named;
        let enter = move || {
            for (_, fd) in &named {
                fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
            }
            chroot(&root)?;
            chdir("/")?;
            let nothing: [CString; 0] = [];
            // Comes back only if it fails.
            let Err(errno) = execveat(&program, c"", &line, &nothing, AtFlags::AT_EMPTY_PATH);
            Err(io::Error::from(errno))
        };
        // SAFETY: it allocates a few bytes between fork and exec, which glibc allows; it takes no lock of this program.
        unsafe { command.pre_exec(enter) };
        let (running, stdin) = Running::start_command(self.native, command)?;
        stdin.context("No standard input")?.write_all(configuration.as_bytes()).context("The VMM did not read")?;
        Ok(running)
    }
}

/// The far end of the socket by which a jailed VMM asks for the guest's connections: a thread connects to `socket_PORT`.
/// It ends with the VMM.
///
/// # Errors
///
/// Without sockets.
pub fn connector_for(socket: PathBuf) -> Result<OwnedFd> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    std::thread::spawn(move || {
        let mut request = [0; 8];
        while let Ok(8) = nix::sys::socket::recv(ours.as_raw_fd(), &mut request, MsgFlags::empty()) {
            let [i0, i1, i2, i3, p0, p1, p2, p3] = request;
            let port = u32::from_le_bytes([p0, p1, p2, p3]);
            let stream = UnixStream::connect(format!("{}_{port}", socket.display()));
            let number = stream.as_ref().map(|stream| [stream.as_fd().as_raw_fd()]);
            let error = stream.as_ref().err().and_then(io::Error::raw_os_error).unwrap_or(0);
            let [e0, e1, e2, e3] = error.to_le_bytes();
            let rights: Vec<_> = number.iter().map(|number| ControlMessage::ScmRights(number)).collect();
            let answer = [i0, i1, i2, i3, e0, e1, e2, e3];
            let parts = [io::IoSlice::new(&answer)];
            if sendmsg::<()>(ours.as_raw_fd(), &parts, &rights, MsgFlags::MSG_NOSIGNAL, None).is_err() {
                return;
            }
        }
    });
    Ok(theirs)
}
