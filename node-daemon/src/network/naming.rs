//! Names of interfaces that this daemon makes: at most 15 characters, the same for the same thing, and begun with `qx`, so
//! that people and the sweep at start know them. Pure.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::model::Id;

/// What begins all our names.
pub const PREFIX: &str = "qx";

fn name(kind: char, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        // Parts are told apart: "a", "bc" is not "ab", "c".
        hash.update([0]);
    }
    let digest = hash.finalize();
    let mut name = format!("{PREFIX}{kind}");
    for byte in digest.iter().take(6) {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

/// A network's own bridge.
pub fn bridge(network: &Id) -> String {
    name('b', &[network.as_str()])
}

/// The sub-interface of an uplink that carries one VLAN.
pub fn vlan(uplink: &str, vlan: u16) -> String {
    name('v', &[uplink, &vlan.to_string()])
}

/// The tap of a NIC.
pub fn tap(vm: &Id, nic: &str) -> String {
    name('t', &[vm.as_str(), nic])
}

/// A link address for a bridge, so that it does not change with the ports that come and go.
pub fn bridge_address(bridge: &str) -> [u8; 6] {
    let digest = Sha256::digest(bridge.as_bytes());
    let mut address = [0x52, 0x54, 0x01, 0, 0, 0];
    for (to, from) in address.iter_mut().skip(3).zip(digest.iter()) {
        *to = *from;
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_stable_and_apart() {
        let (vm, other) = (Id::new(), Id::new());
        let names =
            [tap(&vm, "net0"), tap(&vm, "net1"), tap(&other, "net0"), bridge(&vm), vlan("eth0", 5), vlan("eth0", 6)];
        for name in &names {
            assert!(name.len() <= 15 && name.starts_with(PREFIX), "{name}");
        }
        let apart: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(apart.len(), names.len());
        assert_eq!(tap(&vm, "net0"), names[0]);
    }
}
