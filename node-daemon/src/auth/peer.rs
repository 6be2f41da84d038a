//! The other end of a connection. The listener puts it into each request's extensions.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Over TLS.
    Network(SocketAddr),
    /// On the local socket: what the kernel says of the process there.
    Local {
        /// Its user.
        uid: u32,
    },
}

impl Peer {
    /// What failures are counted by: an IPv4 address, or the /64 that an IPv6 host has to itself. `None` on the local
    /// socket.
    pub fn network(&self) -> Option<IpAddr> {
        match self {
            Self::Network(address) => Some(match address.ip().to_canonical() {
                IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
                v4 @ IpAddr::V4(_) => v4,
            }),
            Self::Local { .. } => None,
        }
    }
}

/// As the audit log has it: an address with port, or `unix`.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => write!(f, "{address}"),
            Self::Local { .. } => f.write_str("unix"),
        }
    }
}
