//! The local socket: gRPC without TLS, for programs on this machine. Who asks is said by the kernel, per connection.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::net::UnixListener;

use super::ServerError;

/// Listens on `socket`, in place of what an earlier daemon left there: the lock of the state directory says that it is
/// gone.
pub(super) fn bind(socket: &Path) -> Result<UnixListener, ServerError> {
    let failed = |source| ServerError::Listen { address: socket.display().to_string(), source };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    // Who may connect is decided by peer credentials, per call.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    Ok(listener)
}
