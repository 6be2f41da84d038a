//! `NetworkService`: bridges with their addressing. Async runtime.

use std::collections::BTreeMap;

use quantix_api::v1;
use quantix_api::v1::network_service_server::NetworkService;
use tonic::{Request, Response, Status};

use super::{answer, duration};
use crate::daemon::Rooms;
use crate::model::{
    Caller, Direction, Failure, Fingerprint, FirewallRule, Name, Network, NetworkKind, Page, RuleAction, Time,
    Violation,
};
use crate::network::{Condition, KindRequest, NetworkChanges, NetworkView, Networks, NewNetwork};
use crate::store::parse_etag;
use crate::tasks::Tasks;

/// Labels that one network may have, and their longest keys and values, in bytes.
const MOST_LABELS: usize = 64;
const LONGEST_KEY: usize = 63;
const LONGEST_VALUE: usize = 255;

/// Paths that a change may name.
const PATHS: &str = "labels, nat.domain, nat.dns_servers";

/// The service.
pub struct NetworkRpc {
    networks: Networks,
    tasks: Tasks,
}

impl NetworkRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self::of(rooms.networks.clone(), rooms.tasks.clone())
    }

    /// The service on no more than it needs.
    pub fn of(networks: Networks, tasks: Tasks) -> Self {
        Self { networks, tasks }
    }

    async fn list(&self, request: v1::ListNetworksRequest) -> Result<v1::ListNetworksResponse, Failure> {
        let page = Page::parse(request.page_size, &request.page_token, "networks")?;
        let found = self.networks.list(page).await?;
        let networks = found.items.into_iter().map(Into::into).collect();
        Ok(v1::ListNetworksResponse { networks, next_page_token: found.next })
    }

    async fn create(&self, request: v1::CreateNetworkRequest, caller: &Caller) -> Result<v1::Task, Failure> {
        duration("wait", request.wait)?;
        let wait = request.wait;
        let task = self.networks.create(new_network(request)?, caller).await?;
        answer(&self.tasks, &task.id, wait).await
    }

    async fn update(&self, request: v1::UpdateNetworkRequest) -> Result<v1::Network, Failure> {
        let Some(network) = request.network else {
            return Err(Failure::invalid("network", "", "is missing: give the network with its new fields"));
        };
        let expected = parse_etag(&network.etag)?;
        let name = if network.id.is_empty() { network.name.clone() } else { network.id.clone() };
        let changes = changes(network, request.update_mask)?;
        Ok(self.networks.update(name, expected, changes).await?.into())
    }

    async fn delete(&self, request: v1::DeleteNetworkRequest, caller: &Caller) -> Result<v1::Task, Failure> {
        duration("wait", request.wait)?;
        let task = self.networks.delete(request.network, parse_etag(&request.etag)?, caller).await?;
        answer(&self.tasks, &task.id, request.wait).await
    }

    async fn leases(&self, request: v1::ListLeasesRequest) -> Result<v1::ListLeasesResponse, Failure> {
        let found = self.networks.leases(request.network).await?;
        let lease = |(lease, vm): (crate::network::Lease, Option<crate::model::Id>)| v1::Lease {
            mac: lease.mac.to_string(),
            address: lease.address.to_string(),
            hostname: lease.hostname,
            expire_time: lease.expires.map(seconds_to_timestamp),
            vm: vm.map(|id| id.to_string()).unwrap_or_default(),
        };
        Ok(v1::ListLeasesResponse { leases: found.into_iter().map(lease).collect() })
    }
}

fn seconds_to_timestamp(seconds: u64) -> prost_types::Timestamp {
    let micros = i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    Time::from_micros(micros).into()
}

