//! Networks as they are wished: created, changed, deleted and listed in the store, with the checks that need to look at
//! others or at the host. Tokio tasks; what comes of it on the host is next door.

use std::collections::BTreeMap;

use super::error::NetworkErrorKind;
use super::world::Condition;
use super::{ConfiguredNic, Lease, Networks, naming};
use crate::model::{
    Caller, Failure, Fingerprint, Id, Mac, Name, NatRequest, Network, NetworkKind, NewEvent, NewTask, Page, PageOf,
    ResourceKind, Subnet, Task, Uplink, Violation, check_domain, check_servers, free_subnet,
};
use crate::store::{Idempotency, ReadTx, Record, Stored, WriteTx};

/// Remembered in the inventory once the default network was made, so that one that was deleted stays deleted.
const DEFAULT_MADE: &str = "network.default-made";

impl Record for Network {
    const TABLE: &'static str = "networks";
    const KIND: ResourceKind = ResourceKind::Network;

    fn id(&self) -> &Id {
        &self.id
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// What a caller wrote about a network's kind. Empty texts mean what the API says they mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindRequest {
    /// On the host's own network.
    Bridge {
        /// An interface.
        uplink: String,
        /// 0 for none.
        vlan: u32,
    },
    /// Behind the host.
    Nat {
        /// Host's address and prefix, or empty.
        subnet: String,
        /// First address of DHCP, or empty.
        dhcp_first: String,
        /// Last address of DHCP, or empty.
        dhcp_last: String,
        /// Domain, or empty.
        domain: String,
        /// Name servers.
        dns_servers: Vec<String>,
    },
    /// Without a way out.
    Isolated {
        /// Host's address and prefix, or empty for no addresses.
        subnet: String,
    },
}

/// A network to be made.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// Its name.
    pub name: Name,
    /// What it shall be.
    pub kind: KindRequest,
    /// Of the caller's.
    pub labels: BTreeMap<String, String>,
    /// The caller's mark on this request, or empty.
    pub request_id: String,
    /// What makes it the same request.
    pub fingerprint: Fingerprint,
}

/// What can be changed of a network; none: stays.
#[derive(Clone, Debug, Default)]
pub struct NetworkChanges {
    /// Labels.
    pub labels: Option<BTreeMap<String, String>>,
    /// Domain of a NAT network; empty for the default.
    pub domain: Option<String>,
    /// Name servers of a NAT network.
    pub dns_servers: Option<Vec<String>>,
}

/// A network with what is known of it now.
#[derive(Clone, Debug)]
pub struct NetworkView {
    /// As it is stored.
    pub stored: Stored<Network>,
    /// How it stands.
    pub condition: Condition,
    /// NICs that VMs have in it.
    pub nic_count: u32,
}

impl Networks {
    /// Records a network and starts making it. Returns the task.
    ///
    /// # Errors
    /// What is wrong with the request, by field; what is taken; what the host lacks.
    pub async fn create(&self, new: NewNetwork, caller: &Caller) -> Result<Task, Failure> {
        if let Some(task) = self.same_request(&new, caller).await? {
            return Ok(task);
        }
        let id = Id::new();
        let kind = self.check_kind(&new.kind).await?;
        let wanted = kind.clone();
        // Before the host is looked at: what another network leads to is a port of its bridge already.
        self.shared.store.read(move |tx| check_apart(tx, &wanted)).await?;
        let own = naming::bridge(&id);
        let interface = self.world().await.bridges().interface_for(own, &kind).await.map_err(blame_uplink)?;
        let network = Network { id, name: new.name, kind, interface, labels: new.labels };
        let (record, owner) = (network.clone(), caller.clone());
        let begun = self.shared.store.write(move |tx| {
            if let Idempotency::Again(task) = tx.request(&owner, "CreateNetwork", &new.request_id, new.fingerprint)? {
                return Ok((tx.get_task(&task)?, false));
            }
            check_apart(tx, &record.kind)?;
            tx.insert(&record)?;
            tx.event(
                NewEvent::info("network.created", format!("Network {} was created", record.name))
                    .on(record.reference()),
            )?;
            Ok((tx.task(NewTask::new("CreateNetwork", record.reference(), &owner))?, true))
        });
        let (task, first) = begun.await?;
        if first {
            let networks = self.clone();
            self.shared.tasks.run(task.clone(), move |context| async move {
                context.step("Making the bridge");
                networks.establish(network).await
            });
        }
        Ok(task)
    }

