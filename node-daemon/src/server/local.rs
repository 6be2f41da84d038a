//! The local socket: gRPC without TLS, for programs on this machine. Async runtime.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ServerError;

/// Listens on `socket`, in place of what an earlier daemon left there: the lock of the state directory says that it is
/// gone.
pub(super) fn listen(
    socket: &Path,
    router: axum::Router,
    shutdown: CancellationToken,
    listeners: &mut JoinSet<()>,
) -> Result<(), ServerError> {
    let failed = |source| ServerError::Listen { address: socket.display().to_string(), source };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    // Who may connect is decided by peer credentials, per call.
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o666)).map_err(failed)?;
    listeners.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!("The local socket failed: {error}");
        }
    });
    Ok(())
}
