//! Bridges, taps, addresses and filters. The only room that talks to netlink, nftables and dnsmasq.
//!
//! | file | holds |
//! |---|---|
//! | `inventory.rs` | networks in the store: create, change, delete, list |
//! | `keeper.rs` | the task that keeps the host as it shall be, and tells when it is not |
//! | `world.rs` | the host's side, under one lock |
//! | `ruleset/` | pure: what shall pass, as nftables' tables |
//! | `dhcp/` | dnsmasq: configuration (pure), leases (pure), supervision |
//! | `bridges.rs`, `links.rs`, `tap.rs`, `sysctl.rs`, `nft.rs`, `watch.rs` | each talks to one thing of the host |
//!
//! A daemon that stops leaves everything as it is: guests keep their networks, addresses and filters. One that starts writes
//! all of it anew from the store and from the NICs that are plugged in. [`Networks::teardown`] removes all of it. Nothing
//! outside our two tables, our bridges and one switch (routing, put back) is touched.

mod bridges;
mod dhcp;
mod error;
mod inventory;
mod keeper;
mod links;
mod naming;
mod nft;
mod places;
mod plugged;
mod ruleset;
mod sysctl;
mod tap;
mod watch;
mod world;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio::sync::{Mutex, MutexGuard, Notify};
use tokio_util::sync::CancellationToken;

use crate::events::Events;
use crate::model::{Failure, Id, Mac, Name, Network};
use crate::settings::Settings;
use crate::store::{ReadTx, Store};
use crate::tasks::Tasks;

use bridges::Bridges;
use dhcp::Host;
use links::{Link, Links};
use ruleset::Family;
use watch::DirWatch;
use world::World;

pub use dhcp::Lease;
pub use error::{NetworkError, NetworkErrorKind};
pub use inventory::{KindRequest, NetworkChanges, NetworkView, NewNetwork};
pub use plugged::NicPlan;
pub use world::Condition;

/// A NIC as a VM's specification has it, whether the VM runs or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredNic {
    /// Whose it is.
    pub vm: Id,
    /// The VM's name.
    pub vm_name: Name,
    /// The network's id.
    pub network: Id,
    /// Its link address.
    pub mac: Mac,
    /// Its fixed address.
    pub address: Option<Ipv4Addr>,
}

/// Tells all NICs of all VMs, within a transaction. The room that owns VMs gives it.
pub type ConfiguredNics = dyn Fn(&ReadTx<'_>) -> Result<Vec<ConfiguredNic>, Failure> + Send + Sync;

/// What a VMM needs of a NIC.
#[derive(Debug)]
pub struct Plugged {
    /// The tap's name on the host.
    pub tap: String,
    /// Its queues; the tap is gone when the last of them is closed.
    pub fds: Vec<OwnedFd>,
}

/// What the filters dropped of one NIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Frames of the guest that lie about who sent them.
    pub spoofed: u64,
    /// Packets to or from the guest that no rule let pass.
    pub filtered: u64,
}

/// The networks of this node; cheap to clone.
#[derive(Clone)]
pub struct Networks {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    tasks: Tasks,
    events: Events,
    world: Mutex<World>,
    configured: Arc<OnceLock<Box<ConfiguredNics>>>,
    /// Something of DHCP has changed.
    told: Arc<Notify>,
    leases: DirWatch,
}

impl Networks {
    /// Brings all networks of the store up, and keeps them so until `shutdown`. Makes the network `default` at the first
    /// start, when the settings ask for it. What does not work is told by conditions and events; it does not stop the start.
    ///
    /// # Errors
    /// When the store or a directory fails, or the kernel has no netlink.
    pub async fn start(
        settings: &Settings,
        store: Store,
        tasks: Tasks,
        events: Events,
        shutdown: CancellationToken,
    ) -> Result<Self, Failure> {
        let (run_dir, state_dir) = (settings.run_dir.join("network"), settings.state_dir.join("network"));
        for directory in [&run_dir, &state_dir] {
            make_directory(directory)?;
        }
        let links = Links::connect()?;
        let bridges = Bridges::new(links.clone(), &settings.state_dir);
        let told = Arc::new(Notify::new());
        let leases = DirWatch::new().map_err(NetworkError::io("Cannot watch leases (inotify)"))?;
        let world = World::new(links, bridges, run_dir, state_dir, told.clone());
        let shared =
            Shared { store, tasks, events, world: Mutex::new(world), configured: Arc::default(), told, leases };
        let networks = Self { shared: Arc::new(shared) };
        networks.adopt_all().await?;
        if settings.network.default_network {
            networks.ensure_default().await?;
        }
        tokio::spawn(keeper::keep(networks.clone(), shutdown));
        Ok(networks)
    }