    /// The task of the same request before, which must be answered before anything is checked: it may have changed the host.
    async fn same_request(&self, new: &NewNetwork, caller: &Caller) -> Result<Option<Task>, Failure> {
        if new.request_id.is_empty() {
            return Ok(None);
        }
        let (request_id, fingerprint, caller) = (new.request_id.clone(), new.fingerprint, caller.clone());
        let look = self.shared.store.write(move |tx| {
            match tx.request(&caller, "CreateNetwork", &request_id, fingerprint)? {
                Idempotency::Again(task) => tx.get_task(&task).map(Some),
                Idempotency::First => Ok(None),
            }
        });
        look.await
    }

    async fn check_kind(&self, request: &KindRequest) -> Result<NetworkKind, Failure> {
        match request {
            KindRequest::Bridge { uplink, vlan } => Uplink::check(uplink, *vlan).map(NetworkKind::Bridge),
            KindRequest::Nat { subnet, dhcp_first, dhcp_last, domain, dns_servers } => {
                let picked = if subnet.is_empty() { self.pick_subnet().await?.to_string() } else { subnet.clone() };
                let nat = NatRequest { subnet: &picked, dhcp_first, dhcp_last, domain, dns_servers }.check()?;
                self.check_routes("nat.subnet", nat.subnet).await?;
                Ok(NetworkKind::Nat(nat))
            }
            KindRequest::Isolated { subnet } if subnet.is_empty() => Ok(NetworkKind::Isolated { subnet: None }),
            KindRequest::Isolated { subnet } => {
                let read = Subnet::try_from(subnet.as_str());
                let read = read.map_err(|reason| Failure::invalid("isolated.subnet", subnet, reason))?;
                self.check_routes("isolated.subnet", read).await?;
                Ok(NetworkKind::Isolated { subnet: Some(read) })
            }
        }
    }

    async fn pick_subnet(&self) -> Result<Subnet, Failure> {
        let links = self.world().await.links().clone();
        let mut taken: Vec<Subnet> = links.routes().await?.into_iter().map(|(route, _)| route).collect();
        // Those whose bridges are not up at the moment are no routes.
        let stored = self.shared.store.read(|tx| tx.all::<Network>()).await?;
        taken.extend(stored.iter().filter_map(|stored| stored.record.subnet()));
        free_subnet(&taken).ok_or_else(|| {
            Failure::exhausted(
                "No /24 of 10.80.0.0/12 is free: this host has routes to all of it; give a subnet yourself",
            )
        })
    }

    /// Refuses a subnet that the host reaches elsewhere. Other networks of ours are looked at when it is stored.
    async fn check_routes(&self, field: &str, subnet: Subnet) -> Result<(), Failure> {
        let links = self.world().await.links().clone();
        let names: BTreeMap<u32, String> =
            links.list().await?.into_iter().map(|link| (link.index, link.name)).collect();
        for (route, interface) in links.routes().await? {
            let name = interface.and_then(|index| names.get(&index)).map_or("another route", String::as_str);
            if route.overlaps(subnet) && !name.starts_with(naming::PREFIX) {
                let reason = format!("overlaps {route}, which this host reaches by {name}: choose another subnet");
                return Err(Failure::invalid(field, subnet, reason));
            }
        }
        Ok(())
    }

    /// Makes a recorded network on the host. When the host cannot have it at all, the record goes again; when something
    /// is only missing, it stays, degraded, and is tried again.
    async fn establish(&self, network: Network) -> Result<(), Failure> {
        let id = network.id.clone();
        let mut world = self.world().await;
        world.adopt(network.clone());
        self.settle_one(&mut world, &id).await;
        let refused = match world.bridge(&id) {
            None => world.problem(&id),
            Some(_) => None,
        };
        if let Some(reason) = refused {
            world.drop_network(&id).await?;
            drop(world);
            self.shared.store.write(move |tx| forget(tx, &network, "could not be made")).await?;
            return Err(Failure::precondition(reason));
        }
        // A failure is this network's condition from now on.
        if let Err(error) = world.apply_filters().await {
            tracing::warn!("network {}: {}", network.name, error.chain());
        }
        let serving = world.dhcp_watch(&id);
        drop(world);
        if let Some(serving) = serving {
            super::dhcp::DhcpServer::decided(serving).await;
        }
        self.tell_changes().await;
        Ok(())
    }

