//! Link and IPv4 addresses as this node gives them. Pure.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};

use super::super::Violation;
use super::violation;

/// A link address of one NIC, written as `52:54:00:12:34:56`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// What begins the addresses that this node makes: locally administered, and known as KVM's.
    const OURS: [u8; 3] = [0x52, 0x54, 0x00];

    /// One of ours, from three bytes that should be random.
    pub fn ours(tail: [u8; 3]) -> Self {
        let mut bytes = [0; 6];
        for (to, from) in bytes.iter_mut().zip(Self::OURS.iter().chain(&tail)) {
            *to = *from;
        }
        Self(bytes)
    }

    /// The six bytes.
    pub fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<&str> for Mac {
    type Error = &'static str;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        const FORM: &str = "is no MAC address: write six bytes in hexadecimal, as 52:54:00:12:34:56";
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(FORM)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| FORM)?;
        }
        if parts.next().is_some() {
            return Err(FORM);
        }
        match bytes {
            [0, 0, 0, 0, 0, 0] => Err("is no address of a NIC: all its bytes are zero"),
            [first, ..] if first & 1 == 1 => Err("is no address of a NIC: it is a group's (the first byte is odd)"),
            _ => Ok(Self(bytes)),
        }
    }
}

impl TryFrom<String> for Mac {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// The host's address in a network, and the length of the prefix: `10.80.0.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

impl Subnet {
    /// Any address with any prefix of 0 to 32, as routes have them.
    pub fn of_route(address: Ipv4Addr, prefix: u8) -> Self {
        Self { address, prefix: prefix.min(32) }
    }

    /// The host's address.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Length of the prefix in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The mask.
    pub fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.mask_bits())
    }

    fn mask_bits(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }

    /// The network's own address: all host bits zero.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() & self.mask_bits())
    }

    /// The broadcast address: all host bits one.
    pub fn broadcast(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !self.mask_bits())
    }

    /// Whether this is an address that one host may have.
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.network() < address && address < self.broadcast()
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.network() <= other.broadcast() && other.network() <= self.broadcast()
    }
}

impl TryFrom<&str> for Subnet {
    type Error = String;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let form = || "is no subnet: write the host's address and the prefix, as 10.80.0.1/24".to_owned();
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address = Ipv4Addr::from_str(address).map_err(|_| form())?;
        let digits = (1..=2).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_digit());
        let prefix = prefix.parse::<u8>().ok().filter(|_| digits).ok_or_else(form)?;
        if !(8..=30).contains(&prefix) {
            return Err("has a prefix that leaves too few or too many addresses: give /8 to /30".into());
        }
        let subnet = Self { address, prefix };
        if address == subnet.network() {
            let first = Ipv4Addr::from_bits(address.to_bits() | 1);
            return Err(format!(
                "is the network's own address: write the host's address in it, such as {first}/{prefix}"
            ));
        }
        if address == subnet.broadcast() {
            return Err("is the broadcast address: write an address that the host can have".into());
        }
        if address.is_loopback() || address.is_link_local() || address.octets()[0] == 0 || address.octets()[0] >= 224 {
            return Err("is not usable for a network: take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16".into());
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// First and last address that DHCP gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The first.
    pub first: Ipv4Addr,
    /// The last.
    pub last: Ipv4Addr,
}

impl Range {
    /// All addresses of one side of the host's, the larger side; none when the host has the only one.
    pub fn all_of(subnet: Subnet) -> Option<Self> {
        let (low, host, high) = (subnet.network().to_bits(), subnet.address().to_bits(), subnet.broadcast().to_bits());
        let (first, last) = if host - low > high - host { (low + 1, host - 1) } else { (host + 1, high - 1) };
        (first <= last).then(|| Self { first: Ipv4Addr::from_bits(first), last: Ipv4Addr::from_bits(last) })
    }

    /// What a caller wrote; both empty means [`Range::all_of`]. A violation names `dhcp_first` or `dhcp_last`.
    pub fn of(subnet: Subnet, first: &str, last: &str) -> Result<Self, Violation> {
        if first.is_empty() && last.is_empty() {
            let full = || violation("subnet", subnet, "leaves no address for guests: give a shorter prefix");
            return Self::all_of(subnet).ok_or_else(full);
        }
        let parse = |field: &str, text: &str| match text.parse::<Ipv4Addr>() {
            Ok(address) if subnet.is_host(address) => Ok(address),
            Ok(_) => Err(violation(field, text, format!("is no address for a guest in {subnet}"))),
            Err(_) if text.is_empty() => {
                Err(violation(field, text, "is missing: give both ends of the range, or neither"))
            }
            Err(_) => Err(violation(field, text, "is no IPv4 address: write it as 10.80.0.100")),
        };
        let range = Self { first: parse("dhcp_first", first)?, last: parse("dhcp_last", last)? };
        if range.first > range.last {
            return Err(violation("dhcp_last", last, format!("is before the first address, {first}")));
        }
        if range.first <= subnet.address() && subnet.address() <= range.last {
            let reason = format!("begins a range that holds the host's own address, {}", subnet.address());
            return Err(violation("dhcp_first", first, reason));
        }
        Ok(range)
    }

    /// How many addresses there are in it.
    pub fn count(self) -> u32 {
        self.last.to_bits().saturating_sub(self.first.to_bits()).saturating_add(1)
    }
}

/// The first /24 of 10.80.0.0/12 that overlaps none of `taken`, with the host at .1.
pub fn free_subnet(taken: &[Subnet]) -> Option<Subnet> {
    const FIRST: u32 = Ipv4Addr::new(10, 80, 0, 1).to_bits();
    (0..1 << 12)
        .map(|i| Subnet { address: Ipv4Addr::from_bits(FIRST + (i << 8)), prefix: 24 })
        .find(|candidate| !taken.iter().any(|other| other.overlaps(*candidate)))
}
