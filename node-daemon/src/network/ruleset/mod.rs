//! What shall pass, as data: desired state in, nftables' tables out, and the least commands that lead from one to the
//! other. Pure and table-tested; `nft.rs` applies. The `bridge` table guards NICs, the `inet` table guards the host and
//! keeps networks apart.

mod guest;
mod host;
pub mod statement;
mod tables;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use crate::model::{FirewallRule, Mac, Subnet};

pub use guest::Memo;
pub use tables::{Family, Known, TABLE, Tables, commands, removal};

/// All that the tables are made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// The networks whose bridges stand.
    pub networks: Vec<GuardedNetwork>,
    /// The NICs that are plugged in.
    pub nics: Vec<GuardedNic>,
    /// Whether the kernel follows connections on bridges (`nf_conntrack_bridge`). Without it, answers are known by what
    /// was let through before: see `guest.rs`.
    pub bridge_conntrack: bool,
    /// Routing was off before this daemon needed it: what has nothing to do with its networks is not routed.
    pub routes_only_ours: bool,
}

/// A network for the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedNetwork {
    /// The bridge's name.
    pub bridge: String,
    /// What it leads to.
    pub reach: Reach,
}

/// How far a network reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// As far as the uplink: the host is not between.
    Uplink,
    /// Outwards behind the host's address.
    Outwards(Subnet),
    /// Nowhere; addresses by DHCP when there is a subnet.
    Nowhere(Option<Subnet>),
}

/// A NIC for the tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedNic {
    /// The tap's name.
    pub tap: String,
    /// The name of the bridge that it is in.
    pub bridge: String,
    /// Its own link address.
    pub mac: Mac,
    /// Its own IPv4 addresses; none known: any that nobody else has.
    pub addresses: BTreeSet<Ipv4Addr>,
    /// Nothing is checked of what it sends.
    pub allow_spoofing: bool,
    /// What may pass.
    pub rules: Vec<FirewallRule>,
}

/// The tables for this state. The same `memo` each time makes it quick when little has changed.
pub fn tables(desired: &Desired, memo: &mut Memo) -> Tables {
    Tables { bridge: guest::table(desired, memo), inet: host::table(desired) }
}

/// Name of the counter of frames of this tap that were dropped because they lie about who sent them.
pub fn spoof_counter(tap: &str) -> String {
    format!("spoofed-{tap}")
}

/// Name of the counter of packets to or from this tap that no rule let through.
pub fn filter_counter(tap: &str) -> String {
    format!("filtered-{tap}")
}

/// Name of the counter of packets that guests of this bridge sent to where they may not.
pub fn stray_counter(bridge: &str) -> String {
    format!("strayed-{bridge}")
}

#[cfg(test)]
mod tests;