    /// Changes what can be changed.
    ///
    /// # Errors
    /// By field; `Aborted` when `expected` is not the present revision.
    pub async fn update(
        &self,
        network: String,
        expected: Option<u64>,
        changes: NetworkChanges,
    ) -> Result<NetworkView, Failure> {
        let write = self.shared.store.write(move |tx| {
            let mut record = tx.find::<Network>(&network)?.record;
            apply_changes(&mut record, changes)?;
            tx.update(&record, expected)
        });
        let stored = write.await?;
        let id = stored.record.id.clone();
        let mut world = self.world().await;
        world.adopt(stored.record);
        self.settle_one(&mut world, &id).await;
        drop(world);
        self.tell_changes().await;
        self.get(id.to_string()).await
    }

    /// Records that a network shall go, and starts removing it. Returns the task.
    ///
    /// # Errors
    /// `FailedPrecondition` while a VM has a NIC in it.
    pub async fn delete(&self, network: String, expected: Option<u64>, caller: &Caller) -> Result<Task, Failure> {
        let (configured, owner) = (self.shared.configured.clone(), caller.clone());
        let plugged: Vec<(Id, Name)> =
            self.world().await.nics.all().map(|(_, plan)| (plan.network.clone(), plan.vm_name.clone())).collect();
        let write = self.shared.store.write(move |tx| {
            let record = tx.find::<Network>(&network)?.record;
            let nics = configured.get().map_or_else(|| Ok(Vec::new()), |nics| nics(tx))?;
            let users =
                nics.iter().map(|nic| (&nic.network, &nic.vm_name)).chain(plugged.iter().map(|(id, vm)| (id, vm)));
            if let Some((_, vm)) = users.into_iter().find(|(id, _)| **id == record.id) {
                return Err(Failure::precondition(format!(
                    "Network {} is used by VM {vm}: take its NIC out of it first",
                    record.name
                )));
            }
            tx.delete::<Network>(&record.id, expected)?;
            tx.event(
                NewEvent::info("network.deleted", format!("Network {} was deleted", record.name))
                    .on(record.reference()),
            )?;
            let task = tx.task(NewTask::new("DeleteNetwork", record.reference(), &owner))?;
            Ok((task, record.id))
        });
        let (task, id) = write.await?;
        let networks = self.clone();
        self.shared.tasks.run(task.clone(), move |context| async move {
            context.step("Removing the bridge");
            let mut world = networks.world().await;
            world.drop_network(&id).await?;
            Ok(world.apply_filters().await?)
        });
        Ok(task)
    }

    /// One network, by id or name.
    pub async fn get(&self, network: String) -> Result<NetworkView, Failure> {
        let configured = self.shared.configured.clone();
        let read = self.shared.store.read(move |tx| {
            let nics = configured.get().map_or_else(|| Ok(Vec::new()), |nics| nics(tx))?;
            Ok((tx.find::<Network>(&network)?, nics))
        });
        let (stored, nics) = read.await?;
        Ok(self.view(stored, &nics).await)
    }

    /// A page of networks.
    pub async fn list(&self, page: Page) -> Result<PageOf<NetworkView>, Failure> {
        let configured = self.shared.configured.clone();
        let read = self.shared.store.read(move |tx| {
            let nics = configured.get().map_or_else(|| Ok(Vec::new()), |nics| nics(tx))?;
            Ok((tx.list::<Network>(&page, |_| true)?, nics))
        });
        let (found, nics) = read.await?;
        let mut items = Vec::new();
        for stored in found.items {
            items.push(self.view(stored, &nics).await);
        }
        Ok(PageOf { items, next: found.next })
    }

    async fn view(&self, stored: Stored<Network>, nics: &[ConfiguredNic]) -> NetworkView {
        let id = &stored.record.id;
        let count = nics.iter().filter(|nic| nic.network == *id).count();
        let world = self.world().await;
        let pending = || Condition::Degraded("It is being set up".into());
        let condition = world.networks.get(id).map_or_else(pending, |live| live.condition.clone());
        NetworkView { condition, nic_count: u32::try_from(count).unwrap_or(u32::MAX), stored }
    }

