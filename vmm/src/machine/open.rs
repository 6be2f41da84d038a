//! Opens what a plan names: the last moment at which this process opens anything.
//!
//! Main thread, before the sandbox. Each error is one line: the option, the value, the reason and what to do.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use crate::config::{Endpoint, FdName, Plan, Source};
use crate::control::{Listener, TransportError};
use crate::sandbox::FdStore;
use crate::virtio::HostError;

/// Something that a plan names could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{option} {value}: {reason}")]
pub struct OpenError {
    /// The option.
    pub option: String,
    /// Its value.
    pub value: String,
    /// Why, and what to do.
    pub reason: String,
}

impl OpenError {
    /// `option` with `value` was refused for `reason`.
    pub fn new(option: &str, value: impl std::fmt::Display, reason: impl Into<String>) -> Self {
        Self { option: option.to_owned(), value: value.to_string(), reason: reason.into() }
    }

    /// The host has not enough of something.
    pub fn host(error: &HostError) -> Self {
        Self::new("host", "resources", format!("{error}: {}", error.source))
    }
}

/// What an I/O error on a file that the user named means, in words.
fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "there is no such file; check the path".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied; check owner and mode".to_owned(),
        io::ErrorKind::IsADirectory => "it is a directory; name a file".to_owned(),
        io::ErrorKind::AddrInUse => "the socket exists already; remove it or choose another path".to_owned(),
        _ => error.to_string(),
    }
}

/// The files of a machine.
pub struct Opened {
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// Kernel image.
    pub kernel: File,
    /// Initial RAM disk.
    pub initrd: Option<File>,
    /// Where serial output goes and input comes from.
    pub serial: Stream,
}

/// A character stream of the host.
#[derive(Debug)]
pub enum Stream {
    /// Nowhere.
    Off,
    /// This process's standard input and output.
    Stdio,
    /// A file, a pipe or a device: output only.
    File(File),
    /// A connected socket: both ways.
    Socket(OwnedFd),
    /// A listening unix socket.
    Listener(std::os::unix::net::UnixListener),
}

/// The file that was passed as `name`, for the option `option`.
pub fn passed(fds: &mut FdStore, option: &str, name: &FdName) -> Result<OwnedFd, OpenError> {
    let refused = |reason: String| OpenError::new(option, format!("fd:{name}"), reason);
    let key = name.as_str().parse().map_err(|e: crate::sandbox::FdStoreError| refused(e.to_string()))?;
    fds.take(&key).map_err(|error| refused(format!("{error}; pass it with --fd {name}=NUMBER")))
}

fn open_source(fds: &mut FdStore, option: &str, source: &Source) -> Result<File, OpenError> {
    match source {
        Source::Fd(name) => passed(fds, option, name).map(File::from),
        Source::Path(path) => open_path(option, path),
    }
}

fn open_path(option: &str, path: &Path) -> Result<File, OpenError> {
    let refused = |error: &io::Error| OpenError::new(option, path.display(), in_words(error));
    let file = File::open(path).map_err(|e| refused(&e))?;
    let kind = file.metadata().map_err(|e| refused(&e))?;
    if kind.is_dir() {
        return Err(refused(&io::ErrorKind::IsADirectory.into()));
    }
    Ok(file)
}

fn open_kvm(fds: &mut FdStore) -> Result<OwnedFd, OpenError> {
    if let Ok(fd) = "kvm".parse().and_then(|name| fds.take(&name)) {
        return Ok(fd);
    }
    let opened = File::options().read(true).write(true).open("/dev/kvm");
    opened.map(OwnedFd::from).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::NotFound => {
                "this host has no KVM; switch on virtualisation in its firmware, or load kvm-intel or kvm-amd"
                    .to_owned()
            }
            io::ErrorKind::PermissionDenied => "permission denied; join the group kvm or run as root".to_owned(),
            _ => error.to_string(),
        };
        OpenError::new("host", "/dev/kvm", reason)
    })
}

/// The character stream that `endpoint` means, for the option `option`.
pub fn open_endpoint(fds: &mut FdStore, option: &str, endpoint: &Endpoint) -> Result<Stream, OpenError> {
    match endpoint {
        Endpoint::Off => Ok(Stream::Off),
        Endpoint::Stdio => Ok(Stream::Stdio),
        Endpoint::Fd(name) => {
            let file = File::from(passed(fds, option, name)?);
            let kind = file.metadata().map_err(|e| OpenError::new(option, format!("fd:{name}"), e.to_string()))?;
            Ok(if kind.file_type().is_socket() { Stream::Socket(file.into()) } else { Stream::File(file) })
        }
        Endpoint::File(path) => {
            let file = File::options().create(true).append(true).open(path);
            let file = file.map_err(|e| OpenError::new(option, format!("file={}", path.display()), in_words(&e)))?;
            Ok(Stream::File(file))
        }
        Endpoint::Socket(path) => {
            let listener = std::os::unix::net::UnixListener::bind(path);
            let refused = |e: io::Error| OpenError::new(option, format!("socket={}", path.display()), in_words(&e));
            let listener = listener.map_err(refused)?;
            listener.set_nonblocking(true).map_err(refused)?;
            Ok(Stream::Listener(listener))
        }
    }
}

/// The control socket. Opened last of all, so that no refused option leaves it behind.
pub(super) fn open_api_socket(fds: &mut FdStore, source: &Source) -> Result<Listener, OpenError> {
    const OPTION: &str = "--api-socket";
    match source {
        Source::Fd(name) => Listener::from_fd(passed(fds, OPTION, name)?)
            .map_err(|error| OpenError::new(OPTION, format!("fd:{name}"), error.to_string())),
        Source::Path(path) => Listener::bind(path).map_err(|error| {
            let reason = match &error {
                TransportError::Path { source, .. } => in_words(source),
                TransportError::InUse { .. } => "another process listens there; choose another path".to_owned(),
                other => other.to_string(),
            };
            OpenError::new(OPTION, path.display(), reason)
        }),
    }
}

impl Opened {
    /// Opens all but the devices, which open what is theirs.
    pub fn open(plan: &Plan, fds: &mut FdStore) -> Result<Self, OpenError> {
        Ok(Self {
            kernel: open_source(fds, "--kernel", &plan.boot.kernel)?,
            initrd: plan.boot.initrd.as_ref().map(|s| open_source(fds, "--initrd", s)).transpose()?,
            kvm: open_kvm(fds)?,
            serial: open_endpoint(fds, "--serial", &plan.serial)?,
        })
    }
}
