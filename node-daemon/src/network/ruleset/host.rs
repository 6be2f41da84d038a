//! The `inet` table: what guests reach of the host, what is routed for them, and behind which address. Pure.
//!
//! ```text
//! input        map by bridge ──► host-BRIDGE: DHCP, DNS and echo of the host's address there, answers; nothing else
//! forward      map by bridge ──► out-BRIDGE:  outwards, never into another network of ours
//!              map by bridge ──► into-BRIDGE: answers only
//! postrouting  masquerade, one rule a NAT network
//! ```

use std::collections::BTreeMap;

use super::statement::{
    Statement, accept, any_of, by_map, count, drop, established, field, is, is_not, masquerade, meta, prefix,
};
use super::tables::{Chain, Hook, Rules, Table};
use super::{Desired, Reach, stray_counter};
use crate::model::Subnet;

/// When source addresses are translated, as nftables' `srcnat`.
const SOURCE_NAT: i32 = 100;

/// The counter of what would be routed only because we switched routing on.
const FOREIGN: &str = "foreign";

/// The table for this state.
pub fn table(desired: &Desired) -> Table {
    let mut table = Table::default();
    let (mut host, mut out, mut into) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut masquerades = Vec::new();
    let own: Vec<&str> = desired
        .networks
        .iter()
        .filter(|n| !matches!(n.reach, Reach::Uplink))
        .map(|network| network.bridge.as_str())
        .collect();
    for network in &desired.networks {
        let bridge = network.bridge.as_str();
        let (services, outwards) = match network.reach {
            // The host is not between a guest and its uplink.
            Reach::Uplink => continue,
            Reach::Outwards(subnet) => {
                masquerades.push(vec![
                    is(field("ip", "saddr"), prefix(subnet.network().into(), subnet.prefix())),
                    is_not(meta("oifname"), bridge),
                    masquerade(),
                ]);
                (named_services(subnet), Some(subnet))
            }
            Reach::Nowhere(Some(_)) => (vec![dhcp()], None),
            Reach::Nowhere(None) => (Vec::new(), None),
        };
        table.counters.insert(stray_counter(bridge));
        let stray = vec![count(&stray_counter(bridge)), drop()];
        for (map, kind, rules) in [
            (&mut host, "host", host_rules(services, &stray)),
            (&mut out, "out", out_rules(bridge, &own, outwards, &stray)),
            (&mut into, "into", into_rules(outwards.is_some(), &stray)),
        ] {
            let name = format!("{kind}-{bridge}");
            map.insert(bridge.to_owned(), name.clone());
            table.chains.insert(name, Chain { hook: None, rules: rules.into() });
        }
    }
    let mut forward = vec![vec![by_map(meta("iifname"), "out")], vec![by_map(meta("oifname"), "into")]];
    if desired.routes_only_ours {
        table.counters.insert(FOREIGN.into());
        forward.push(vec![count(FOREIGN), drop()]);
    }
    let filter = |name| Some(Hook { kind: "filter", name, priority: 0 });
    let nat = Some(Hook { kind: "nat", name: "postrouting", priority: SOURCE_NAT });
    for (name, hook, rules) in [
        ("to-host", filter("input"), vec![vec![by_map(meta("iifname"), "host")]]),
        ("routed", filter("forward"), forward),
        ("leaving", nat, masquerades),
    ] {
        table.chains.insert(name.into(), Chain { hook, rules: rules.into() });
    }
    table.maps = BTreeMap::from([("host".into(), host), ("out".into(), out), ("into".into(), into)]);
    table
}

fn dhcp() -> Vec<Statement> {
    vec![is(field("udp", "sport"), 68), is(field("udp", "dport"), 67), accept()]
}

/// What a NAT network's guests reach of the host: at its address there, not at its others.
fn named_services(subnet: Subnet) -> Rules {
    let here = || is(field("ip", "daddr"), subnet.address().to_string());
    let dns = |protocol: &str| vec![here(), is(field(protocol, "dport"), 53), accept()];
    vec![dhcp(), dns("udp"), dns("tcp"), vec![here(), is(field("icmp", "type"), "echo-request"), accept()]]
}

fn host_rules(services: Rules, stray: &[Statement]) -> Rules {
    // What the host itself began may be answered.
    let mut rules = vec![vec![established(), accept()]];
    rules.extend(services);
    rules.push(stray.to_vec());
    rules
}

fn out_rules(bridge: &str, own: &[&str], outwards: Option<Subnet>, stray: &[Statement]) -> Rules {
    // Where frames on bridges are handed to this table too (br_netfilter), they are not routed: the other table judges.
    let mut rules = vec![vec![is(meta("oifname"), bridge), accept()]];
    if let Some(subnet) = outwards {
        let ours = is(field("ip", "saddr"), prefix(subnet.network().into(), subnet.prefix()));
        rules.push([vec![is(meta("oifname"), any_of(own.iter().copied()))], stray.to_vec()].concat());
        rules.push(vec![ours, accept()]);
    }
    rules.push(stray.to_vec());
    rules
}

fn into_rules(routed: bool, stray: &[Statement]) -> Rules {
    let mut rules = Vec::new();
    if routed {
        rules.push(vec![established(), accept()]);
    }
    rules.push(stray.to_vec());
    rules
}
