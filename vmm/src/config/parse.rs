//! Small texts into checked values: sizes, names, addresses, sources.
//!
//! Runs on the main thread. A value of one of these types has been checked, so nobody checks it again.
//! It must not know which option a text came from; the caller adds that.

use std::fmt;
use std::path::PathBuf;

/// Why a text was refused. The caller puts the option and the value in front.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a size.
    #[error("a size is a number with an optional suffix, such as 512M")]
    NotASize,
    /// A size with a suffix nobody knows.
    #[error("unknown size suffix '{0}'; use K, M, G or T")]
    SizeSuffix(String),
    /// A size that does not fit 64 bits.
    #[error("the size is above 16 EiB; use a smaller one")]
    SizeOverflow,
    /// Not a name in the sense of the API.
    #[error("a name has 1 to 63 of a-z, 0-9 and '-', and neither starts nor ends with '-'")]
    Name,
    /// Not a hardware address.
    #[error("a MAC is six pairs of hex digits joined by ':', such as 52:54:00:12:34:56")]
    Mac,
    /// A group address, which no NIC can own.
    #[error("this is a multicast address; clear the lowest bit of the first byte")]
    MacMulticast,
    /// The address of nobody.
    #[error("this address is all zeros; leave mac out for a random one")]
    MacZero,
    /// A number outside its bounds.
    #[error("must be from {min} to {max}")]
    Bounds {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// An unusable path.
    #[error("a path is not empty and has no NUL byte")]
    Path,
    /// Not a way to carry a character stream.
    #[error("use stdio, off, file=PATH, socket=PATH or fd:NAME")]
    Endpoint,
    /// Any other text that breaks its own rule.
    #[error("{0}")]
    Rule(&'static str),
}

/// Parses a size in bytes: a number with an optional binary suffix K, M, G or T (either case).
pub fn size(text: &str) -> Result<u64, ParseError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() {
        return Err(ParseError::NotASize);
    }
    let shift: u32 = match suffix {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        "T" | "t" => 40,
        other => return Err(ParseError::SizeSuffix(other.chars().take(16).collect())),
    };
    let number: u64 = number.parse().map_err(|_| ParseError::SizeOverflow)?;
    number.checked_mul(1 << shift).ok_or(ParseError::SizeOverflow)
}

/// Whether the text is a name in the sense of the API: `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`.
fn is_name(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| *b != b'-');
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
}

/// A newtype on text: its rule, its `TryFrom`, its way out.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<&str> for $name {
            type Error = ParseError;

            fn try_from(text: &str) -> Result<Self, ParseError> {
                let rule: fn(&str) -> Result<(), ParseError> = $rule;
                rule(text).map(|()| Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text!(
    /// Name of a device on the control socket.
    DeviceId,
    |text| if is_name(text) { Ok(()) } else { Err(ParseError::Name) }
);
checked_text!(
    /// Name of a file descriptor in the store.
    FdName,
    |text| if is_name(text) { Ok(()) } else { Err(ParseError::Name) }
);
checked_text!(
    /// Name of a network interface of the host.
    TapName,
    |text| {
        let length = (1..=15).contains(&text.len());
        let bytes = text.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
        if length && bytes && text != "." && text != ".." {
            Ok(())
        } else {
            Err(ParseError::Rule("an interface name has 1 to 15 letters, digits or signs, without '/', ':' and '%'"))
        }
    }
);
checked_text!(
    /// Serial number of a disk (virtio 1.2 section 5.2.6.1: at most 20 bytes).
    DiskSerial,
    |text| {
        let length = (1..=20).contains(&text.len());
        if length && text.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(())
        } else {
            Err(ParseError::Rule("a serial number has 1 to 20 printable ASCII characters and no space"))
        }
    }
);
checked_text!(
    /// Kernel command line: at most 2047 bytes, which is what x86 Linux keeps, and no control characters.
    Cmdline,
    |text| {
        if text.len() > 2047 {
            return Err(ParseError::Rule("a kernel keeps 2047 bytes of it; make it shorter"));
        }
        if text.chars().any(char::is_control) {
            return Err(ParseError::Rule("it has a NUL or another control character; take it out"));
        }
        Ok(())
    }
);

/// A newtype on a number: its bounds, its `TryFrom`, its way out.
macro_rules! checked_number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $min:expr, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name($inner);

        impl $name {
            /// The number.
            pub fn get(self) -> $inner {
                self.0
            }
        }

        impl TryFrom<u64> for $name {
            type Error = ParseError;

            fn try_from(number: u64) -> Result<Self, ParseError> {
                let bounds = ParseError::Bounds { min: $min, max: $max };
                if !($min..=$max).contains(&number) {
                    return Err(bounds);
                }
                <$inner>::try_from(number).map(Self).map_err(|_| bounds)
            }
        }
    };
}

