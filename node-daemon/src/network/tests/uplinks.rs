//! Networks that lead to the host's own.

use super::harness::*;
use crate::model::FailureKind;
use crate::network::{Condition, KindRequest, Networks};

fn bridge(uplink: &str, vlan: u32) -> KindRequest {
    KindRequest::Bridge { uplink: uplink.into(), vlan }
}

async fn refused(networks: &Networks, kind: KindRequest) -> String {
    let failure = networks.create(request("refused", kind), &crate::model::Caller::daemon()).await.unwrap_err();
    assert_eq!((failure.kind(), failure.fields()[0].field.as_str()), (FailureKind::InvalidArgument, "bridge.uplink"));
    failure.fields()[0].description.clone()
}

/// A machine at the far end of `wire0`.
fn neighbour(address: &str) -> Machine {
    let machine = Machine::new();
    machine.cable("wire0", "02:00:00:00:00:03");
    machine.address(address, None);
    machine
}

#[test]
fn guests_are_on_the_uplinks_network() {
    in_namespace("uplink", async |host| {
        let neighbour = neighbour("198.51.100.9/24");
        neighbour.serve(80);
        host.start(false).await;
        let network = host.network("lan", bridge("wire0", 0)).await;
        assert!(network.interface.starts_with("qxb"));
        let (guest, _) = host.guest(&network, "a", |_| {}).await;
        guest.address("198.51.100.7/24", None);
        // No translation: the neighbour sees the guest.
        assert_eq!(guest.calls("198.51.100.9", 80).await.as_deref(), Some("198.51.100.7"));
        // A second network there would be the same one.
        assert!(refused(host.networks(), bridge("wire0", 0)).await.contains("network lan leads to"));
        // The uplink goes and comes back.
        command("ip", &["link", "del", "wire0"]);
        host.condition("lan", |c| matches!(c, Condition::Degraded(why) if why.contains("no interface wire0"))).await;
        let again = Machine::new();
        again.cable("wire0", "02:00:00:00:00:03");
        again.address("198.51.100.9/24", None);
        host.ready("lan").await;
        assert!(guest.pings("198.51.100.9").await);
    });
}

#[test]
fn an_existing_bridge_is_used_as_it_is() {
    in_namespace("existing bridge", async |host| {
        command("ip", &["link", "add", "name", "br0", "type", "bridge"]);
        command("ip", &["addr", "add", "198.51.100.1/24", "dev", "br0"]);
        command("ip", &["link", "set", "br0", "up"]);
        let neighbour = neighbour("198.51.100.9/24");
        command("ip", &["link", "set", "wire0", "master", "br0"]);
        host.start(false).await;
        let network = host.network("lan", bridge("br0", 0)).await;
        assert_eq!(network.interface, "br0");
        let (guest, plan) = host.guest(&network, "a", |_| {}).await;
        guest.address("198.51.100.7/24", None);
        assert!(
            guest.pings("198.51.100.9").await
                && guest.pings("198.51.100.1").await
                && neighbour.pings("198.51.100.7").await
        );
        // A port of it leads to the same place; the sentence says which bridge to name.
        assert!(refused(host.networks(), bridge("wire0", 0)).await.contains("port of br0"));
        host.forget(&plan).await;
        let task = host.networks().delete("lan".into(), None, &crate::model::Caller::daemon()).await.unwrap();
        host.tasks.wait(&task.id, Some(DEADLINE)).await.unwrap();
        assert!(command("ip", &["-4", "addr", "show", "br0"]).contains("198.51.100.1"), "it was there before");
    });
}

#[test]
fn the_hosts_own_addresses_are_not_taken_away() {
    in_namespace("host's address", async |host| {
        let _outside = outside();
        host.start(false).await;
        let reason = refused(host.networks(), bridge("out0", 0)).await;
        assert!(reason.contains("192.0.2.1/24") && reason.contains("name that bridge"), "{reason}");
        assert!(refused(host.networks(), bridge("nosuch0", 0)).await.contains("no interface nosuch0"));
        assert!(command("ip", &["-4", "addr", "show", "out0"]).contains("192.0.2.1"));
    });
}

#[test]
fn a_vlan_has_a_bridge_of_its_own() {
    in_namespace("vlan", async |host| {
        let neighbour = neighbour("198.51.100.9/24");
        let can = try_command("ip", &["link", "add", "link", "wire0", "name", "probe.5", "type", "vlan", "id", "5"])
            .status
            .success();
        host.start(false).await;
        if !can {
            println!(
                "NOT RUN HERE: VLANs: this kernel has no 8021q; tested is only that it is said. The lab's kernel has it."
            );
            let made = host
                .networks()
                .create(request("v", bridge("wire0", 5)), &crate::model::Caller::daemon())
                .await
                .unwrap();
            let task = host.tasks.wait(&made.id, Some(DEADLINE)).await.unwrap();
            assert!(task.error.unwrap().message.contains("8021q"));
            assert!(host.networks().get("v".into()).await.is_err(), "nothing half-made is left");
            assert!(!command("ip", &["-o", "link"]).contains("qx"));
            return;
        }
        command("ip", &["link", "del", "probe.5"]);
        let network = host.network("v", bridge("wire0", 5)).await;
        let (guest, _) = host.guest(&network, "a", |_| {}).await;
        guest.address("203.0.113.7/24", None);
        neighbour.within(|| {
            command("ip", &["link", "add", "link", "eth0", "name", "eth0.5", "type", "vlan", "id", "5"]);
            command("ip", &["addr", "add", "203.0.113.9/24", "dev", "eth0.5"]);
            command("ip", &["link", "set", "eth0.5", "up"]);
        });
        assert!(guest.pings("203.0.113.9").await);
        assert!(guest.hears_nothing_of("198.51.100.9").await);
    });
}
