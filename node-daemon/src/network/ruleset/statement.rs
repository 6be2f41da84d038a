//! Words of nftables' JSON language, one function each, so that the rules next door read like rules. Pure.
//!
//! Plain JSON values and not the types of a crate: those know neither verdict maps nor 48-bit numbers, and a rule is only
//! ever compared and written here.

#![allow(
    clippy::needless_pass_by_value,
    reason = "values are made where they are used: a rule reads without ampersands"
)]

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::model::{Ports, Remote};

/// One match or one act of a rule.
pub type Statement = Value;

fn compare(op: &str, left: Value, right: &Value) -> Statement {
    json!({"match": {"op": op, "left": left, "right": right}})
}

/// `left` is `right`.
pub fn is(left: Value, right: impl Into<Value>) -> Statement {
    compare("==", left, &right.into())
}

/// `left` is not `right`.
pub fn is_not(left: Value, right: impl Into<Value>) -> Statement {
    compare("!=", left, &right.into())
}

/// A field of a header, such as `ether saddr`.
pub fn field(protocol: &str, field: &str) -> Value {
    json!({"payload": {"protocol": protocol, "field": field}})
}

/// The first `bits` of the network header.
pub fn network_header(bits: u32) -> Value {
    json!({"payload": {"base": "nh", "offset": 0, "len": bits}})
}

/// What the kernel knows of the packet beside its bytes.
pub fn meta(key: &str) -> Value {
    json!({"meta": {"key": key}})
}

/// From the first to the last.
pub fn range<T: Into<Value> + PartialEq>(first: T, last: T) -> Value {
    if first == last { first.into() } else { json!({"range": [first.into(), last.into()]}) }
}

/// Any of these.
pub fn any_of<T: Into<Value>>(values: impl IntoIterator<Item = T>) -> Value {
    json!({"set": values.into_iter().map(Into::into).collect::<Vec<Value>>()})
}

/// Several values as one key.
pub fn together(values: &[Value]) -> Value {
    json!({"concat": values})
}

/// The packet's connection is known, or has to do with a known one.
pub fn established() -> Statement {
    compare("in", json!({"ct": {"key": "state"}}), &json!(["established", "related"]))
}

/// A part of a packet that is not its first.
pub fn later_fragment4() -> Statement {
    is_not(json!({"&": [field("ip", "frag-off"), 0x1fff]}), 0)
}

/// The same for IPv6.
pub fn later_fragment6() -> Statement {
    is_not(json!({"exthdr": {"name": "frag", "field": "frag-off"}}), 0)
}

/// A prefix as nftables writes it.
pub fn prefix(address: IpAddr, length: u8) -> Value {
    json!({"prefix": {"addr": address.to_string(), "len": length}})
}

/// The packet's `side` (`saddr` or `daddr`) is in `remote`.
pub fn within(side: &str, remote: Remote) -> Statement {
    let (protocol, kind, bits) = if remote.address().is_ipv4() { ("ip", "ip", 32) } else { ("ip6", "ip6", 128) };
    match remote.prefix() {
        0 => is(field("ether", "type"), kind),
        length if length == bits => is(field(protocol, side), remote.address().to_string()),
        length => is(field(protocol, side), prefix(remote.address(), length)),
    }
}

/// The port of the destination is one of these.
pub fn to_ports(protocol: &str, ports: Ports) -> Statement {
    is(field(protocol, "dport"), range(ports.first(), ports.last()))
}

/// Count here.
pub fn count(counter: &str) -> Statement {
    json!({"counter": counter})
}

/// Pass.
pub fn accept() -> Statement {
    json!({"accept": null})
}

/// Vanish.
pub fn drop() -> Statement {
    json!({"drop": null})
}

/// Go on there, and do not come back.
pub fn goto(chain: &str) -> Statement {
    json!({"goto": {"target": chain}})
}

/// Do what the map says for this key; go on when it says nothing.
pub fn by_map(key: Value, map: &str) -> Statement {
    json!({"vmap": {"key": key, "data": format!("@{map}")}})
}

/// Remember this key in a set for so many seconds from now.
pub fn remember(key: Value, seconds: u32, set: &str) -> Statement {
    let elem = json!({"elem": {"val": key, "timeout": seconds}});
    json!({"set": {"op": "update", "elem": elem, "set": format!("@{set}")}})
}

/// Give it the address of the interface by which it leaves.
pub fn masquerade() -> Statement {
    json!({"masquerade": null})
}