checked_number!(
    /// Queues of a disk, or queue pairs of a NIC.
    QueueCount, u16, 1, 16
);
checked_number!(
    /// Context id of a guest (virtio 1.2 section 5.10.4: 0 to 2 and the largest are reserved).
    GuestCid, u32, 3, 0xffff_fffe
);

/// Hardware address of a NIC: unicast and not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// The six bytes, in the order of the wire.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<&str> for MacAddress {
    type Error = ParseError;

    fn try_from(text: &str) -> Result<Self, ParseError> {
        let mut octets = [0; 6];
        let mut pairs = text.split(':');
        for octet in &mut octets {
            let pair = pairs.next().ok_or(ParseError::Mac)?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseError::Mac);
            }
            *octet = u8::from_str_radix(pair, 16).map_err(|_| ParseError::Mac)?;
        }
        match (pairs.next(), octets) {
            (Some(_), _) => Err(ParseError::Mac),
            (None, [first, ..]) if first & 1 == 1 => Err(ParseError::MacMulticast),
            (None, [0, 0, 0, 0, 0, 0]) => Err(ParseError::MacZero),
            (None, _) => Ok(Self(octets)),
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|octet| format!("{octet:02x}")).join(":"))
    }
}

/// A run of vCPU numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuRange {
    /// First vCPU.
    pub first: u8,
    /// Last vCPU, not below the first.
    pub last: u8,
}

impl TryFrom<&str> for CpuRange {
    type Error = ParseError;

    fn try_from(text: &str) -> Result<Self, ParseError> {
        let rule = || ParseError::Rule("vCPUs are a number or a range, such as 0-3");
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let number = |part: &str| part.parse::<u8>().ok().filter(|_| digits(part)).ok_or_else(rule);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let range = Self { first: number(first)?, last: number(last)? };
        if range.first <= range.last { Ok(range) } else { Err(rule()) }
    }
}

/// Where a file, a socket or a device comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A path, opened before the sandbox closes.
    Path(PathBuf),
    /// A descriptor that was passed by name.
    Fd(FdName),
}

impl TryFrom<&str> for Source {
    type Error = ParseError;

    fn try_from(text: &str) -> Result<Self, ParseError> {
        match text.strip_prefix("fd:") {
            Some(name) => FdName::try_from(name).map(Self::Fd),
            None => path(text).map(Self::Path),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Fd(name) => write!(f, "fd:{name}"),
        }
    }
}

/// Where a character stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Nowhere: the device is not there.
    Off,
    /// Standard input and output.
    Stdio,
    /// Output into a file; no input.
    File(PathBuf),
    /// A unix stream socket that is listened on.
    Socket(PathBuf),
    /// A descriptor that was passed by name.
    Fd(FdName),
}

impl TryFrom<&str> for Endpoint {
    type Error = ParseError;

    fn try_from(text: &str) -> Result<Self, ParseError> {
        match text {
            "off" => return Ok(Self::Off),
            "stdio" => return Ok(Self::Stdio),
            _ => {}
        }
        if let Some(file) = text.strip_prefix("file=") {
            path(file).map(Self::File)
        } else if let Some(socket) = text.strip_prefix("socket=") {
            path(socket).map(Self::Socket)
        } else if let Some(name) = text.strip_prefix("fd:") {
            FdName::try_from(name).map(Self::Fd)
        } else {
            Err(ParseError::Endpoint)
        }
    }
}

fn path(text: &str) -> Result<PathBuf, ParseError> {
    if text.is_empty() || text.contains('\0') { Err(ParseError::Path) } else { Ok(PathBuf::from(text)) }
}
