//! NAT and isolated networks with real DHCP clients.

use super::harness::*;
use crate::model::FailureKind;

#[test]
fn a_guest_of_the_default_network_gets_an_address_and_reaches_the_world() {
    in_namespace("nat", async |host| {
        let outside = outside();
        outside.serve(8080);
        host.start(true).await;
        let network = host.ready("default").await;
        assert_eq!(network.subnet().unwrap().to_string(), "10.80.0.1/24");
        let (web, plan) = host.guest(&network, "web", |_| {}).await;
        let [address, router, dns, domain] = web.dhcp().await.expect("DHCP gives an address");
        assert_eq!([router.as_str(), dns.as_str(), domain.as_str()], ["10.80.0.1", "10.80.0.1", "internal"]);
        // The lease is seen, with whose it is.
        let leases = eventually("a lease", async || {
            let leases = host.networks().leases("default".into()).await.unwrap();
            (!leases.is_empty()).then_some(leases)
        })
        .await;
        assert_eq!((leases[0].0.address.to_string(), leases[0].1.clone()), (address.clone(), Some(plan.vm.clone())));
        assert_eq!(host.networks().addresses(plan.mac).await, [address.parse::<std::net::IpAddr>().unwrap()]);
        // Outwards behind the host's address, which routes nothing else.
        assert_eq!(web.calls("192.0.2.2", 8080).await.as_deref(), Some("192.0.2.1"));
        assert!(web.pings("192.0.2.2").await);
        // Names of guests.
        let name = web.run(|| command("busybox", &["nslookup", "web.internal", "10.80.0.1"])).await;
        assert!(name.contains(&address), "{name}");
    });
}

#[test]
fn a_guest_reaches_dhcp_dns_and_echo_of_the_host_and_no_other_service() {
    in_namespace("host services", async |host| {
        let _outside = outside();
        serve_on_host(2222);
        host.start(false).await;
        let network = host.network("n", nat("10.77.0.1/24")).await;
        let (guest, _) = host.guest(&network, "a", |_| {}).await;
        guest.dhcp().await.unwrap();
        assert!(guest.pings("10.77.0.1").await);
        assert!(!guest.connects("10.77.0.1", 2222).await);
        // Not by the host's other addresses either.
        assert!(!guest.connects("192.0.2.1", 2222).await);
        assert!(guest.hears_nothing_of("192.0.2.1").await);
        assert!(eventually("DNS over TCP", async || guest.connects("10.77.0.1", 53).await.then_some(true)).await);
        // The host may begin.
        guest.serve(80);
        let address = guest.run(|| command("ip", &["-4", "-o", "addr", "show", "eth0"])).await;
        let address = address.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned();
        let called = tokio::task::spawn_blocking(move || std::net::TcpStream::connect((address.as_str(), 80)).is_ok());
        assert!(called.await.unwrap());
    });
}

#[test]
fn fixed_addresses_are_given_and_kept_from_others() {
    in_namespace("fixed", async |host| {
        host.start(false).await;
        let network = host.network("n", nat("10.77.0.1/29")).await;
        // All but one address of the range are fixed for VMs that do not even run.
        for (i, name) in ["a", "b", "c", "d"].iter().enumerate() {
            let address = format!("10.77.0.{}", 3 + i).parse().unwrap();
            host.plan(&network, name, |plan| plan.address = Some(address)).await;
        }
        let (free, _) = host.guest(&network, "free", |_| {}).await;
        assert_eq!(free.dhcp().await.unwrap()[0], "10.77.0.2");
        let fixed = "10.77.0.5".parse().unwrap();
        let plan = host.plan(&network, "late", |plan| plan.address = Some(fixed)).await;
        let machine = Machine::new();
        machine.cable(&plan.tap(), &plan.mac.to_string());
        host.forget(&host.plan(&network, "c", |_| {}).await).await;
        host.networks().replug(&plan).await.unwrap();
        assert_eq!(host.networks().addresses(plan.mac).await, [std::net::IpAddr::V4(fixed)]);
    });
}

#[test]
fn networks_are_apart() {
    in_namespace("apart", async |host| {
        host.start(false).await;
        let one = host.network("one", nat("10.77.0.1/24")).await;
        let two = host.network("two", nat("10.78.0.1/24")).await;
        let three = host.network("three", isolated("10.79.0.1/24")).await;
        let four = host.network("four", isolated("")).await;
        let (first, _) = host.guest(&one, "a", |_| {}).await;
        let (second, _) = host.guest(&two, "b", |_| {}).await;
        let (third, _) = host.guest(&three, "c", |_| {}).await;
        let (peer, _) = host.guest(&three, "d", |_| {}).await;
        let (lone, _) = host.guest(&four, "e", |_| {}).await;
        let (other, _) = host.guest(&four, "f", |_| {}).await;
        first.dhcp().await.unwrap();
        let [to_second, ..] = second.dhcp().await.unwrap();
        let [to_third, router, dns, _] = third.dhcp().await.unwrap();
        assert_eq!([router, dns], ["", ""], "an isolated network leads nowhere");
        let [to_peer, ..] = peer.dhcp().await.unwrap();
        lone.address("10.99.0.1/24", None);
        other.address("10.99.0.2/24", None);
        for machine in [&second, &third, &peer, &other] {
            machine.serve(80);
        }
        // Within: yes. Across: no, even when a guest knows a way.
        assert!(third.calls(&to_peer, 80).await.is_some());
        assert!(lone.calls("10.99.0.2", 80).await.is_some());
        third.within(|| command("ip", &["route", "add", "default", "via", "10.79.0.1"]));
        assert!(!first.connects(&to_second, 80).await);
        assert!(!first.connects(&to_third, 80).await);
        assert!(!third.connects(&to_second, 80).await);
        assert!(third.hears_nothing_of("10.79.0.1").await, "the host is not there for guests of an isolated network");
        assert!(third.hears_nothing_of("10.77.0.1").await);
    });
}

#[test]
fn routing_is_put_back_when_the_last_nat_network_goes() {
    in_namespace("routing", async |host| {
        let routing = || std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim().to_owned();
        assert_eq!(routing(), "0");
        host.start(false).await;
        host.network("n", nat("10.77.0.1/24")).await;
        assert_eq!(routing(), "1");
        let plan = host.plan(&host.ready("n").await, "a", |_| {}).await;
        let refused = host.networks().delete("n".into(), None, &crate::model::Caller::daemon()).await.unwrap_err();
        assert_eq!(refused.kind(), FailureKind::FailedPrecondition);
        assert!(refused.message().contains("VM a"), "{refused}");
        host.forget(&plan).await;
        let task = host.networks().delete("n".into(), None, &crate::model::Caller::daemon()).await.unwrap();
        let task = host.tasks.wait(&task.id, Some(DEADLINE)).await.unwrap();
        assert_eq!(task.error, None);
        assert_eq!(routing(), "0");
        assert!(!command("ip", &["-o", "link"]).contains("qxb"));
    });
}
