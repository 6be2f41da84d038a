//! What dnsmasq is told, as text. Pure.
//!
//! Everything that goes in was checked when it was stored: names are labels, addresses are addresses, so no line can be
//! smuggled in.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::model::{Mac, Name, Network, NetworkKind};

/// Leases last so long, in seconds. Guests ask again after half of it.
const LEASE_SECONDS: u32 = 3600;

/// One NIC that may ask for an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its link address.
    pub mac: Mac,
    /// Its fixed address, if it has one.
    pub address: Option<Ipv4Addr>,
    /// The VM's name, by which others find it.
    pub name: Name,
}

/// Files of one dnsmasq.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// Fixed addresses and names: read again at SIGHUP.
    pub hosts: &'a Path,
    /// What was given.
    pub leases: &'a Path,
    /// Written by dnsmasq when it serves.
    pub pid: &'a Path,
}

/// The configuration for a network, run as `user`; none when nobody gives addresses there.
pub fn text(network: &Network, files: Files<'_>, user: &str) -> Option<String> {
    let (subnet, range) = (network.subnet()?, network.dhcp()?);
    let mut text = String::from("# Written by quantix-node; changes are lost.\n");
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("user={user}"));
    line(format!("interface={}", network.interface));
    line("except-interface=lo".into());
    line("bind-dynamic".into());
    line(format!("pid-file={}", files.pid.display()));
    line(format!("dhcp-range={},{},{},{LEASE_SECONDS}s", range.first, range.last, subnet.mask()));
    line(format!("dhcp-leasefile={}", files.leases.display()));
    line(format!("dhcp-hostsfile={}", files.hosts.display()));
    line(format!("dhcp-lease-max={}", range.count().min(65_536)));
    for word in ["dhcp-authoritative", "no-ping", "quiet-dhcp", "no-hosts", "log-facility=-"] {
        line(word.into());
    }
    match &network.kind {
        NetworkKind::Nat(nat) => {
            line(format!("domain={}", nat.domain));
            line(format!("local=/{}/", nat.domain));
            for word in ["expand-hosts", "domain-needed", "bogus-priv", "dhcp-fqdn"] {
                line(word.into());
            }
            if !nat.dns_servers.is_empty() {
                line("no-resolv".into());
            }
            for server in &nat.dns_servers {
                line(format!("server={server}"));
            }
        }
        // No names and no router: there is nowhere to go.
        _ => {
            for word in ["port=0", "dhcp-option=option:router", "dhcp-option=option:dns-server"] {
                line(word.into());
            }
        }
    }
    Some(text)
}

/// The file of fixed addresses and names.
pub fn hosts(hosts: &[Host]) -> String {
    let mut text = String::new();
    for host in hosts {
        let address = host.address.map(|address| format!(",{address}")).unwrap_or_default();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}{address},{}", host.mac, host.name);
    }
    text
}