    /// Says how to find the NICs of VMs. Until then there are none.
    pub fn know_nics(&self, nics: Box<ConfiguredNics>) {
        if self.shared.configured.set(nics).is_err() {
            tracing::error!("the NICs of VMs were told twice; the first way stays");
        }
    }

    async fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().await
    }

    /// Makes the tap of a NIC with its filters, and plugs it into its network. Filters come first: no frame passes
    /// without them. Nothing is left when this fails.
    pub async fn plug(&self, plan: &NicPlan) -> Result<Plugged, Failure> {
        let mut world = self.world().await;
        let bridge = ready_bridge(&world, &plan.network)?;
        check_unique(&world, plan)?;
        let tap = plan.tap();
        // Its guard must not be touched by what is refused.
        if world.links().find(&tap).await?.is_some() {
            let what = format!("NIC {} of VM {} is plugged in already (tap {tap})", plan.nic, plan.vm_name);
            return Err(Failure::precondition(what));
        }
        world.nics.insert(plan.clone());
        let result = self.plug_in(&mut world, plan, &bridge).await;
        if result.is_err() {
            world.nics.remove(&tap);
            if let Err(error) = world.apply_filters().await {
                tracing::error!("cannot take back the filters of {tap}: {}", error.chain());
            }
        }
        Ok(Plugged { tap, fds: result? })
    }

    async fn plug_in(&self, world: &mut World, plan: &NicPlan, bridge: &Link) -> Result<Vec<OwnedFd>, Failure> {
        let tap = plan.tap();
        world.apply_filters().await?;
        self.tell_hosts(world, &plan.network).await?;
        world.nics.save()?;
        let fds = tap::make(&tap, plan.queues)?;
        // From here on an early return closes the queues, and the tap is gone.
        sysctl::no_ipv6(&tap)?;
        let link = world.links().get(&tap).await?;
        world.links().set_port(&link, bridge).await?;
        world.links().set_up(&link).await?;
        Ok(fds)
    }

    /// Writes the filters of a NIC anew whose tap lives: after the daemon's restart, or when its rules have changed.
    ///
    /// # Errors
    /// `FailedPrecondition` when the tap is gone.
    pub async fn replug(&self, plan: &NicPlan) -> Result<(), Failure> {
        let mut world = self.world().await;
        let (tap, bridge) = (plan.tap(), ready_bridge(&world, &plan.network)?);
        let Some(link) = world.links().find(&tap).await? else {
            return Err(Failure::precondition(format!("The tap {tap} of NIC {} is gone: restart its VM", plan.nic)));
        };
        check_unique(&world, plan)?;
        let before = world.nics.insert(plan.clone());
        if let Err(error) = world.apply_filters().await {
            match before {
                Some(before) => world.nics.insert(before),
                None => world.nics.remove(&tap),
            };
            return Err(error.into());
        }
        world.nics.save()?;
        self.tell_hosts(&mut world, &plan.network).await?;
        if link.master != Some(bridge.index) {
            world.links().set_port(&link, &bridge).await?;
        }
        Ok(world.links().set_up(&link).await?)
    }

    /// Takes all NICs of a VM out: filters and, where somebody still holds them, taps. It is no error when there are none.
    pub async fn unplug(&self, vm: &Id) -> Result<(), Failure> {
        let mut world = self.world().await;
        let mine: Vec<(String, Id)> = world
            .nics
            .all()
            .filter(|(_, plan)| plan.vm == *vm)
            .map(|(tap, plan)| (tap.clone(), plan.network.clone()))
            .collect();
        if mine.is_empty() {
            return Ok(());
        }
        for (tap, _) in &mine {
            // First the way, then the guard.
            world.links().delete(tap).await?;
            world.nics.remove(tap);
        }
        world.nics.save()?;
        for (_, network) in &mine {
            self.tell_hosts(&mut world, network).await?;
        }
        Ok(world.apply_filters().await?)
    }

    /// Addresses of a NIC: its fixed one, or what DHCP gave it.
    pub async fn addresses(&self, mac: Mac) -> Vec<IpAddr> {
        self.world().await.addresses(mac).into_iter().map(IpAddr::V4).collect()
    }

    /// A link address of ours that no NIC of this node has.
    pub async fn allocate_mac(&self) -> Result<Mac, Failure> {
        let taken: Vec<Mac> = self.configured_nics().await?.into_iter().map(|nic| nic.mac).collect();
        loop {
            let mut tail = [0; 3];
            getrandom::fill(&mut tail).map_err(|error| Failure::internal("The kernel gives no random bytes", error))?;
            let mac = Mac::ours(tail);
            if !taken.contains(&mac) {
                return Ok(mac);
            }
        }
    }

    /// What the filters dropped of the NIC with this tap.
    pub async fn dropped(&self, tap: &str) -> Result<Dropped, Failure> {
        let mut world = self.world().await;
        let spoofed = world.nft().packets(Family::Bridge, &ruleset::spoof_counter(tap)).await?;
        let filtered = world.nft().packets(Family::Bridge, &ruleset::filter_counter(tap)).await?;
        Ok(Dropped { spoofed: spoofed.unwrap_or(0), filtered: filtered.unwrap_or(0) })
    }

    /// Removes all that this room has made on the host: DHCP servers, bridges, filters; and puts routing back. The store
    /// stays as it is, so the next start brings everything back. VMs that run lose their networks.
    pub async fn teardown(&self) -> Result<(), Failure> {
        let mut world = self.world().await;
        let ids: Vec<Id> = world.networks.keys().cloned().collect();
        let taps: Vec<String> = world.nics.all().map(|(tap, _)| tap.clone()).collect();
        for tap in taps {
            world.links().delete(&tap).await?;
            world.nics.remove(&tap);
        }
        world.nics.save()?;
        for id in ids {
            world.drop_network(&id).await?;
        }
        Ok(world.remove_filters().await?)
    }

    async fn configured_nics(&self) -> Result<Vec<ConfiguredNic>, Failure> {
        let configured = self.shared.configured.clone();
        self.shared.store.read(move |tx| configured.get().map_or_else(|| Ok(Vec::new()), |nics| nics(tx))).await
    }

    /// Who may ask for addresses where: all NICs that VMs have, and those that are plugged in.
    async fn hosts(&self, world: &World) -> Result<BTreeMap<Id, Vec<Host>>, Failure> {
        let mut hosts: BTreeMap<Id, BTreeMap<Mac, Host>> = BTreeMap::new();
        for nic in self.configured_nics().await? {
            let host = Host { mac: nic.mac, address: nic.address, name: nic.vm_name };
            hosts.entry(nic.network).or_default().insert(nic.mac, host);
        }
        for (_, plan) in world.nics.all() {
            let host = Host { mac: plan.mac, address: plan.address, name: plan.vm_name.clone() };
            hosts.entry(plan.network.clone()).or_default().insert(plan.mac, host);
        }
        Ok(hosts.into_iter().map(|(network, hosts)| (network, hosts.into_values().collect())).collect())
    }

    async fn tell_hosts(&self, world: &mut World, network: &Id) -> Result<(), Failure> {
        let hosts = self.hosts(world).await?.remove(network).unwrap_or_default();
        Ok(world.settle_dhcp(network, &hosts).await?)
    }
}

