//! dnsmasq's lease file: one lease a line, `EXPIRY MAC ADDRESS HOSTNAME CLIENT-ID`. Pure.
//!
//! Host names come from guests, and the file may be read while it is written: a line that is not whole or not sound is
//! left out, whatever it holds.

use std::net::Ipv4Addr;

use crate::model::Mac;

/// One address that DHCP gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// To which NIC.
    pub mac: Mac,
    /// Which address.
    pub address: Ipv4Addr,
    /// What the guest called itself; empty when it did not, or not decently.
    pub hostname: String,
    /// Seconds since 1970; none: for ever.
    pub expires: Option<u64>,
}

impl Lease {
    /// Whether it counts at this time, in seconds since 1970.
    pub fn is_valid_at(&self, now: u64) -> bool {
        self.expires.is_none_or(|expires| expires > now)
    }
}

/// Reads the file's text.
pub fn parse(text: &str) -> Vec<Lease> {
    // What follows the last line break may be half a line.
    let whole = text.rfind('\n').map_or("", |end| text.get(..end).unwrap_or(""));
    whole.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Lease> {
    let mut words = line.split(' ');
    let expiry: u64 = words.next()?.parse().ok()?;
    // "duid …" and IPv6 leases have no MAC here.
    let mac = Mac::try_from(words.next()?).ok()?;
    let address = words.next()?.parse().ok()?;
    let hostname = words.next()?;
    words.next()?;
    let decent = hostname.len() <= 63 && hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let hostname = if decent { hostname.to_owned() } else { String::new() };
    Some(Lease { mac, address, hostname, expires: (expiry > 0).then_some(expiry) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn leases_are_read_and_what_is_no_lease_is_left_out() {
        let text = "1700000000 52:54:00:00:00:01 10.80.0.7 web 01:52:54:00:00:00:01\n\
                    0 52:54:00:00:00:02 10.80.0.8 * *\n\
                    x 52:54:00:00:00:03 10.80.0.9 a *\n\
                    1700000000 52:54:00:00:00 10.80.0.9 a *\n\
                    1700000000 52:54:00:00:00:04 10.80.0.300 a *\n\
                    1700000000 52:54:00:00:00:05 10.80.0.10\n\
                    duid 00:01:00:01:2e:e7:9a:5c:52:54:00:00:00:01\n\
                    1700000000 52:54:00:00:00:06 10.80.0.11 half";
        let leases = parse(text);
        assert_eq!(leases.len(), 2, "{leases:?}");
        assert_eq!((leases[0].hostname.as_str(), leases[0].expires), ("web", Some(1_700_000_000)));
        assert_eq!((leases[1].hostname.as_str(), leases[1].expires), ("", None));
        assert!(leases[0].is_valid_at(1_699_999_999) && !leases[0].is_valid_at(1_700_000_000));
        assert!(leases[1].is_valid_at(u64::MAX));
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_reader(text in ".*", bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            parse(&text);
            for lease in parse(&String::from_utf8_lossy(&bytes)) {
                prop_assert!(lease.hostname.len() <= 63);
            }
        }
    }
}
