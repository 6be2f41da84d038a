//! The registry's row: makes the socket device's host side.
//!
//! Main thread, the only one yet, before the sandbox. The one place of this room that knows paths and fds.

use super::Vsock;
use crate::backend::vsock_unix::{Connector, Host, Listener, SocketError};
use crate::config::{FdName, Source};
use crate::devices::registry::Opener;
use crate::machine::OpenError;
use crate::virtio::Device;

/// Makes the socket device, if the plan has one.
pub fn attach(opener: &mut Opener<'_>) -> Result<Vec<Box<dyn Device>>, OpenError> {
    let Some(plan) = opener.plan.vsock.clone() else { return Ok(Vec::new()) };
    let host = match &plan.socket {
        Source::Path(path) => Host::open(path).map_err(refused)?,
        Source::Fd(name) => passed(opener, name)?,
    };
    Ok(vec![Box::new(Vsock::new("vsock0", plan.cid.get(), host))])
}

/// A listener that was passed as NAME, and a connector as NAME-connect where whoever started us connects for the guest.
fn passed(opener: &mut Opener<'_>, name: &FdName) -> Result<Host, OpenError> {
    let fd = opener.passed("--vsock", name)?;
    let listener = Listener::from_fd(fd)
        .map_err(|error| OpenError::new("--vsock", format!("socket=fd:{name}"), error.to_string()))?;
    let connector = format!("{name}-connect").parse().ok().and_then(|name| opener.fds.take(&name).ok());
    Ok(Host { listener, connector: connector.map(Connector::new) })
}

fn refused(error: SocketError) -> OpenError {
    let SocketError { path, reason, source } = error;
    OpenError::new("--vsock", format!("socket={}", path.display()), format!("{reason} ({source})"))
}