    /// What DHCP gave in a network, by address, each with the VM that has the NIC.
    pub async fn leases(&self, network: String) -> Result<Vec<(Lease, Option<Id>)>, Failure> {
        let id = self.shared.store.read(move |tx| Ok(tx.find::<Network>(&network)?.record.id)).await?;
        let mut owners: BTreeMap<Mac, Id> =
            self.configured_nics().await?.into_iter().map(|nic| (nic.mac, nic.vm)).collect();
        let world = self.world().await;
        owners.extend(world.nics.all().map(|(_, plan)| (plan.mac, plan.vm.clone())));
        let mut leases = world.networks.get(&id).map(|live| live.leases.clone()).unwrap_or_default();
        leases.sort_by_key(|lease| lease.address);
        Ok(leases.into_iter().map(|lease| (lease.clone(), owners.get(&lease.mac).cloned())).collect())
    }

    /// Makes the network `default` when this inventory has never had one.
    pub(super) async fn ensure_default(&self) -> Result<(), Failure> {
        let made = self
            .shared
            .store
            .read(|tx| Ok(tx.meta(DEFAULT_MADE)?.is_some() || !tx.all::<Network>()?.is_empty()))
            .await?;
        if made {
            return Ok(());
        }
        if let Err(error) = self.world().await.claim() {
            tracing::warn!("no default network is made: {}", error.chain());
            return Ok(());
        }
        let empty = String::new;
        let kind = KindRequest::Nat {
            subnet: empty(),
            dhcp_first: empty(),
            dhcp_last: empty(),
            domain: empty(),
            dns_servers: Vec::new(),
        };
        let new = NewNetwork {
            name: Name::parse("name", "default")?,
            kind,
            labels: BTreeMap::new(),
            request_id: empty(),
            fingerprint: Fingerprint::of_bytes(&[]),
        };
        match self.create(new, &Caller::daemon()).await {
            Ok(_) => self.shared.store.write(|tx| tx.set_meta(DEFAULT_MADE, "1")).await,
            Err(failure) => {
                // Tried again at the next start; everything else works without it.
                tracing::warn!("the default network cannot be made: {}", failure.chain());
                Ok(())
            }
        }
    }
}

/// An uplink that is not there or not fit is the request's fault, by field.
fn blame_uplink(error: super::NetworkError) -> Failure {
    match error.kind() {
        NetworkErrorKind::Unfit => {
            Failure::violations(vec![Violation { field: "bridge.uplink".into(), description: error.chain() }])
        }
        _ => error.into(),
    }
}

/// Two networks must not have addresses in common, nor lead to the same place.
fn check_apart(tx: &ReadTx<'_>, kind: &NetworkKind) -> Result<(), Failure> {
    for other in tx.all::<Network>()? {
        let other = other.record;
        match (kind, &other.kind) {
            (NetworkKind::Bridge(a), NetworkKind::Bridge(b)) if a == b => {
                let reason = format!("is what network {} leads to already: plug NICs into that", other.name);
                return Err(Failure::invalid("bridge.uplink", &a.interface, reason));
            }
            _ => {}
        }
        if let (Some(subnet), Some(theirs)) = (kind.subnet(), other.subnet())
            && subnet.overlaps(theirs)
        {
            let field = if matches!(kind, NetworkKind::Nat(_)) { "nat.subnet" } else { "isolated.subnet" };
            let reason = format!("overlaps {theirs} of network {}: choose another subnet", other.name);
            return Err(Failure::invalid(field, subnet, reason));
        }
    }
    Ok(())
}

fn apply_changes(record: &mut Network, changes: NetworkChanges) -> Result<(), Failure> {
    let mut wrong = Vec::new();
    if let Some(labels) = changes.labels {
        record.labels = labels;
    }
    match &mut record.kind {
        NetworkKind::Nat(nat) => {
            if let Some(domain) = changes.domain {
                nat.domain = check_domain("network.nat.domain", &domain, &mut wrong);
            }
            if let Some(servers) = changes.dns_servers {
                nat.dns_servers = check_servers("network.nat.dns_servers", &servers, &mut wrong);
            }
        }
        _ if changes.domain.is_some() || changes.dns_servers.is_some() => wrong.push(Violation {
            field: "update_mask".into(),
            description: format!("names fields of a NAT network, and network {} is none", record.name),
        }),
        _ => {}
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::violations(wrong)) }
}

fn forget(tx: &WriteTx<'_>, network: &Network, why: &str) -> Result<(), Failure> {
    tx.delete::<Network>(&network.id, None)?;
    tx.event(NewEvent::warning("network.deleted", format!("Network {} {why}", network.name)).on(network.reference()))?;
    Ok(())
}
