//! The `bridge` table: what each NIC may send, and what reaches it. Pure.
//!
//! ```text
//! prerouting   from-guests ── map by tap ──► from-TAP: who it says it is, then the rules of direction OUT
//! postrouting  to-guests   ── map by tap ──► to-TAP:   the rules of direction IN
//! ```
//!
//! Answers to what was accepted pass always. Where the kernel follows connections on bridges, it knows them. Where it does
//! not, what is accepted in one direction is remembered for the other (`flows4-TAP`, `flows6-TAP`): addresses, protocol and
//! ports, swapped, for an hour (TCP) or three minutes since the last packet. That knows no sequence numbers, takes answers
//! of ICMP always, and lets later fragments pass, which are worth nothing without the first.
//!
//! No rule holds a set of its own: nft reads every set there is before each change, which made plugging in slower with each
//! NIC that was there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::statement::{
    Statement, accept, by_map, count, drop, established, field, goto, is, is_not, later_fragment4, later_fragment6,
    meta, network_header, prefix, range, remember, to_ports, together, within,
};
use super::tables::{Chain, Hook, Rules, Set, Table};
use super::{Desired, GuardedNetwork, GuardedNic, Reach, filter_counter, spoof_counter};
use crate::model::{Direction, FirewallRule, Protocol, RuleAction};

/// What an ARP packet begins with that is about Ethernet and IPv4: hardware 1, protocol 0x0800, lengths 6 and 4.
const ARP_OF_IPV4: u64 = 0x0001_0800_0604;

/// How long a connection is remembered after its last packet, in seconds.
const TCP_MEMORY: u32 = 3600;
const OTHER_MEMORY: u32 = 180;

/// The table for this state. `memo` holds what was made of it the last time; it changes nothing but the time that it takes.
pub fn table(desired: &Desired, memo: &mut Memo) -> Table {
    let taps: BTreeSet<&str> = desired.nics.iter().map(|nic| nic.tap.as_str()).collect();
    memo.0.retain(|tap, _| taps.contains(tap.as_str()));
    let mut table = Table::default();
    let hook = |name| Some(Hook { kind: "filter", name, priority: 0 });
    let entry = |hook, key: &str, map: &str| Chain { hook, rules: vec![vec![by_map(meta(key), map)]].into() };
    table.chains.insert("from-guests".into(), entry(hook("prerouting"), "iifname", "from"));
    table.chains.insert("to-guests".into(), entry(hook("postrouting"), "oifname", "to"));
    let (mut from, mut to) = (BTreeMap::new(), BTreeMap::new());
    for nic in &desired.nics {
        let parts = memo.chains(nic, desired);
        table.counters.insert(spoof_counter(&nic.tap));
        table.counters.insert(filter_counter(&nic.tap));
        for (rules, map, prefix) in [(parts.from, &mut from, "from"), (parts.to, &mut to, "to")] {
            let name = format!("{prefix}-{}", nic.tap);
            if !rules.is_empty() {
                map.insert(nic.tap.clone(), name.clone());
                table.chains.insert(name, Chain { hook: None, rules });
            }
        }
        for (name, rules) in parts.learning {
            table.chains.insert(name, Chain { hook: None, rules });
            table.sets.insert(flows(nic, "4"), Set::Flows("ipv4_addr"));
            table.sets.insert(flows(nic, "6"), Set::Flows("ipv6_addr"));
        }
    }
    for network in &desired.networks {
        table.sets.insert(claimed(&network.bridge), Set::Addresses(claims(network, desired)));
    }
    table.maps = BTreeMap::from([("from".into(), from), ("to".into(), to)]);
    table
}

/// Name of the set of addresses that belong to somebody on this bridge.
fn claimed(bridge: &str) -> String {
    format!("claimed-{bridge}")
}

fn claims(network: &GuardedNetwork, desired: &Desired) -> BTreeSet<String> {
    let host = match network.reach {
        Reach::Outwards(subnet) | Reach::Nowhere(Some(subnet)) => Some(subnet.address()),
        Reach::Uplink | Reach::Nowhere(None) => None,
    };
    let guests =
        desired.nics.iter().filter(|nic| nic.bridge == network.bridge).flat_map(|nic| nic.addresses.iter().copied());
    host.into_iter().chain(guests).map(|address| address.to_string()).collect()
}

fn flows(nic: &GuardedNic, version: &str) -> String {
    format!("flows{version}-{}", nic.tap)
}

/// The chains of each NIC as they were made last, with all that they were made from.
#[derive(Debug, Default)]
pub struct Memo(BTreeMap<String, (Sources, NicChains)>);

