//! Tables of what follows from which state, without a kernel. What the kernel makes of it is tested in `network/tests`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::tables::Table;
use super::*;
use crate::model::{Direction, RuleAction};

fn nic(tap: &str, last: u8) -> GuardedNic {
    GuardedNic {
        tap: tap.into(),
        bridge: "qxb1".into(),
        mac: Mac::ours([0, 0, last]),
        addresses: BTreeSet::from([Ipv4Addr::new(10, 80, 0, last)]),
        allow_spoofing: false,
        rules: Vec::new(),
    }
}

fn subnet(text: &str) -> Subnet {
    Subnet::try_from(text).unwrap()
}

fn network(bridge: &str, reach: Reach) -> GuardedNetwork {
    GuardedNetwork { bridge: bridge.into(), reach }
}

fn desired(nics: Vec<GuardedNic>) -> Desired {
    let networks = vec![network("qxb1", Reach::Outwards(subnet("10.80.0.1/24")))];
    Desired { networks, nics, bridge_conntrack: true, routes_only_ours: true }
}

fn made(desired: &Desired) -> Tables {
    tables(desired, &mut Memo::default())
}

fn rule(direction: Direction, action: RuleAction, protocol: &str, remote: &str, ports: &str) -> FirewallRule {
    FirewallRule::check(direction, action, protocol, remote, ports).unwrap()
}

/// A chain's rules in short: `field op value`, acts as they are.
fn lines(table: &Table, chain: &str) -> Vec<String> {
    let chain = table.chains.get(chain).unwrap_or_else(|| panic!("no chain {chain}: {:?}", table.chains.keys()));
    chain.rules.iter().map(|rule| rule.iter().map(word).collect::<Vec<_>>().join(" ")).collect()
}

fn word(statement: &Value) -> String {
    if let Some(parts) = statement.get("match") {
        return format!("{}{}{}", operand(&parts["left"]), parts["op"].as_str().unwrap(), operand(&parts["right"]));
    }
    let (name, value) = statement.as_object().unwrap().iter().next().unwrap();
    match value {
        Value::Null => name.clone(),
        Value::String(text) => format!("{name}:{text}"),
        other => format!("{name}:{}", other["target"].as_str().unwrap_or("…")),
    }
}