/// Reads a request; all fields at fault are named at once where they do not depend on the host.
fn new_network(request: v1::CreateNetworkRequest) -> Result<NewNetwork, Failure> {
    use v1::create_network_request::Kind;
    let fingerprint =
        Fingerprint::of(&v1::CreateNetworkRequest { request_id: String::new(), wait: None, ..request.clone() });
    let mut wrong = Vec::new();
    let name = Name::parse("name", &request.name).map_err(|failure| wrong.extend_from_slice(failure.fields()));
    check_labels("labels", &request.labels, &mut wrong);
    let kind = match request.kind {
        Some(Kind::Bridge(bridge)) => Some(KindRequest::Bridge { uplink: bridge.uplink, vlan: bridge.vlan }),
        Some(Kind::Nat(nat)) => Some(KindRequest::Nat {
            subnet: nat.subnet,
            dhcp_first: nat.dhcp_first,
            dhcp_last: nat.dhcp_last,
            domain: nat.domain,
            dns_servers: nat.dns_servers,
        }),
        Some(Kind::Isolated(isolated)) => Some(KindRequest::Isolated { subnet: isolated.subnet }),
        None => {
            let description = "is missing: give one of bridge, nat and isolated";
            wrong.push(Violation { field: "kind".into(), description: description.into() });
            None
        }
    };
    match (name, kind, wrong.is_empty()) {
        (Ok(name), Some(kind), true) => {
            Ok(NewNetwork { name, kind, labels: request.labels, request_id: request.request_id, fingerprint })
        }
        _ => Err(Failure::violations(wrong)),
    }
}

fn check_labels(field: &str, labels: &BTreeMap<String, String>, wrong: &mut Vec<Violation>) {
    let mut blame = |what: String| wrong.push(Violation { field: field.into(), description: what });
    if labels.len() > MOST_LABELS {
        blame(format!("holds {} labels: give at most {MOST_LABELS}", labels.len()));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > LONGEST_KEY {
            blame(format!("has a key of {} bytes: a key has 1 to {LONGEST_KEY}", key.len()));
        }
        if value.len() > LONGEST_VALUE {
            blame(format!("has a value of {} bytes: a value has at most {LONGEST_VALUE}", value.len()));
        }
    }
}

/// What the mask names; without a mask, all that can be changed and is given.
fn changes(network: v1::Network, mask: Option<prost_types::FieldMask>) -> Result<NetworkChanges, Failure> {
    use v1::network::Kind;
    let mut changes = NetworkChanges::default();
    let nat = match network.kind {
        Some(Kind::Nat(nat)) => Some(nat),
        _ => None,
    };
    let paths = mask.map(|mask| mask.paths).filter(|paths| !paths.is_empty());
    let paths = paths.unwrap_or_else(|| {
        let mut given = Vec::new();
        if !network.labels.is_empty() {
            given.push("labels".to_owned());
        }
        if let Some(nat) = &nat {
            given.extend((!nat.domain.is_empty()).then(|| "nat.domain".to_owned()));
            given.extend((!nat.dns_servers.is_empty()).then(|| "nat.dns_servers".to_owned()));
        }
        given
    });
    let nat = nat.unwrap_or_default();
    let mut wrong = Vec::new();
    for path in paths {
        match path.as_str() {
            "labels" => {
                check_labels("network.labels", &network.labels, &mut wrong);
                changes.labels = Some(network.labels.clone());
            }
            "nat.domain" => changes.domain = Some(nat.domain.clone()),
            "nat.dns_servers" => changes.dns_servers = Some(nat.dns_servers.clone()),
            other => {
                let reason = format!("cannot be changed: name any of {PATHS}");
                wrong.extend_from_slice(Failure::invalid("update_mask", other, reason).fields());
            }
        }
    }
    if wrong.is_empty() { Ok(changes) } else { Err(Failure::violations(wrong)) }
}

impl From<NetworkView> for v1::Network {
    fn from(view: NetworkView) -> Self {
        let etag = view.stored.etag();
        let Network { id, name, kind, interface, labels } = view.stored.record;
        let (state, state_reason) = match view.condition {
            Condition::Ready => (v1::NetworkState::Ready, String::new()),
            Condition::Degraded(reason) => (v1::NetworkState::Degraded, reason),
        };
        Self {
            id: id.to_string(),
            name: name.to_string(),
            kind: Some(kind.into()),
            interface,
            state: state.into(),
            state_reason,
            nic_count: view.nic_count,
            labels,
            create_time: Some(view.stored.create_time.into()),
            update_time: Some(view.stored.update_time.into()),
            etag,
        }
    }
}

