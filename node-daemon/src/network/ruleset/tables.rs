//! Tables as data, and the commands from what is there to what shall be. Pure.
//!
//! Commands are one transaction. Only what differs is touched, so a NIC that is plugged in costs its own few rules, and
//! counters and remembered connections of others live on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::statement::Statement;

/// The name of both our tables. Nothing outside them is ever touched.
pub const TABLE: &str = "quantix";

/// Which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Frames on bridges.
    Bridge,
    /// Packets that the host routes, sends or receives.
    Inet,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Bridge, Self::Inet];

    /// As nftables writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Inet => "inet",
        }
    }
}

/// Both tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// Guards NICs.
    pub bridge: Table,
    /// Guards the host and keeps networks apart.
    pub inet: Table,
}

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Names of counters.
    pub counters: BTreeSet<String>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
    /// Maps from an interface to a chain, by name.
    pub maps: BTreeMap<String, BTreeMap<String, String>>,
}

/// Rules, in order; each is what it asks and then what it does.
pub type Rules = Vec<Vec<Statement>>;

/// A chain and its rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Where the kernel enters it; none when only rules lead here.
    pub hook: Option<Hook>,
    /// In order. Shared between the tables of before and after, so that what is the same is seen at a glance.
    pub rules: Arc<Rules>,
}

/// Where the kernel enters a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// `prerouting`, `postrouting`, …
    pub name: &'static str,
    /// Smaller is earlier.
    pub priority: i32,
}

/// A set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set {
    /// Addresses that we name.
    Addresses(BTreeSet<String>),
    /// Connections that the kernel adds while packets pass; IPv4 or IPv6 by the type of their addresses.
    Flows(&'static str),
}

/// What is there: the tables that were applied last, or, after a start, what the kernel lists.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Known {
    /// By family, `bridge` first; none when there is no such table.
    tables: [Option<KnownTable>; 2],
}

#[derive(Clone, Debug, Default, PartialEq)]
struct KnownTable {
    /// None: what is in the chain is not known, so it is written anew.
    chains: BTreeMap<String, Option<Chain>>,
    counters: BTreeSet<String>,
    /// None: what is in it is not known.
    sets: BTreeMap<String, Option<Set>>,
    maps: BTreeMap<String, BTreeMap<String, String>>,
}

impl From<&Tables> for Known {
    fn from(tables: &Tables) -> Self {
        let known = |table: &Table| KnownTable {
            chains: table.chains.iter().map(|(name, chain)| (name.clone(), Some(chain.clone()))).collect(),
            counters: table.counters.clone(),
            sets: table.sets.iter().map(|(name, set)| (name.clone(), Some(set.clone()))).collect(),
            maps: table.maps.clone(),
        };
        Self { tables: [Some(known(&tables.bridge)), Some(known(&tables.inet))] }
    }
}

impl Known {
    /// Reads what `nft -j list table` printed for each family, `bridge` first. What cannot be read is left out; applying
    /// then fails, and the table is replaced as a whole (see `nft.rs`).
    pub fn listed(bridge: Option<&Value>, inet: Option<&Value>) -> Self {
        Self { tables: [bridge.map(listed_table), inet.map(listed_table)] }
    }

    fn of(&self, family: Family) -> Option<&KnownTable> {
        let [bridge, inet] = &self.tables;
        match family {
            Family::Bridge => bridge.as_ref(),
            Family::Inet => inet.as_ref(),
        }
    }
}

fn listed_table(listing: &Value) -> KnownTable {
    let mut table = KnownTable::default();
    for object in listing["nftables"].as_array().into_iter().flatten() {
        let name = |kind: &str| object[kind]["name"].as_str().map(str::to_owned);
        if let Some(name) = name("chain") {
            table.chains.insert(name, None);
        } else if let Some(name) = name("counter") {
            table.counters.insert(name);
        } else if let Some(name) = name("set") {
            table.sets.insert(name, None);
        } else if let Some(name) = name("map") {
            let elements = object["map"]["elem"].as_array().into_iter().flatten();
            let pair = |e: &Value| Some((e[0].as_str()?.to_owned(), e[1]["goto"]["target"].as_str()?.to_owned()));
            table.maps.insert(name, elements.filter_map(pair).collect());
        }
    }
    table
}

/// The commands that lead from `known` to `wanted`; none when nothing differs.
pub fn commands(known: &Known, wanted: &Tables) -> Vec<Value> {
    let mut all = Vec::new();
    for (family, table) in [(Family::Bridge, &wanted.bridge), (Family::Inet, &wanted.inet)] {
        let mut writer = Writer { family, out: Vec::new() };
        let nothing = KnownTable::default();
        if known.of(family).is_none() {
            writer.push("add", "table", json!({"family": family.as_str(), "name": TABLE}));
        }
        writer.table(known.of(family).unwrap_or(&nothing), table);
        all.append(&mut writer.out);
    }
    all
}

/// The commands that remove both tables, whether they are there or not.
pub fn removal() -> Vec<Value> {
    let both = Family::ALL.map(|family| {
        let table = json!({"table": {"family": family.as_str(), "name": TABLE}});
        [json!({"add": table}), json!({"delete": table})]
    });
    both.into_iter().flatten().collect()
}

