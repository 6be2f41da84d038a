//! The gRPC service: fields, pages, etags, masks, repeated requests.

use quantix_api::v1;
use quantix_api::v1::network_service_server::NetworkService as _;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::harness::*;
use crate::model::Caller;
use crate::server::services::network::{NetworkRpc, firewall_rule};

fn asked<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::daemon());
    request
}

fn nat_request(name: &str, subnet: &str) -> v1::CreateNetworkRequest {
    let nat = v1::NatNetwork { subnet: subnet.into(), ..v1::NatNetwork::default() };
    v1::CreateNetworkRequest {
        name: name.into(),
        kind: Some(v1::create_network_request::Kind::Nat(nat)),
        wait: Some(prost_types::Duration { seconds: 15, nanos: 0 }),
        ..v1::CreateNetworkRequest::default()
    }
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    details.bad_request().map(|bad| bad.field_violations.iter().map(|v| v.field.clone()).collect()).unwrap_or_default()
}

async fn get(service: &NetworkRpc, network: &str) -> Result<v1::Network, Status> {
    service.get_network(asked(v1::GetNetworkRequest { network: network.into() })).await.map(tonic::Response::into_inner)
}

#[test]
fn the_service_creates_lists_changes_and_deletes() {
    in_namespace("service", async |host| {
        let service = NetworkRpc::of(host.start(false).await.clone(), host.tasks.clone());
        for name in ["a", "b", "c"] {
            let task = service.create_network(asked(nat_request(name, ""))).await.unwrap().into_inner();
            assert_eq!((task.state(), task.kind.as_str()), (v1::TaskState::Succeeded, "CreateNetwork"));
        }
        // Pages in one order.
        let page = async |token: String| {
            let request = v1::ListNetworksRequest { page_size: 2, page_token: token };
            service.list_networks(asked(request)).await.unwrap().into_inner()
        };
        let first = page(String::new()).await;
        let second = page(first.next_page_token.clone()).await;
        let names: Vec<&str> = first.networks.iter().chain(&second.networks).map(|n| n.name.as_str()).collect();
        assert_eq!((names, second.next_page_token.as_str()), (vec!["a", "b", "c"], ""));
        let subnet = |network: &v1::Network| match &network.kind {
            Some(v1::network::Kind::Nat(nat)) => nat.subnet.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(first.networks.iter().map(subnet).collect::<Vec<_>>(), ["10.80.0.1/24", "10.80.1.1/24"]);
        // A change by mask, with an etag that fits once.
        let old = get(&service, "a").await.unwrap();
        assert_eq!(old.state(), v1::NetworkState::Ready);
        let nat =
            v1::NatNetwork { domain: "lab.example".into(), dns_servers: vec!["9.9.9.9".into()], ..Default::default() };
        let change = |paths: &[&str]| v1::UpdateNetworkRequest {
            network: Some(v1::Network { kind: Some(v1::network::Kind::Nat(nat.clone())), ..old.clone() }),
            update_mask: Some(prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() }),
        };
        let new = service.update_network(asked(change(&["nat.domain"]))).await.unwrap().into_inner();
        let Some(v1::network::Kind::Nat(changed)) = &new.kind else { panic!("{new:?}") };
        assert_eq!((changed.domain.as_str(), changed.dns_servers.len()), ("lab.example", 0));
        assert_ne!(new.etag, old.etag);
        let stale = service.update_network(asked(change(&["nat.domain"]))).await.unwrap_err();
        assert_eq!(stale.code(), Code::Aborted);
        let fixed = service.update_network(asked(change(&["nat.subnet", "name"]))).await.unwrap_err();
        assert_eq!(fields(&fixed), ["update_mask", "update_mask"]);
        // Guests are told the new domain.
        let network = host.ready("a").await;
        let (guest, _) = host.guest(&network, "vm", |_| {}).await;
        let told =
            eventually("the new domain", async || guest.dhcp().await.filter(|answer| answer[3] == "lab.example")).await;
        let leases = eventually("the lease", async || {
            let request = v1::ListLeasesRequest { network: "a".into() };
            let leases = service.list_leases(asked(request)).await.unwrap().into_inner().leases;
            (!leases.is_empty()).then_some(leases)
        })
        .await;
        assert_eq!(leases[0].address, told[0]);
        assert!(leases[0].expire_time.is_some() && !leases[0].vm.is_empty());
        assert_eq!(get(&service, "a").await.unwrap().nic_count, 1);
        // Deleting: not in use, not stale, and then gone.
        let delete = |network: &str, etag: &str| {
            let wait = Some(prost_types::Duration { seconds: 15, nanos: 0 });
            asked(v1::DeleteNetworkRequest { network: network.into(), etag: etag.into(), wait })
        };
        assert_eq!(service.delete_network(delete("a", "")).await.unwrap_err().code(), Code::FailedPrecondition);
        assert_eq!(service.delete_network(delete("b", "999999")).await.unwrap_err().code(), Code::Aborted);
        assert_eq!(
            service.delete_network(delete("b", "")).await.unwrap().into_inner().state(),
            v1::TaskState::Succeeded
        );
        assert_eq!(get(&service, "b").await.unwrap_err().code(), Code::NotFound);
    });
}