type Sources = (GuardedNic, Option<GuardedNetwork>, bool);

impl Memo {
    fn chains(&mut self, nic: &GuardedNic, desired: &Desired) -> NicChains {
        let network = desired.networks.iter().find(|network| network.bridge == nic.bridge);
        let conntrack = desired.bridge_conntrack;
        if let Some(((was, on, how), chains)) = self.0.get(&nic.tap)
            && (was, on.as_ref(), *how) == (nic, network, conntrack)
        {
            return chains.clone();
        }
        let chains = NicChains::of(nic, network, conntrack);
        let sources = (nic.clone(), network.cloned(), conntrack);
        self.0.insert(nic.tap.clone(), (sources, chains.clone()));
        chains
    }
}

#[derive(Clone, Debug)]
struct NicChains {
    from: Arc<Rules>,
    to: Arc<Rules>,
    /// Chains that remember and accept, by name.
    learning: Vec<(String, Arc<Rules>)>,
}

impl NicChains {
    fn of(nic: &GuardedNic, network: Option<&GuardedNetwork>, conntrack: bool) -> Self {
        let mut from = if nic.allow_spoofing { Vec::new() } else { identity(nic, network) };
        let mut learning = Vec::new();
        from.append(&mut filter(nic, Direction::Out, conntrack, &mut learning));
        let to = filter(nic, Direction::In, conntrack, &mut learning);
        let learning = learning.into_iter().map(|(name, rules)| (name, rules.into())).collect();
        Self { from: from.into(), to: to.into(), learning }
    }
}

/// Drops frames that do not say truly who sends them, and those that only a router or a DHCP server may send.
fn identity(nic: &GuardedNic, network: Option<&GuardedNetwork>) -> Rules {
    let mac = nic.mac.to_string();
    let kind = || field("ether", "type");
    let mut wrong = vec![
        // No VLAN tags, no spanning tree, nothing else that a switch would take from a guest.
        vec![is_not(kind(), "ip"), is_not(kind(), "arp"), is_not(kind(), "ip6")],
        vec![is_not(field("ether", "saddr"), mac.clone())],
        vec![is(kind(), "arp"), is_not(network_header(48), ARP_OF_IPV4)],
        vec![is_not(field("arp", "saddr ether"), mac)],
        // A DHCP server's, for IPv4 and IPv6.
        vec![is(field("udp", "sport"), 67)],
        vec![is(field("udp", "sport"), 547)],
        // Router advertisements and redirects.
        vec![is(field("icmpv6", "type"), 134)],
        vec![is(field("icmpv6", "type"), 137)],
    ];
    // Before it has an address, a guest asks from 0.0.0.0, and probes with it.
    let unnamed = "0.0.0.0".to_owned();
    if nic.addresses.is_empty() {
        let taken = Value::from(format!("@{}", claimed(&nic.bridge)));
        wrong.push(vec![is(field("arp", "saddr ip"), taken.clone())]);
        wrong.push(vec![is(field("ip", "saddr"), taken)]);
        if let Some(Reach::Outwards(subnet) | Reach::Nowhere(Some(subnet))) = network.map(|n| n.reach) {
            let own = prefix(subnet.network().into(), subnet.prefix());
            wrong.push(vec![is_not(field("ip", "saddr"), unnamed), is_not(field("ip", "saddr"), own)]);
        }
    } else {
        let own = |side: fn() -> Value| {
            let addresses = nic.addresses.iter().map(ToString::to_string).chain([unnamed.clone()]);
            addresses.map(|address| is_not(side(), address)).collect()
        };
        wrong.push(own(|| field("arp", "saddr ip")));
        wrong.push(own(|| field("ip", "saddr")));
    }
    let counter = spoof_counter(&nic.tap);
    wrong.into_iter().map(|matches| [matches, vec![count(&counter), drop()]].concat()).collect()
}