struct Writer {
    family: Family,
    out: Vec<Value>,
}

impl Writer {
    #[allow(clippy::needless_pass_by_value, reason = "it goes into the command")]
    fn push(&mut self, verb: &str, kind: &str, what: Value) {
        self.out.push(json!({verb: {kind: what}}));
    }

    /// A thing of this table by its name, with more fields.
    fn named(&self, name: &str, more: Value) -> Value {
        let mut what = json!({"family": self.family.as_str(), "table": TABLE, "name": name});
        if let (Some(what), Value::Object(more)) = (what.as_object_mut(), more) {
            what.extend(more);
        }
        what
    }

    fn simple(&mut self, verb: &str, kind: &str, name: &str) {
        let what = self.named(name, json!({}));
        self.push(verb, kind, what);
    }

    /// First what leads to chains that go, then what is new, and last what nobody leads to any more.
    fn table(&mut self, old: &KnownTable, new: &Table) {
        for (name, elements) in &old.maps {
            let kept = new.maps.get(name);
            let gone = elements.iter().filter(|(key, to)| kept.and_then(|map| map.get(*key)) != Some(*to));
            self.elements("delete", name, gone);
        }
        for (name, chain) in new.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
            self.add_chain(name, chain);
        }
        for name in new.counters.difference(&old.counters) {
            self.simple("add", "counter", name);
        }
        for (name, set) in &new.sets {
            self.set(name, old.sets.get(name), set);
        }
        for name in new.maps.keys().filter(|name| !old.maps.contains_key(*name)) {
            let what = self.named(name, json!({"type": "ifname", "map": "verdict"}));
            self.push("add", "map", what);
        }
        for (name, chain) in &new.chains {
            self.rules(name, old.chains.get(name), chain);
        }
        for (name, elements) in &new.maps {
            let there = old.maps.get(name);
            let added = elements.iter().filter(|(key, to)| there.and_then(|map| map.get(*key)) != Some(*to));
            self.elements("add", name, added);
        }
        self.sweep(old, new);
    }

    fn sweep(&mut self, old: &KnownTable, new: &Table) {
        let gone: Vec<&String> = old.chains.keys().filter(|name| !new.chains.contains_key(*name)).collect();
        // All are emptied before the first goes: they lead to each other.
        for name in &gone {
            self.simple("flush", "chain", name);
        }
        for name in gone {
            self.simple("delete", "chain", name);
        }
        for name in old.maps.keys().filter(|name| !new.maps.contains_key(*name)) {
            self.simple("delete", "map", name);
        }
        for name in old.sets.keys().filter(|name| !new.sets.contains_key(*name)) {
            self.simple("delete", "set", name);
        }
        for name in old.counters.difference(&new.counters) {
            self.simple("delete", "counter", name);
        }
    }

    fn add_chain(&mut self, name: &str, chain: &Chain) {
        let hook = chain.hook.map_or(
            json!({}),
            |hook| json!({"type": hook.kind, "hook": hook.name, "prio": hook.priority, "policy": "accept"}),
        );
        let what = self.named(name, hook);
        self.push("add", "chain", what);
    }

    fn rules(&mut self, name: &str, old: Option<&Option<Chain>>, new: &Chain) {
        match old {
            Some(Some(chain)) if chain == new => return,
            Some(_) => self.simple("flush", "chain", name),
            None => {}
        }
        for rule in new.rules.iter() {
            let what = json!({"family": self.family.as_str(), "table": TABLE, "chain": name, "expr": rule});
            self.push("add", "rule", what);
        }
    }

    fn elements<'a>(&mut self, verb: &str, map: &str, elements: impl Iterator<Item = (&'a String, &'a String)>) {
        let list: Vec<Value> = elements.map(|(key, to)| json!([key, {"goto": {"target": to}}])).collect();
        if !list.is_empty() {
            let what = self.named(map, json!({"elem": list}));
            self.push(verb, "element", what);
        }
    }

    fn set(&mut self, name: &str, old: Option<&Option<Set>>, new: &Set) {
        if old.is_none() {
            let form = match new {
                Set::Addresses(_) => json!({"type": "ipv4_addr"}),
                Set::Flows(kind) => json!({
                    "type": [kind, kind, "inet_proto", "inet_service", "inet_service"],
                    "flags": ["timeout"], "timeout": 120, "size": 65536,
                }),
            };
            let what = self.named(name, form);
            self.push("add", "set", what);
        }
        let Set::Addresses(wanted) = new else { return };
        let nothing = BTreeSet::new();
        let there = match old {
            Some(Some(Set::Addresses(there))) => there,
            Some(_) => {
                self.simple("flush", "set", name);
                &nothing
            }
            None => &nothing,
        };
        for (verb, list) in [("delete", there.difference(wanted)), ("add", wanted.difference(there))] {
            let list: Vec<&String> = list.collect();
            if !list.is_empty() {
                let what = self.named(name, json!({"elem": list}));
                self.push(verb, "element", what);
            }
        }
    }
}
