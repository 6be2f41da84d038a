//! What a network is, and the checks of what callers ask for. Pure: any thread; it must not look at the host.

mod address;
mod firewall;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

pub use address::{Mac, Range, Subnet, free_subnet};
pub use firewall::{Direction, FirewallRule, Ports, Protocol, Remote, RuleAction};

use super::{Failure, Id, Name, Violation};

/// A bridge with its addressing, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// UUIDv7.
    pub id: Id,
    /// Unique on this node.
    pub name: Name,
    /// What it is.
    pub kind: NetworkKind,
    /// The bridge's name on this node.
    pub interface: String,
    /// Of the caller's.
    pub labels: BTreeMap<String, String>,
}

/// The three kinds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// On the network of the host's own interface.
    Bridge(Uplink),
    /// Behind the host.
    Nat(Nat),
    /// Without a way out.
    Isolated {
        /// The host's address and the prefix; none: no addresses are given.
        subnet: Option<Subnet>,
    },
}

/// Where a bridge network leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uplink {
    /// An interface of the host, or an existing bridge.
    pub interface: String,
    /// 1 to 4094; none for untagged.
    pub vlan: Option<u16>,
}

/// The addressing of a NAT network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    /// The host's address in it, and the prefix.
    pub subnet: Subnet,
    /// What DHCP gives.
    pub dhcp: Range,
    /// Domain of the guests' names.
    pub domain: String,
    /// Name servers to ask for other names; none: the host's own.
    pub dns_servers: Vec<IpAddr>,
}

/// The domain when the caller names none: reserved for private use by ICANN.
pub const DEFAULT_DOMAIN: &str = "internal";

/// What a caller wrote about a NAT network.
#[derive(Clone, Debug, Default)]
pub struct NatRequest<'a> {
    /// `10.80.0.1/24`; never empty here: the caller of [`NatRequest::check`] has picked one.
    pub subnet: &'a str,
    /// First address that DHCP gives, or empty.
    pub dhcp_first: &'a str,
    /// Last address that DHCP gives, or empty.
    pub dhcp_last: &'a str,
    /// Domain, or empty.
    pub domain: &'a str,
    /// Name servers.
    pub dns_servers: &'a [String],
}

impl NatRequest<'_> {
    /// Checks all fields, and names all that are at fault (`nat.…`).
    pub fn check(&self) -> Result<Nat, Failure> {
        let mut wrong = Vec::new();
        let subnet = collect(&mut wrong, "nat.subnet", self.subnet, Subnet::try_from(self.subnet));
        let dhcp = subnet.and_then(|subnet| {
            let range = Range::of(subnet, self.dhcp_first, self.dhcp_last);
            range.map_err(|violation| wrong.push(violation.under("nat"))).ok()
        });
        let domain = check_domain("nat.domain", self.domain, &mut wrong);
        let dns_servers = check_servers("nat.dns_servers", self.dns_servers, &mut wrong);
        match (subnet, dhcp, wrong.is_empty()) {
            (Some(subnet), Some(dhcp), true) => Ok(Nat { subnet, dhcp, domain, dns_servers }),
            _ => Err(Failure::violations(wrong)),
        }
    }
}

impl Uplink {
    /// Checks what a caller wrote about a bridge network.
    pub fn check(interface: &str, vlan: u32) -> Result<Self, Failure> {
        let mut wrong = Vec::new();
        if let Err(reason) = check_interface(interface) {
            wrong.push(violation("bridge.uplink", interface, reason));
        }
        let vlan = match (vlan, u16::try_from(vlan)) {
            (0, _) => None,
            (1..=4094, Ok(vlan)) => Some(vlan),
            _ => {
                wrong.push(violation("bridge.vlan", vlan, "is no VLAN: give 1 to 4094, or 0 for none"));
                None
            }
        };
        if wrong.is_empty() { Ok(Self { interface: interface.into(), vlan }) } else { Err(Failure::violations(wrong)) }
    }
}

impl NetworkKind {
    /// The addresses on it, when the host has one there.
    pub fn subnet(&self) -> Option<Subnet> {
        match self {
            Self::Bridge(_) => None,
            Self::Nat(nat) => Some(nat.subnet),
            Self::Isolated { subnet } => *subnet,
        }
    }
}