impl From<NetworkKind> for v1::network::Kind {
    fn from(kind: NetworkKind) -> Self {
        match kind {
            NetworkKind::Bridge(uplink) => Self::Bridge(v1::BridgeNetwork {
                uplink: uplink.interface,
                vlan: uplink.vlan.unwrap_or_default().into(),
            }),
            NetworkKind::Nat(nat) => Self::Nat(v1::NatNetwork {
                subnet: nat.subnet.to_string(),
                dhcp_first: nat.dhcp.first.to_string(),
                dhcp_last: nat.dhcp.last.to_string(),
                domain: nat.domain,
                dns_servers: nat.dns_servers.iter().map(ToString::to_string).collect(),
            }),
            NetworkKind::Isolated { subnet } => Self::Isolated(v1::IsolatedNetwork {
                subnet: subnet.map(|subnet| subnet.to_string()).unwrap_or_default(),
            }),
        }
    }
}

/// Reads a NIC's rule; violations are named relative to the rule. For the service of VMs.
///
/// # Errors
/// `InvalidArgument`, with all fields at fault.
pub fn firewall_rule(rule: &v1::FirewallRule) -> Result<FirewallRule, Failure> {
    let mut wrong = Vec::new();
    let mut missing = |field: &str, choices: &str| {
        wrong.push(Violation { field: field.into(), description: format!("is missing: give {choices}") });
    };
    let direction = match rule.direction() {
        v1::Direction::In => Direction::In,
        v1::Direction::Out => Direction::Out,
        v1::Direction::Unspecified => {
            missing("direction", "DIRECTION_IN or DIRECTION_OUT");
            Direction::In
        }
    };
    let action = match rule.action() {
        v1::FirewallAction::Accept => RuleAction::Accept,
        v1::FirewallAction::Drop => RuleAction::Drop,
        v1::FirewallAction::Unspecified => {
            missing("action", "FIREWALL_ACTION_ACCEPT or FIREWALL_ACTION_DROP");
            RuleAction::Drop
        }
    };
    match FirewallRule::check(direction, action, &rule.protocol, &rule.remote, &rule.ports) {
        Ok(read) if wrong.is_empty() => Ok(read),
        Ok(_) => Err(Failure::violations(wrong)),
        Err(failure) => Err(Failure::violations([wrong, failure.fields().to_vec()].concat())),
    }
}

impl From<&FirewallRule> for v1::FirewallRule {
    fn from(rule: &FirewallRule) -> Self {
        let direction = match rule.direction {
            Direction::In => v1::Direction::In,
            Direction::Out => v1::Direction::Out,
        };
        let action = match rule.action {
            RuleAction::Accept => v1::FirewallAction::Accept,
            RuleAction::Drop => v1::FirewallAction::Drop,
        };
        Self {
            direction: direction.into(),
            action: action.into(),
            protocol: rule.protocol.map(|protocol| protocol.as_str().to_owned()).unwrap_or_default(),
            remote: rule.remote.map(String::from).unwrap_or_default(),
            ports: rule.ports.map(String::from).unwrap_or_default(),
        }
    }
}

#[tonic::async_trait]
impl NetworkService for NetworkRpc {
    async fn list_networks(
        &self,
        request: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn get_network(&self, request: Request<v1::GetNetworkRequest>) -> Result<Response<v1::Network>, Status> {
        Ok(Response::new(self.networks.get(request.into_inner().network).await?.into()))
    }

    async fn create_network(&self, request: Request<v1::CreateNetworkRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.create(request.into_inner(), &caller).await?))
    }

    async fn update_network(
        &self,
        request: Request<v1::UpdateNetworkRequest>,
    ) -> Result<Response<v1::Network>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn delete_network(&self, request: Request<v1::DeleteNetworkRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.delete(request.into_inner(), &caller).await?))
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        Ok(Response::new(self.leases(request.into_inner()).await?))
    }
}