#[test]
fn faults_are_told_by_field() {
    in_namespace("fields", async |host| {
        let service = NetworkRpc::of(host.start(false).await.clone(), host.tasks.clone());
        let _outside = outside();
        host.network("taken", nat("10.90.0.1/24")).await;
        let nat = |nat: v1::NatNetwork| Some(v1::create_network_request::Kind::Nat(nat));
        let subnet = |text: &str| nat(v1::NatNetwork { subnet: text.into(), ..Default::default() });
        let isolated =
            |text: &str| Some(v1::create_network_request::Kind::Isolated(v1::IsolatedNetwork { subnet: text.into() }));
        let table: [(&str, _, &[&str]); 9] = [
            ("Bad Name", None, &["name", "kind"]),
            ("n", subnet("10.0.0.0/24"), &["nat.subnet"]),
            ("n", subnet("192.0.2.129/25"), &["nat.subnet"]),
            ("n", subnet("10.90.0.129/25"), &["nat.subnet"]),
            ("n", isolated("10.90.0.2/16"), &["isolated.subnet"]),
            ("n", isolated("x"), &["isolated.subnet"]),
            (
                "n",
                nat(v1::NatNetwork {
                    subnet: "10.91.0.1/24".into(),
                    dhcp_first: "10.91.0.9".into(),
                    ..Default::default()
                }),
                &["nat.dhcp_last"],
            ),
            (
                "n",
                nat(v1::NatNetwork { domain: "-".into(), dns_servers: vec!["x".into()], ..Default::default() }),
                &["nat.domain", "nat.dns_servers[0]"],
            ),
            (
                "n",
                Some(v1::create_network_request::Kind::Bridge(v1::BridgeNetwork { uplink: String::new(), vlan: 5000 })),
                &["bridge.uplink", "bridge.vlan"],
            ),
        ];
        for (name, kind, expected) in table {
            let request = v1::CreateNetworkRequest { name: name.into(), kind, ..Default::default() };
            let answer = service.create_network(asked(request.clone())).await;
            let status = answer.err().unwrap_or_else(|| panic!("accepted: {request:?}"));
            assert_eq!(
                (status.code(), fields(&status)),
                (Code::InvalidArgument, expected.iter().map(ToString::to_string).collect()),
                "{request:?}"
            );
        }
        let again = service.create_network(asked(nat_request("taken", ""))).await.unwrap_err();
        assert_eq!(again.code(), Code::AlreadyExists);
        let nobody = service.create_network(Request::new(nat_request("n", ""))).await.unwrap_err();
        assert_eq!(nobody.code(), Code::Unauthenticated);
        assert_eq!(
            service.update_network(asked(v1::UpdateNetworkRequest::default())).await.unwrap_err().code(),
            Code::InvalidArgument
        );
        assert_eq!(host.networks().list(crate::model::Page::first(9)).await.unwrap().items.len(), 1);
    });
}

#[test]
fn the_same_request_twice_makes_one_network() {
    in_namespace("request_id", async |host| {
        let service = NetworkRpc::of(host.start(false).await.clone(), host.tasks.clone());
        let request = v1::CreateNetworkRequest { request_id: "once".into(), ..nat_request("n", "") };
        let first = service.create_network(asked(request.clone())).await.unwrap().into_inner();
        let second = service.create_network(asked(request.clone())).await.unwrap().into_inner();
        assert_eq!(first.id, second.id);
        let other = v1::CreateNetworkRequest { request_id: "once".into(), ..nat_request("m", "") };
        assert_eq!(fields(&service.create_network(asked(other)).await.unwrap_err()), ["request_id"]);
    });
}

#[test]
fn rules_come_over_the_wire_and_go_back() {
    let wire = v1::FirewallRule {
        direction: v1::Direction::In.into(),
        action: v1::FirewallAction::Accept.into(),
        protocol: "tcp".into(),
        remote: "192.0.2.0/24".into(),
        ports: "22".into(),
    };
    assert_eq!(v1::FirewallRule::from(&firewall_rule(&wire).unwrap()), wire);
    let failure = firewall_rule(&v1::FirewallRule { ports: "22".into(), ..Default::default() }).unwrap_err();
    let named: Vec<_> = failure.fields().iter().map(|v| v.field.as_str()).collect();
    assert_eq!(named, ["direction", "action", "ports"]);
}
