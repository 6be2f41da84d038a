//! Which address and which node is meant.

use super::*;
use crate::contexts::Context;

fn address(text: &str) -> Address {
    text.parse().unwrap()
}

fn pin(letter: &str) -> Fingerprint {
    letter.repeat(64).parse().unwrap()
}

/// Two contexts, `lab` (current, with token and pin) and `new` (with nothing).
fn contexts() -> Contexts {
    let mut contexts = Contexts::default();
    contexts.set(
        "lab",
        Context {
            address: "lab.example.net:9443".into(),
            user: Some("admin".into()),
            token: Some("lab-token".into()),
            fingerprint: Some(pin("a")),
            ca_file: None,
        },
    );
    contexts.set("new", Context { address: "new.example.net:9443".into(), ..Context::default() });
    contexts.choose("lab").unwrap();
    contexts
}

#[test]
fn addresses_are_read() {
    for (text, host, port) in [
        ("node1", "node1", 9443),
        ("node1.example.net:1234", "node1.example.net", 1234),
        ("https://node1:9443/", "node1", 9443),
        ("10.0.0.5", "10.0.0.5", 9443),
        ("::1", "::1", 9443),
        ("[::1]:99", "::1", 99),
    ] {
        assert_eq!(address(text), Address::Tls(host.into(), port), "{text}");
    }
    assert_eq!(address("unix:/run/x.sock"), Address::Socket("/run/x.sock".into()));
    assert_eq!(address("[::1]:99").to_string(), "[::1]:99");
    for wrong in ["", "unix:relative", "host:port", "host:99999", "two words", "[::1"] {
        assert!(wrong.parse::<Address>().is_err(), "{wrong}");
    }
}

#[test]
fn the_node_that_is_meant_is_found_in_order() {
    let contexts = contexts();
    let mut wishes = Wishes::default();
    let chosen = |wishes: &Wishes| choose(wishes, &contexts).unwrap().address.to_string();
    assert_eq!(chosen(&wishes), "lab.example.net:9443");
    wishes.local = Some("/run/s".into());
    assert_eq!(chosen(&wishes), "unix:/run/s");
    wishes.env_node = Some(address("env"));
    assert_eq!(chosen(&wishes), "env:9443");
    wishes.context = Some("new".into());
    assert_eq!(chosen(&wishes), "new.example.net:9443");
    wishes.node = Some(address("arg"));
    assert_eq!(chosen(&wishes), "arg:9443");
}

#[test]
fn what_is_known_of_a_node_is_used_however_it_is_named() {
    let contexts = contexts();
    for wishes in [
        Wishes::default(),
        Wishes { node: Some(address("lab.example.net")), ..Wishes::default() },
        Wishes { context: Some("lab".into()), ..Wishes::default() },
    ] {
        let target = choose(&wishes, &contexts).unwrap();
        assert_eq!(target.token.as_deref(), Some("lab-token"));
        assert_eq!(target.trust, Trust::Pinned(pin("a")));
        assert_eq!(target.context.as_deref(), Some("lab"));
    }
}

#[test]
fn a_token_is_never_sent_to_another_node() {
    let wishes = Wishes { node: Some(address("other.example.net")), ..Wishes::default() };
    let target = choose(&wishes, &contexts()).unwrap();
    assert_eq!((target.token, target.trust), (None, Trust::Ask));
}

#[test]
fn what_is_said_now_comes_before_what_is_known() {
    let wishes = Wishes { fingerprint: Some(pin("b")), env_token: Some("mine".into()), ..Wishes::default() };
    let target = choose(&wishes, &contexts()).unwrap();
    assert_eq!((target.token.as_deref(), target.trust.clone()), (Some("mine"), Trust::Pinned(pin("b"))));
    assert!(!format!("{target:?}").contains("mine"));
}

#[test]
fn first_use_is_only_for_nodes_that_are_not_known() {
    let known = Wishes { trust_on_first_use: true, ..Wishes::default() };
    assert_eq!(choose(&known, &contexts()).unwrap().trust, Trust::Pinned(pin("a")));
    let unknown = Wishes { context: Some("new".into()), trust_on_first_use: true, ..Wishes::default() };
    assert_eq!(choose(&unknown, &contexts()).unwrap().trust, Trust::FirstUse);
}

#[test]
fn without_any_node_it_says_what_to_do() {
    let failure = choose(&Wishes::default(), &Contexts::default()).unwrap_err();
    assert_eq!(failure.status, ExitStatus::Usage);
    assert!(failure.hint.unwrap().contains("qx login"));
    let unknown = Wishes { context: Some("nowhere".into()), ..Wishes::default() };
    assert_eq!(choose(&unknown, &contexts()).unwrap_err().status, ExitStatus::NotFound);
}
