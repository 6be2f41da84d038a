//! Addresses and names for guests: what dnsmasq is told, what it gave, and keeping it alive.

mod config;
mod leases;
mod server;

pub use config::{Files, Host, hosts, text};
pub use leases::{Lease, parse as parse_leases};
pub use server::{DhcpServer, DhcpState, ServerFiles, end_leftover};
