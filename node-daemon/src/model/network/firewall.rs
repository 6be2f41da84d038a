//! Security rules of a NIC: what callers write, read once into checked types. Pure.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::super::{Failure, Violation};
use super::violation;

/// One rule: the first that matches decides. A direction that has a rule passes only what its rules accept; a direction
/// without one passes everything. Answers to what was accepted pass always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRule {
    /// To or from the guest.
    pub direction: Direction,
    /// What is done with it.
    pub action: RuleAction,
    /// None: all.
    pub protocol: Option<Protocol>,
    /// The other side; none: all.
    pub remote: Option<Remote>,
    /// Of the destination; none: all.
    pub ports: Option<Ports>,
}

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the guest.
    In,
    /// From the guest.
    Out,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuleAction {
    /// Let it pass.
    Accept,
    /// Let it vanish.
    Drop,
}

/// What is inside the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP and `ICMPv6`.
    Icmp,
}

impl Protocol {
    /// As callers write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// The other side: an address or a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Remote {
    address: IpAddr,
    prefix: u8,
}

impl Remote {
    /// The first address of it.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// Length of the prefix in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }
}

impl TryFrom<&str> for Remote {
    type Error = &'static str;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        const FORM: &str = "is no address or prefix: write it as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32";
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| FORM)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => bits,
            Some(p) if (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()) => {
                p.parse().map_err(|_| FORM)?
            }
            Some(_) => return Err(FORM),
        };
        if prefix > bits {
            return Err("has a prefix that is longer than the address");
        }
        let zeroed = match address {
            IpAddr::V4(a) => {
                IpAddr::V4((a.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into())
            }
            IpAddr::V6(a) => {
                IpAddr::V6((a.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into())
            }
        };
        if zeroed != address {
            return Err("has bits behind its prefix: write zeros there, or a longer prefix");
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Remote {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl From<Remote> for String {
    fn from(remote: Remote) -> Self {
        remote.to_string()
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = if self.address.is_ipv4() { 32 } else { 128 };
        if self.prefix == bits { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.prefix) }
    }
}

/// One port, or a range of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// The first.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last; the same as the first for one port.
    pub fn last(self) -> u16 {
        self.last
    }
}

impl TryFrom<&str> for Ports {
    type Error = &'static str;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        const FORM: &str = "are no ports: write one as 22, or a range as 8000-8100";
        let port = |text: &str| {
            let digits = (1..=5).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
            text.parse::<u16>().ok().filter(|port| digits && *port > 0).ok_or(FORM)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let ports = Self { first: port(first)?, last: port(last)? };
        if ports.first > ports.last { Err("are a range that ends before it begins") } else { Ok(ports) }
    }
}

impl TryFrom<String> for Ports {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FirewallRule {
    /// Reads what a caller wrote; violations are named relative to the rule (`protocol`, `remote`, `ports`).
    pub fn check(
        direction: Direction,
        action: RuleAction,
        protocol: &str,
        remote: &str,
        ports: &str,
    ) -> Result<Self, Failure> {
        let mut wrong: Vec<Violation> = Vec::new();
        let parsed = match protocol {
            "" => None,
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "icmp" => Some(Protocol::Icmp),
            other => {
                wrong.push(violation("protocol", other, "is not known: write tcp, udp or icmp, or nothing for all"));
                None
            }
        };
        let mut blame = |field: &str, text: &str, reason: &str| wrong.push(violation(field, text, reason));
        let side = (!remote.is_empty()).then(|| Remote::try_from(remote));
        let side = side.transpose().unwrap_or_else(|reason| {
            blame("remote", remote, reason);
            None
        });
        let numbers = (!ports.is_empty()).then(|| Ports::try_from(ports));
        let numbers = numbers.transpose().unwrap_or_else(|reason| {
            blame("ports", ports, reason);
            None
        });
        if !ports.is_empty() && !matches!(protocol, "tcp" | "udp") {
            blame("ports", ports, "need a protocol that has ports: set protocol to tcp or udp");
        }
        if wrong.is_empty() {
            Ok(Self { direction, action, protocol: parsed, remote: side, ports: numbers })
        } else {
            Err(Failure::violations(wrong))
        }
    }
}