fn make_directory(directory: &Path) -> Result<(), NetworkError> {
    let failed = || NetworkError::io(format!("Cannot make {}", directory.display()));
    fs::create_dir_all(directory).map_err(failed())?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).map_err(failed())
}

/// The bridge of a network that stands.
fn ready_bridge(world: &World, id: &Id) -> Result<Link, Failure> {
    let live =
        world.networks.get(id).ok_or_else(|| Failure::not_found(crate::model::ResourceKind::Network, id.as_str()))?;
    world.bridge(id).ok_or_else(|| {
        let reason = match &live.condition {
            Condition::Ready => "its bridge is being made",
            Condition::Degraded(reason) => reason,
        };
        Failure::unavailable(format!("Network {} does not work: {reason}", live.network.name))
    })
}

/// Two NICs with one address would each cut the other off.
fn check_unique(world: &World, plan: &NicPlan) -> Result<(), Failure> {
    let tap = plan.tap();
    for (_, other) in world.nics.all().filter(|(name, other)| **name != tap && other.network == plan.network) {
        let same = match (plan.address, other.address) {
            _ if plan.mac == other.mac => Some(plan.mac.to_string()),
            (Some(address), Some(theirs)) if address == theirs => Some(address.to_string()),
            _ => None,
        };
        if let Some(address) = same {
            return Err(Failure::precondition(format!(
                "NIC {} of VM {} has the address {address} in this network already: give this one another",
                other.nic, other.vm_name
            )));
        }
    }
    Ok(())
}

/// A network by what the world knows of it.
fn named(network: &Network) -> crate::model::ResourceRef {
    crate::model::ResourceRef::new(crate::model::ResourceKind::Network, &network.id, network.name.as_str())
}

#[cfg(test)]
mod tests;