/// The rules of one direction. Chains that remember are added to `learning` when the kernel does not follow connections.
fn filter(nic: &GuardedNic, direction: Direction, conntrack: bool, learning: &mut Vec<(String, Rules)>) -> Rules {
    let (mine, others): (Vec<&FirewallRule>, Vec<_>) = nic.rules.iter().partition(|rule| rule.direction == direction);
    let mut pass = accept();
    // What nobody filters on its way back needs no memory.
    if !conntrack && !others.is_empty() {
        let name = format!("pass-{}-{}", side(direction), nic.tap);
        pass = goto(&name);
        learning.push((name, memory(nic)));
    }
    if mine.is_empty() {
        return if conntrack || others.is_empty() { Vec::new() } else { vec![vec![pass]] };
    }
    let mut rules = essentials(direction);
    rules.append(&mut if conntrack { vec![vec![established(), accept()]] } else { answers(nic) });
    for rule in mine {
        let act = match rule.action {
            RuleAction::Accept => vec![pass.clone()],
            RuleAction::Drop => vec![count(&filter_counter(&nic.tap)), drop()],
        };
        rules.extend(conditions(rule).into_iter().map(|conditions| [conditions, act.clone()].concat()));
    }
    rules.push(vec![count(&filter_counter(&nic.tap)), drop()]);
    rules
}

fn side(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

/// What no network works without: ARP, neighbour discovery, and the guest's own DHCP.
fn essentials(direction: Direction) -> Rules {
    let dhcp = |from: u16, to: u16| vec![is(field("udp", "sport"), from), is(field("udp", "dport"), to), accept()];
    let (discovery, dhcp4, dhcp6): (&[(u8, u8)], _, _) = match direction {
        // Multicast reports; router solicitations; neighbours.
        Direction::Out => (&[(131, 133), (135, 136), (143, 143)], dhcp(68, 67), dhcp(546, 547)),
        // Multicast queries; router advertisements; neighbours.
        Direction::In => (&[(130, 130), (134, 136)], dhcp(67, 68), dhcp(547, 546)),
    };
    let mut rules = vec![vec![is(field("ether", "type"), "arp"), accept()], dhcp4, dhcp6];
    rules.extend(icmp_types("icmpv6", discovery));
    rules
}

/// Passes answers by what was remembered, where the kernel does not follow connections.
fn answers(nic: &GuardedNic) -> Rules {
    let mut rules = vec![vec![later_fragment4(), accept()], vec![later_fragment6(), accept()]];
    // Unreachable, too big, expired, echo replies: of no use but as an answer.
    rules.extend(icmp_types("icmp", &[(0, 0), (3, 3), (11, 12)]));
    rules.extend(icmp_types("icmpv6", &[(1, 4), (129, 129)]));
    for (version, protocol) in [("4", "ip"), ("6", "ip6")] {
        let known = Value::from(format!("@{}", flows(nic, version)));
        rules.push(vec![is(connection(protocol, ["saddr", "daddr"], ["sport", "dport"]), known), accept()]);
    }
    rules
}

/// Accepts these ranges of types.
fn icmp_types<'a>(protocol: &'a str, ranges: &'a [(u8, u8)]) -> impl Iterator<Item = Vec<Statement>> + 'a {
    ranges.iter().map(move |&(first, last)| vec![is(field(protocol, "type"), range(first, last)), accept()])
}

fn connection(protocol: &str, sides: [&str; 2], ports: [&str; 2]) -> Value {
    let [from, to] = sides.map(|side| field(protocol, side));
    let [sport, dport] = ports.map(|port| field("th", port));
    together(&[from, to, meta("l4proto"), sport, dport])
}

/// Remembers the answer to this packet, and accepts.
fn memory(nic: &GuardedNic) -> Rules {
    let mut rules = Vec::new();
    for (version, protocol) in [("4", "ip"), ("6", "ip6")] {
        let answer = || connection(protocol, ["daddr", "saddr"], ["dport", "sport"]);
        rules.push(vec![is(meta("l4proto"), "tcp"), remember(answer(), TCP_MEMORY, &flows(nic, version))]);
        rules.push(vec![is(meta("l4proto"), "udp"), remember(answer(), OTHER_MEMORY, &flows(nic, version))]);
    }
    rules.push(vec![accept()]);
    rules
}

/// What a packet must be for this rule: any of these.
fn conditions(rule: &FirewallRule) -> Vec<Vec<Statement>> {
    let protocols = match (rule.protocol, rule.ports) {
        (Some(protocol), Some(ports)) => vec![vec![to_ports(protocol.as_str(), ports)]],
        (Some(Protocol::Icmp), None) => vec![vec![is(meta("l4proto"), "icmp")], vec![is(meta("l4proto"), "ipv6-icmp")]],
        (Some(protocol), None) => vec![vec![is(meta("l4proto"), protocol.as_str())]],
        (None, _) => vec![Vec::new()],
    };
    let side = if rule.direction == Direction::In { "saddr" } else { "daddr" };
    let remote: Vec<Statement> = rule.remote.map(|remote| within(side, remote)).into_iter().collect();
    protocols.into_iter().map(|protocol| [protocol, remote.clone()].concat()).collect()
}
