//! The host side of vsock: unix sockets (design: `CONNECT <port>` / `OK <port>` and `PATH_<port>`).
//!
//! ```text
//!  host program ──connect──► PATH ──accept4──► Stream ◄──► guest       the program says "CONNECT 9700\n", hears "OK 1073741824\n"
//!  guest ──REQUEST, port 5000──► Connector ══SEQPACKET══► broker ──connect──► PATH_5000 ──► host program
//!                                     ◄══════ the connected Stream, as SCM_RIGHTS ══════╝
//! ```
//!
//! Inside the sandbox no thread may make or connect a socket. Accepting on a listener that exists is allowed; for the other
//! direction somebody else connects and passes the descriptor in. Under the node daemon that is the daemon, and the
//! [`Connector`]'s socket is passed by name. For stand-alone use it is a *broker*: a child process made before the sandbox, and
//! only when there is a vsock device. A thread could not do it: it would share the memory that a hostile guest may
//! have taken over. What such a guest can tell the broker is a number, nothing else.
//!
//! The listener, the broker and their files are made by the main thread before the sandbox; the rest runs on a
//! reactor thread and never blocks.

mod broker;
mod connector;
mod listener;
mod stream;

pub use connector::{Answer, Connector};
pub use listener::{Listener, SocketError};
pub use stream::Stream;

#[cfg(test)]
mod tests;

/// Both ways by which connections come to be.
#[derive(Debug)]
pub struct Host {
    /// Where host programs connect to.
    pub listener: Listener,
    /// Through which the guest's connections are made; without it the guest can start none.
    pub connector: Option<Connector>,
}

impl Host {
    /// Listens at `path` and starts a broker for `path_PORT`. The main thread must be the only one.
    pub fn open(path: &std::path::Path) -> Result<Self, SocketError> {
        let listener = Listener::bind(path)?;
        let connector = broker::spawn(path).map_err(|source| SocketError {
            path: path.to_owned(),
            reason: "the process that connects for the guest cannot be started",
            source,
        })?;
        Ok(Self { listener, connector: Some(connector) })
    }
}