impl Network {
    /// The addresses on it, when the host has one there.
    pub fn subnet(&self) -> Option<Subnet> {
        self.kind.subnet()
    }

    /// What DHCP gives on it, when this node gives addresses there.
    pub fn dhcp(&self) -> Option<Range> {
        match &self.kind {
            NetworkKind::Bridge(_) => None,
            NetworkKind::Nat(nat) => Some(nat.dhcp),
            NetworkKind::Isolated { subnet } => subnet.and_then(Range::all_of),
        }
    }

    /// Checks a fixed address that somebody wants for a NIC here; `field` is blamed when it cannot be had.
    pub fn check_address(&self, field: &str, address: &str) -> Result<Ipv4Addr, Failure> {
        let refuse = |reason: String| Err(Failure::invalid(field, address, reason));
        let Ok(wanted) = address.parse::<Ipv4Addr>() else {
            return refuse("is no IPv4 address: write it as 10.80.0.7".into());
        };
        // Nothing is known of the addresses behind an uplink, nor on a network without any.
        let Some(subnet) = self.subnet() else { return Ok(wanted) };
        if !subnet.is_host(wanted) {
            return refuse(format!("is no address for a guest of network {}, which is {subnet}", self.name));
        }
        if subnet.address() == wanted {
            return refuse(format!("is the host's own address in network {}", self.name));
        }
        Ok(wanted)
    }
}

/// Checks the domain; empty means [`DEFAULT_DOMAIN`].
pub fn check_domain(field: &str, domain: &str, wrong: &mut Vec<Violation>) -> String {
    if domain.is_empty() {
        return DEFAULT_DOMAIN.into();
    }
    if domain.len() > 253 || !domain.split('.').all(|label| Name::try_from(label).is_ok()) {
        wrong.push(violation(field, domain, "is no domain: write labels of a-z, 0-9 and -, with dots between them"));
    }
    domain.into()
}

/// Checks name servers: plain addresses that can be asked.
pub fn check_servers(field: &str, servers: &[String], wrong: &mut Vec<Violation>) -> Vec<IpAddr> {
    /// dnsmasq asks all of them; more than a few only cost time.
    const MOST: usize = 8;
    if servers.len() > MOST {
        wrong.push(violation(field, servers.len(), "are too many name servers: give at most 8"));
    }
    let parse = |(i, text): (usize, &String)| match text.parse::<IpAddr>() {
        Ok(address) if !address.is_unspecified() && !address.is_multicast() => Some(address),
        _ => {
            wrong.push(violation(
                &format!("{field}[{i}]"),
                text,
                "is no address of a name server: write it as 9.9.9.9",
            ));
            None
        }
    };
    servers.iter().take(MOST).enumerate().filter_map(parse).collect()
}

/// Whether the kernel would take this name for an interface.
fn check_interface(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("is missing: name an interface of the host, or a bridge");
    }
    if name.len() > 15 {
        return Err("is no interface: their names have at most 15 characters");
    }
    let wrong = |b: u8| b == b'/' || b == b':' || b == b'%' || b == b'"' || !b.is_ascii_graphic();
    if name.bytes().any(wrong) || name == "." || name == ".." {
        return Err("is no interface: their names have no blanks, '/', ':', '%' and '\"'");
    }
    if name == "lo" || name.starts_with("qx") {
        return Err("cannot be an uplink: name an interface that leads out of this node");
    }
    Ok(())
}

/// A violation in the words of [`Failure::invalid`].
fn violation(field: &str, value: impl std::fmt::Display, reason: impl std::fmt::Display) -> Violation {
    let failure = Failure::invalid(field, value, reason);
    failure.fields().first().cloned().unwrap_or_else(|| Violation { field: field.into(), description: String::new() })
}

fn collect<T>(wrong: &mut Vec<Violation>, field: &str, value: &str, parsed: Result<T, String>) -> Option<T> {
    parsed.map_err(|reason| wrong.push(violation(field, value, reason))).ok()
}

impl Violation {
    /// The same with a path before the field.
    fn under(mut self, path: &str) -> Self {
        self.field = format!("{path}.{}", self.field);
        self
    }
}

#[cfg(test)]
mod tests;
