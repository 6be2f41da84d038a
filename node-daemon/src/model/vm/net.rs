//! Addresses and rules of a NIC. Pure; parsing is in `FromStr`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Hardware address of a NIC: unicast and not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// The six bytes, in the order of the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "is not a MAC address: write six bytes as 52:54:00:12:34:56";
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(RULE)?;
            *octet = u8::from_str_radix(pair, 16).map_err(|_| RULE)?;
        }
        match (pairs.next(), octets) {
            (Some(_), _) => Err(RULE),
            (None, [first, ..]) if first & 1 == 1 => Err("is a multicast address: make the first byte even"),
            (None, [0, 0, 0, 0, 0, 0]) => Err("is zero: leave it out for an address of this node's"),
            (None, _) => Ok(Self(octets)),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|octet| format!("{octet:02x}")).join(":"))
    }
}

impl TryFrom<String> for Mac {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// One rule for a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirewallRule {
    /// Which way.
    pub direction: Direction,
    /// It passes; else it is dropped.
    pub accept: bool,
    /// Which protocol; [`None`] for all.
    pub protocol: Option<Protocol>,
    /// The other side; [`None`] for all.
    pub remote: Option<Prefix>,
    /// Ports of the destination; [`None`] for all.
    pub ports: Option<Ports>,
}

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the guest.
    In,
    /// From the guest.
    Out,
}

/// A protocol that rules know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

impl FromStr for Protocol {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Tcp, Self::Udp, Self::Icmp]
            .into_iter()
            .find(|protocol| protocol.as_str() == text)
            .ok_or("is not tcp, udp or icmp: leave it out for all")
    }
}

/// An address with the number of its bits that count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// The address; bits that do not count are zero.
    pub address: IpAddr,
    /// How many bits count.
    pub length: u8,
}

impl FromStr for Prefix {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "is not an address or a prefix: write 192.0.2.1, 192.0.2.0/24 or 2001:db8::/32";
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| RULE)?;
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(text) => text.parse().ok().filter(|length| *length <= bits).ok_or(RULE)?,
        };
        let masked = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(u32::from(bits - length)).unwrap_or(0);
                IpAddr::V4((v4.to_bits() & mask).into())
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(u32::from(bits - length)).unwrap_or(0);
                IpAddr::V6((v6.to_bits() & mask).into())
            }
        };
        if masked != address {
            return Err("has bits after its prefix: clear them, or write the address without a length");
        }
        Ok(Self { address, length })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let single = self.length == if self.address.is_ipv4() { 32 } else { 128 };
        if single { self.address.fmt(f) } else { write!(f, "{}/{}", self.address, self.length) }
    }
}

/// A range of ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ports {
    /// The first.
    pub first: u16,
    /// The last; at least `first`.
    pub last: u16,
}

impl FromStr for Ports {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "is not a port or a range of ports: write 22 or 8000-8100";
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or(RULE);
        let ports = Self { first: port(first)?, last: port(last)? };
        if ports.first <= ports.last { Ok(ports) } else { Err(RULE) }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}
