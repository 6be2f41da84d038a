//! Tables of what callers may write about networks.

use super::*;

fn fields(failure: &Failure) -> Vec<&str> {
    failure.fields().iter().map(|v| v.field.as_str()).collect()
}

#[test]
fn a_mac_is_read_in_one_form_only() {
    for good in ["52:54:00:12:34:56", "02:00:00:00:00:01", "AA:bb:CC:00:00:00"] {
        assert_eq!(Mac::try_from(good).unwrap().to_string(), good.to_lowercase());
    }
    for bad in
        ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52-54-00-12-34-56", "5:54:0:12:34:56", "+1:54:00:12:34:56"]
    {
        assert!(Mac::try_from(bad).is_err(), "{bad}");
    }
    assert!(Mac::try_from("01:00:5e:00:00:01").unwrap_err().contains("group"));
    assert!(Mac::try_from("00:00:00:00:00:00").unwrap_err().contains("zero"));
}

#[test]
fn a_subnet_is_an_address_that_the_host_can_have() {
    let subnet = Subnet::try_from("10.80.3.1/24").unwrap();
    assert_eq!(subnet.network(), Ipv4Addr::new(10, 80, 3, 0));
    assert_eq!(subnet.broadcast(), Ipv4Addr::new(10, 80, 3, 255));
    assert_eq!(subnet.mask(), Ipv4Addr::new(255, 255, 255, 0));
    let table = [
        ("10.80.3.1", "as 10.80.0.1/24"),
        ("10.80.3.1/", "as 10.80.0.1/24"),
        ("10.80.3.1/+8", "as 10.80.0.1/24"),
        ("10.80.3.0/24", "10.80.3.1/24"),
        ("10.80.3.255/24", "broadcast"),
        ("10.80.3.1/31", "/8 to /30"),
        ("10.80.3.1/7", "/8 to /30"),
        ("127.0.0.1/24", "not usable"),
        ("224.0.0.1/24", "not usable"),
        ("fd00::1/64", "as 10.80.0.1/24"),
    ];
    for (text, part) in table {
        let reason = Subnet::try_from(text).unwrap_err();
        assert!(reason.contains(part), "{text}: {reason}");
    }
}

#[test]
fn the_range_of_dhcp_leaves_the_host_out() {
    let range = |subnet: &str| Range::all_of(Subnet::try_from(subnet).unwrap());
    let text = |r: Range| format!("{}-{}", r.first, r.last);
    assert_eq!(range("10.0.0.1/24").map(text).unwrap(), "10.0.0.2-10.0.0.254");
    assert_eq!(range("10.0.0.254/24").map(text).unwrap(), "10.0.0.1-10.0.0.253");
    assert_eq!(range("10.0.0.1/30").map(text).unwrap(), "10.0.0.2-10.0.0.2");
    let subnet = Subnet::try_from("10.0.0.1/24").unwrap();
    let table = [
        ("10.0.0.9", "", "dhcp_last"),
        ("x", "10.0.0.9", "dhcp_first"),
        ("10.0.1.9", "10.0.1.10", "dhcp_first"),
        ("10.0.0.9", "10.0.0.8", "dhcp_last"),
        ("10.0.0.1", "10.0.0.8", "dhcp_first"),
    ];
    for (first, last, field) in table {
        assert_eq!(Range::of(subnet, first, last).unwrap_err().field, field, "{first} {last}");
    }
    assert_eq!(Range::of(subnet, "10.0.0.100", "10.0.0.109").unwrap().count(), 10);
}

#[test]
fn the_free_subnet_overlaps_nothing_that_is_routed() {
    let route = |a: [u8; 4], p| Subnet::of_route(a.into(), p);
    assert_eq!(free_subnet(&[]).unwrap().to_string(), "10.80.0.1/24");
    assert_eq!(free_subnet(&[route([10, 80, 0, 128], 25)]).unwrap().to_string(), "10.80.1.1/24");
    assert_eq!(
        free_subnet(&[route([10, 80, 0, 0], 15), route([10, 82, 0, 7], 32)]).unwrap().to_string(),
        "10.82.1.1/24"
    );
    assert_eq!(free_subnet(&[route([10, 0, 0, 0], 8)]), None);
}

#[test]
fn all_fields_at_fault_are_named_at_once() {
    let servers = ["9.9.9.9".to_owned(), "dns.example".to_owned()];
    let request =
        NatRequest { subnet: "10.0.0.0/24", domain: "Bad_Domain", dns_servers: &servers, ..NatRequest::default() };
    let failure = request.check().unwrap_err();
    assert_eq!(fields(&failure), ["nat.subnet", "nat.domain", "nat.dns_servers[1]"]);
    let good =
        NatRequest { subnet: "10.0.0.1/24", dns_servers: &servers[..1], ..NatRequest::default() }.check().unwrap();
    assert_eq!((good.domain.as_str(), good.dhcp.count()), (DEFAULT_DOMAIN, 253));
}

#[test]
fn an_uplink_has_a_name_that_the_kernel_takes() {
    assert_eq!(Uplink::check("enp1s0", 0).unwrap().vlan, None);
    assert_eq!(Uplink::check("enp1s0", 4094).unwrap().vlan, Some(4094));
    for bad in ["", "a b", "a/b", "averylongnamethatis", "lo", "qxb0", "..", "a\"b"] {
        assert_eq!(fields(&Uplink::check(bad, 0).unwrap_err()), ["bridge.uplink"], "{bad}");
    }
    assert_eq!(fields(&Uplink::check("", 4095).unwrap_err()), ["bridge.uplink", "bridge.vlan"]);
}

#[test]
fn rules_are_read_with_all_their_faults() {
    let check = |p, r, ports| FirewallRule::check(Direction::In, RuleAction::Accept, p, r, ports);
    let rule = check("tcp", "192.0.2.0/24", "8000-8100").unwrap();
    assert_eq!(rule.remote.unwrap().to_string(), "192.0.2.0/24");
    assert_eq!(rule.ports.unwrap().to_string(), "8000-8100");
    assert_eq!(check("", "2001:db8::1", "").unwrap().remote.unwrap().to_string(), "2001:db8::1");
    let table: [(&str, &str, &str, &[&str]); 8] = [
        ("sctp", "", "", &["protocol"]),
        ("", "", "22", &["ports"]),
        ("icmp", "", "22", &["ports"]),
        ("tcp", "", "0", &["ports"]),
        ("tcp", "", "9-8", &["ports"]),
        ("tcp", "192.0.2.1/24", "", &["remote"]),
        ("tcp", "192.0.2.0/33", "", &["remote"]),
        ("x", "y", "z", &["protocol", "remote", "ports", "ports"]),
    ];
    for (protocol, remote, ports, expected) in table {
        assert_eq!(fields(&check(protocol, remote, ports).unwrap_err()), expected, "{protocol} {remote} {ports}");
    }
}

#[test]
fn a_fixed_address_must_be_one_for_guests() {
    let nat = NatRequest { subnet: "10.0.0.1/24", ..NatRequest::default() }.check().unwrap();
    let network = Network {
        id: Id::new(),
        name: Name::try_from("n").unwrap(),
        kind: NetworkKind::Nat(nat),
        interface: "qxb0".into(),
        labels: BTreeMap::new(),
    };
    assert!(network.check_address("address", "10.0.0.7").is_ok());
    for bad in ["10.0.0.1", "10.0.0.0", "10.0.0.255", "10.0.1.7", "::1", "x"] {
        assert_eq!(fields(&network.check_address("address", bad).unwrap_err()), ["address"], "{bad}");
    }
}