fn operand(value: &Value) -> String {
    if let Some(set) = value.get("set").and_then(Value::as_array) {
        return format!("{{{}}}", set.iter().map(operand).collect::<Vec<_>>().join(","));
    }
    if let Some(range) = value.get("range") {
        return format!("{}-{}", range[0], range[1]);
    }
    if let Some(prefix) = value.get("prefix") {
        return format!("{}/{}", prefix["addr"].as_str().unwrap(), prefix["len"]);
    }
    if let Some(key) = value.get("meta").and_then(|meta| meta["key"].as_str()) {
        return key.into();
    }
    if let Some(field) = value.get("payload").filter(|field| field.get("field").is_some()) {
        return format!("{}.{}", field["protocol"].as_str().unwrap(), field["field"].as_str().unwrap());
    }
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[test]
fn a_guest_sends_as_itself_only() {
    let built = made(&desired(vec![nic("qxt1", 7)]));
    let from = lines(&built.bridge, "from-qxt1");
    let end = "counter:spoofed-qxt1 drop";
    for expected in [
        "ether.type!=ip ether.type!=arp ether.type!=ip6",
        "ether.saddr!=52:54:00:00:00:07",
        "arp.saddr ether!=52:54:00:00:00:07",
        "udp.sport==67",
        "udp.sport==547",
        "icmpv6.type==134",
        "icmpv6.type==137",
        "arp.saddr ip!=10.80.0.7 arp.saddr ip!=0.0.0.0",
        "ip.saddr!=10.80.0.7 ip.saddr!=0.0.0.0",
    ] {
        assert!(from.contains(&format!("{expected} {end}")), "{expected}: {from:#?}");
    }
    // Nothing is filtered on the way in.
    assert!(!built.bridge.chains.contains_key("to-qxt1"));
    assert_eq!(built.bridge.maps["from"].len(), 1);
    assert!(built.bridge.maps["to"].is_empty());
}

#[test]
fn a_guest_without_a_known_address_may_take_none_that_somebody_has() {
    let unknown = GuardedNic { addresses: BTreeSet::new(), ..nic("qxt2", 8) };
    let built = made(&desired(vec![nic("qxt1", 7), unknown]));
    let from = lines(&built.bridge, "from-qxt2");
    let end = "counter:spoofed-qxt2 drop";
    for expected in
        ["arp.saddr ip==@claimed-qxb1", "ip.saddr==@claimed-qxb1", "ip.saddr!=0.0.0.0 ip.saddr!=10.80.0.0/24"]
    {
        assert!(from.contains(&format!("{expected} {end}")), "{expected}: {from:#?}");
    }
    let super::tables::Set::Addresses(claimed) = &built.bridge.sets["claimed-qxb1"] else { panic!("no addresses") };
    assert_eq!(claimed.iter().map(String::as_str).collect::<Vec<_>>(), ["10.80.0.1", "10.80.0.7"]);
}

#[test]
fn a_guest_that_may_spoof_is_not_looked_at() {
    let free = GuardedNic { allow_spoofing: true, ..nic("qxt1", 7) };
    let built = made(&desired(vec![free]));
    assert!(built.bridge.maps["from"].is_empty());
}

#[test]
fn rules_say_what_passes() {
    use Direction::{In, Out};
    use RuleAction::{Accept, Drop};
    let drop = "counter:filtered-qxt1 drop";
    let table = [
        (rule(In, Accept, "tcp", "", "22"), "to-qxt1", "tcp.dport==22 accept".to_owned()),
        (rule(In, Accept, "udp", "", "8000-8100"), "to-qxt1", "udp.dport==8000-8100 accept".to_owned()),
        (rule(In, Drop, "icmp", "", ""), "to-qxt1", format!("l4proto==ipv6-icmp {drop}")),
        (rule(In, Accept, "tcp", "192.0.2.0/24", ""), "to-qxt1", "l4proto==tcp ip.saddr==192.0.2.0/24 accept".into()),
        (rule(Out, Accept, "", "192.0.2.7", ""), "from-qxt1", "ip.daddr==192.0.2.7 accept".into()),
        (rule(Out, Drop, "", "2001:db8::/32", ""), "from-qxt1", format!("ip6.daddr==2001:db8::/32 {drop}")),
        (rule(Out, Accept, "udp", "0.0.0.0/0", "53"), "from-qxt1", "udp.dport==53 ether.type==ip accept".into()),
    ];
    for (rule, chain, expected) in table {
        let other = if rule.direction == In { "from-qxt1" } else { "to-qxt1" };
        let built =
            made(&desired(vec![GuardedNic { allow_spoofing: true, rules: vec![rule.clone()], ..nic("qxt1", 7) }]));
        let rules = lines(&built.bridge, chain);
        // Answers pass, then the rule, and what it does not say does not pass.
        let at =
            |text: &str| rules.iter().position(|line| line == text).unwrap_or_else(|| panic!("{text}: {rules:#?}"));
        let answers = rules.iter().position(|line| line.contains("established")).unwrap();
        assert!(answers < at(&expected) && at(&expected) + 2 == rules.len(), "{rules:#?}");
        assert_eq!(rules.last().unwrap(), drop);
        assert!(rules.iter().any(|line| line == "ether.type==arp accept"));
        // The direction without a rule passes everything.
        assert!(!built.bridge.chains.contains_key(other), "{rule:?}");
    }
}

#[test]
fn without_connection_tracking_what_was_accepted_is_remembered_for_the_way_back() {
    let rules = vec![rule(Direction::In, RuleAction::Accept, "tcp", "", "22")];
    let nic = GuardedNic { allow_spoofing: true, rules, ..nic("qxt1", 7) };
    let built = made(&Desired { bridge_conntrack: false, ..desired(vec![nic]) });
    assert_eq!(lines(&built.bridge, "from-qxt1"), ["goto:pass-out-qxt1"]);
    assert_eq!(lines(&built.bridge, "pass-out-qxt1").last().unwrap(), "accept");
    assert!(lines(&built.bridge, "to-qxt1").iter().any(|line| line.ends_with("==@flows4-qxt1 accept")));
    // Nobody filters the answers to what comes in, so nobody remembers them.
    assert!(!built.bridge.chains.contains_key("pass-in-qxt1"));
}

#[test]
fn networks_lead_where_they_shall_and_not_to_each_other() {
    let networks = vec![
        network("qxb1", Reach::Outwards(subnet("10.80.0.1/24"))),
        network("qxb2", Reach::Nowhere(Some(subnet("10.81.0.1/24")))),
        network("qxb3", Reach::Nowhere(None)),
        network("br0", Reach::Uplink),
    ];
    let built = made(&Desired { networks, routes_only_ours: true, ..Desired::default() });
    let stray = |bridge: &str| format!("counter:strayed-{bridge} drop");
    assert_eq!(
        lines(&built.inet, "out-qxb1"),
        [
            "oifname==qxb1 accept".to_owned(),
            format!("oifname=={{qxb1,qxb2,qxb3}} {}", stray("qxb1")),
            "ip.saddr==10.80.0.0/24 accept".to_owned(),
            stray("qxb1"),
        ]
    );
    assert_eq!(lines(&built.inet, "out-qxb2"), ["oifname==qxb2 accept".to_owned(), stray("qxb2")]);
    assert_eq!(lines(&built.inet, "into-qxb2"), [stray("qxb2")]);
    assert_eq!(lines(&built.inet, "leaving"), ["ip.saddr==10.80.0.0/24 oifname!=qxb1 masquerade"]);
    assert_eq!(lines(&built.inet, "routed").last().unwrap(), "counter:foreign drop");
    let host = lines(&built.inet, "host-qxb1");
    assert!(host.contains(&"ip.daddr==10.80.0.1 udp.dport==53 accept".to_owned()), "{host:#?}");
    assert_eq!(host.last().unwrap(), &stray("qxb1"));
    assert_eq!(lines(&built.inet, "host-qxb3").len(), 2, "no service at all");
    // The host's own bridge is the host's own business.
    assert!(!built.inet.maps["host"].contains_key("br0"));
}

fn verbs(commands: &[Value]) -> Vec<String> {
    let short = |command: &Value| {
        let (verb, what) = command.as_object().unwrap().iter().next().unwrap();
        let (kind, what) = what.as_object().unwrap().iter().next().unwrap();
        let name = what["name"].as_str().or(what["chain"].as_str()).unwrap();
        format!("{verb} {kind} {name}")
    };
    commands.iter().map(short).collect()
}

#[test]
fn only_what_differs_is_touched() {
    let one = made(&desired(vec![nic("qxt1", 7)]));
    let two = made(&desired(vec![nic("qxt1", 7), nic("qxt2", 8)]));
    assert!(commands(&Known::from(&one), &one).is_empty());
    let added = verbs(&commands(&Known::from(&one), &two));
    assert!(
        added
            .iter()
            .all(|line| line.contains("qxt2")
                || ["add element from", "add element claimed-qxb1"].contains(&line.as_str())),
        "{added:#?}"
    );
    // The way in is opened after the guard stands there.
    let at = |text: &str| added.iter().position(|line| line == text).unwrap();
    assert!(at("add rule from-qxt2") < at("add element from"));
    let removed = verbs(&commands(&Known::from(&two), &one));
    assert_eq!(removed.first().unwrap(), "delete element from");
    assert!(removed.contains(&"delete chain from-qxt2".to_owned()));
    assert!(!removed.iter().any(|line| line.contains("qxt1")), "{removed:#?}");
}

#[test]
fn after_a_start_chains_are_written_anew_and_strangers_go() {
    let wanted = made(&desired(vec![nic("qxt1", 7)]));
    let listing = json!({"nftables": [
        {"metainfo": {"version": "1"}},
        {"chain": {"name": "from-qxt1", "table": TABLE}},
        {"chain": {"name": "from-qxt9", "table": TABLE}},
        {"counter": {"name": "spoofed-qxt1"}},
        {"map": {"name": "from", "elem": [["qxt1", {"goto": {"target": "from-qxt1"}}], ["qxt9", {"goto": {"target": "from-qxt9"}}]]}},
    ]});
    let lines = verbs(&commands(&Known::listed(Some(&listing), None), &wanted));
    assert_eq!(lines.first().unwrap(), "delete element from");
    for expected in ["flush chain from-qxt1", "delete chain from-qxt9", "add table quantix"] {
        assert!(lines.contains(&expected.to_owned()), "{expected}: {lines:#?}");
    }
    for kept in ["add chain from-qxt1", "add counter spoofed-qxt1", "add element from"] {
        assert!(!lines.contains(&kept.to_owned()), "{kept}: {lines:#?}");
    }
}

#[test]
fn removal_works_whether_the_tables_are_there_or_not() {
    assert_eq!(
        verbs(&removal()),
        ["add table quantix", "delete table quantix", "add table quantix", "delete table quantix"]
    );
}

#[test]
fn the_memo_changes_nothing_but_the_time() {
    let mut memo = Memo::default();
    let free = GuardedNic { allow_spoofing: true, ..nic("qxt1", 7) };
    let states = [
        desired(vec![nic("qxt1", 7)]),
        desired(vec![nic("qxt1", 9), nic("qxt2", 8)]),
        Desired { bridge_conntrack: false, ..desired(vec![free]) },
        desired(vec![]),
        desired(vec![nic("qxt1", 7)]),
    ];
    for state in &states {
        assert_eq!(tables(state, &mut memo), made(state), "{state:?}");
    }
}
