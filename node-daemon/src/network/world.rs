//! The host's side of all networks, as this daemon keeps it: bridges, filters, DHCP, routing. One lock around it; whoever
//! holds it may change the host. What shall be is told to it, and it tells what came of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

use super::bridges::Bridges;
use super::dhcp::{self, DhcpServer, DhcpState, Files, Host, Lease};
use super::error::{NetworkError, NetworkErrorKind};
use super::links::{Link, Links};
use super::nft::Nft;
use super::places::{DhcpFiles, Places};
use super::plugged::{NicPlan, PluggedNics};
use super::ruleset::{self, Desired, GuardedNetwork, GuardedNic, Reach};
use super::sysctl::Routing;
use crate::model::{Id, Mac, Network, NetworkKind};

/// Name of the claim; each network namespace has its own.
const CLAIM: &str = "quantix-node-networks";

/// How a network stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// As it shall be.
    Ready,
    /// Something is missing, and is tried again.
    Degraded(String),
}

/// A network with what is done for it.
#[derive(Debug)]
pub struct Live {
    /// As it is stored.
    pub network: Network,
    /// How it stands.
    pub condition: Condition,
    /// Why its bridge or its DHCP is not as it shall be.
    problem: Option<String>,
    bridge: Option<Link>,
    dhcp: Option<DhcpServer>,
    /// What dnsmasq was told last.
    told: (String, String),
    /// What it gave.
    pub leases: Vec<Lease>,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    links: Links,
    bridges: Bridges,
    nft: Nft,
    memo: ruleset::Memo,
    /// None: not asked yet.
    bridge_conntrack: Option<bool>,
    routing: Routing,
    places: Places,
    /// Notified when a DHCP server comes up or goes down.
    told: Arc<Notify>,
    /// By id.
    pub networks: BTreeMap<Id, Live>,
    /// All that are plugged in.
    pub nics: PluggedNics,
    /// Why the filters are not as they shall be.
    filters_wrong: Option<String>,
    /// Held by the one daemon that may change this host's networking.
    claim: Option<UnixDatagram>,
}

impl World {
    /// Nothing yet. The directories are this room's own, under the daemon's.
    pub fn new(links: Links, bridges: Bridges, run_dir: PathBuf, state_dir: PathBuf, told: Arc<Notify>) -> Self {
        Self {
            links,
            bridges,
            nft: Nft::default(),
            memo: ruleset::Memo::default(),
            bridge_conntrack: None,
            routing: Routing::new(&run_dir),
            nics: PluggedNics::read(&run_dir),
            places: Places { dnsmasq: "dnsmasq".into(), run_dir, state_dir },
            told,
            networks: BTreeMap::new(),
            filters_wrong: None,
            claim: None,
        }
    }

    /// The filters' program.
    pub fn nft(&mut self) -> &mut Nft {
        &mut self.nft
    }

    /// Calls this program for filters.
    #[cfg(test)]
    pub fn look_for_nft(&mut self, program: PathBuf) {
        self.nft.set_program(program);
    }

    /// Calls this program for addresses and names; networks that are there go on with theirs.
    #[cfg(test)]
    pub fn look_for_dnsmasq(&mut self, program: PathBuf) {
        self.places.dnsmasq = program;
    }

    /// The host's interfaces.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// The makers of bridges.
    pub fn bridges(&self) -> &Bridges {
        &self.bridges
    }

    /// Makes sure that no other daemon changes the networking of this host. The tables have one name each, so two would undo
    /// each other's work. The kernel frees the claim with the process.
    pub fn claim(&mut self) -> Result<(), NetworkError> {
        if self.claim.is_some() {
            return Ok(());
        }
        let address = SocketAddr::from_abstract_name(CLAIM);
        match address.and_then(|address| UnixDatagram::bind_addr(&address)) {
            Ok(socket) => {
                self.claim = Some(socket);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(NetworkError::new(
                NetworkErrorKind::Unfit,
                "Another quantix-node runs the networks of this host: stop it, or use its networks",
            )),
            Err(error) => Err(NetworkError::io("Cannot claim this host's networking")(error)),
        }
    }

    /// Takes a network in, or its new version.
    pub fn adopt(&mut self, network: Network) {
        if let Some(live) = self.networks.get_mut(&network.id) {
            live.network = network;
            return;
        }
        let live = Live {
            condition: Condition::Degraded("It is being set up".into()),
            problem: None,
            bridge: None,
            dhcp: None,
            told: Default::default(),
            leases: Vec::new(),
            network,
        };
        self.networks.insert(live.network.id.clone(), live);
    }

    /// Brings one network's bridge and DHCP to what they shall be. Filters are a step of their own, for all networks.
    pub async fn settle(&mut self, id: &Id, hosts: &[Host]) -> Result<(), NetworkError> {
        let result = self.try_settle(id, hosts).await;
        if let Some(live) = self.networks.get_mut(id) {
            live.problem = result.as_ref().err().map(NetworkError::chain);
        }
        result
    }

    async fn try_settle(&mut self, id: &Id, hosts: &[Host]) -> Result<(), NetworkError> {
        self.claim()?;
        let Some(live) = self.networks.get_mut(id) else { return Ok(()) };
        // A bridge that is not as it shall be is not one to plug into.
        live.bridge = None;
        let bridge = self.bridges.ensure(&live.network).await?;
        live.bridge = Some(bridge);
        if matches!(live.network.kind, NetworkKind::Nat(_)) {
            self.routing.enable()?;
        }
        self.settle_dhcp(id, hosts).await
    }

    /// Brings a network's DHCP server to what it shall be.
    pub async fn settle_dhcp(&mut self, id: &Id, hosts: &[Host]) -> Result<(), NetworkError> {
        let Some(live) = self.networks.get_mut(id) else { return Ok(()) };
        live.settle_dhcp(&self.places.of(id), hosts, &self.told).await
    }

    /// Puts filters, leases and DHCP servers together into each network's condition; returns what has changed.
    pub fn judge(&mut self) -> Vec<(Network, Condition)> {
        let mut changed = Vec::new();
        for live in self.networks.values_mut() {
            let dhcp = match live.dhcp.as_ref().map(DhcpServer::state) {
                Some(DhcpState::Down(reason)) => Some(format!("dnsmasq does not serve: {reason}")),
                // Nothing is wrong while it comes up; it says so if it does not.
                _ => None,
            };
            let wrong = live.problem.clone().or_else(|| self.filters_wrong.clone()).or(dhcp);
            let condition = wrong.map_or(Condition::Ready, Condition::Degraded);
            if condition != live.condition {
                live.condition = condition.clone();
                changed.push((live.network.clone(), condition));
            }
        }
        changed
    }

    /// Reads what DHCP gave; returns what is new.
    pub fn read_leases(&mut self) -> Vec<(Id, Lease)> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut new = Vec::new();
        for (id, live) in &mut self.networks {
            let file = self.places.of(id).leases;
            let text = match fs::read(&file) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
                Err(error) => {
                    tracing::warn!("cannot read {}: {error}", file.display());
                    continue;
                }
            };
            let leases: Vec<Lease> =
                dhcp::parse_leases(&text).into_iter().filter(|lease| lease.is_valid_at(now)).collect();
            let known =
                |lease: &Lease| live.leases.iter().any(|old| (old.mac, old.address) == (lease.mac, lease.address));
            new.extend(leases.iter().filter(|lease| !known(lease)).map(|lease| (id.clone(), lease.clone())));
            live.leases = leases;
        }
        new
    }

    /// Where lease files appear, for watching.
    pub fn lease_directory(&self, id: &Id) -> PathBuf {
        self.places.of(id).state
    }

    /// Follows a network's DHCP server until it serves or not.
    pub fn dhcp_watch(&self, id: &Id) -> Option<tokio::sync::watch::Receiver<DhcpState>> {
        self.networks.get(id)?.dhcp.as_ref().map(DhcpServer::watch)
    }

    /// The bridge of a network that can be plugged into.
    pub fn bridge(&self, id: &Id) -> Option<Link> {
        self.networks.get(id)?.bridge.clone()
    }

    /// Why a network's bridge or DHCP is not as it shall be.
    pub fn problem(&self, id: &Id) -> Option<String> {
        self.networks.get(id)?.problem.clone()
    }

    /// Addresses that are known of a NIC: its fixed one, or what DHCP gave it.
    pub fn addresses(&self, mac: Mac) -> BTreeSet<Ipv4Addr> {
        let fixed = self.nics.all().filter(|(_, plan)| plan.mac == mac).filter_map(|(_, plan)| plan.address);
        let leased = self.networks.values().flat_map(|live| &live.leases).filter(|l| l.mac == mac).map(|l| l.address);
        fixed.chain(leased).collect()
    }

    /// What the filters shall be.
    fn desired(&self) -> Desired {
        let reach = |kind: &NetworkKind| match kind {
            NetworkKind::Bridge(_) => Reach::Uplink,
            NetworkKind::Nat(nat) => Reach::Outwards(nat.subnet),
            NetworkKind::Isolated { subnet } => Reach::Nowhere(*subnet),
        };
        let networks = self.networks.values().map(|live| &live.network);
        Desired {
            networks: networks
                .map(|network| GuardedNetwork { bridge: network.interface.clone(), reach: reach(&network.kind) })
                .collect(),
            nics: self.nics.all().filter_map(|(tap, plan)| self.guarded(tap, plan)).collect(),
            bridge_conntrack: self.bridge_conntrack.unwrap_or(false),
            routes_only_ours: self.routing.is_ours(),
        }
    }

    fn guarded(&self, tap: &str, plan: &NicPlan) -> Option<GuardedNic> {
        let live = self.networks.get(&plan.network)?;
        let leased = live.leases.iter().filter(|lease| lease.mac == plan.mac).map(|lease| lease.address);
        Some(GuardedNic {
            tap: tap.to_owned(),
            bridge: live.network.interface.clone(),
            mac: plan.mac,
            addresses: plan.address.map_or_else(|| leased.collect(), |address| BTreeSet::from([address])),
            allow_spoofing: plan.allow_spoofing,
            rules: plan.rules.clone(),
        })
    }

    /// Brings the filters to what they shall be. Without any network nothing is written.
    pub async fn apply_filters(&mut self) -> Result<(), NetworkError> {
        let result = self.try_filters().await;
        self.filters_wrong = result.as_ref().err().map(NetworkError::chain);
        result
    }

    async fn try_filters(&mut self) -> Result<(), NetworkError> {
        if self.networks.is_empty() {
            return if self.nft.is_applied() { self.nft.remove().await } else { Ok(()) };
        }
        self.claim()?;
        if self.bridge_conntrack.is_none() {
            let can = self.nft.bridge_conntrack().await?;
            if !can {
                tracing::warn!(
                    "this kernel does not follow connections on bridges (nf_conntrack_bridge): answers are passed by what \
                     was let through before"
                );
            }
            self.bridge_conntrack = Some(can);
        }
        let tables = ruleset::tables(&self.desired(), &mut self.memo);
        self.nft.apply(&tables).await
    }

    /// Undoes all that was done for a network and forgets it.
    pub async fn drop_network(&mut self, id: &Id) -> Result<(), NetworkError> {
        let Some(live) = self.networks.remove(id) else { return Ok(()) };
        if let Some(dhcp) = live.dhcp {
            dhcp.stop().await;
        }
        self.places.of(id).remove()?;
        self.bridges.remove(&live.network).await?;
        if !self.networks.values().any(|live| matches!(live.network.kind, NetworkKind::Nat(_))) {
            self.routing.restore()?;
        }
        Ok(())
    }

    /// Ends and removes what an earlier daemon left for networks that there are no more.
    pub async fn sweep(&mut self) -> Result<Vec<String>, NetworkError> {
        self.claim()?;
        let networks: Vec<Network> = self.networks.values().map(|live| live.network.clone()).collect();
        for parent in [&self.places.run_dir, &self.places.state_dir] {
            let entries =
                fs::read_dir(parent).map_err(NetworkError::io(format!("Cannot read {}", parent.display())))?;
            for entry in entries.flatten() {
                let id = entry.file_name().to_str().and_then(|name| Id::try_from(name).ok());
                if let Some(id) = id.filter(|id| !self.networks.contains_key(id)) {
                    let files = self.places.of(&id);
                    dhcp::end_leftover(&files.server()).await?;
                    files.remove()?;
                }
            }
        }
        self.bridges.sweep(&networks).await
    }

    /// Forgets NICs whose taps are gone.
    pub async fn forget_gone(&mut self) -> Result<(), NetworkError> {
        let links: BTreeSet<String> = self.links.list().await?.into_iter().map(|link| link.name).collect();
        self.nics.retain(|tap, _| links.contains(tap));
        self.nics.save()
    }

    /// Removes the filters, and puts routing back.
    pub async fn remove_filters(&mut self) -> Result<(), NetworkError> {
        self.claim()?;
        self.nft.remove().await?;
        self.routing.restore()
    }
}

impl Live {
    /// Starts, restarts or tells the DHCP server, whatever the network and its NICs ask for.
    async fn settle_dhcp(&mut self, files: &DhcpFiles, hosts: &[Host], told: &Arc<Notify>) -> Result<(), NetworkError> {
        files.make()?;
        let (server, hosts_file) = (files.server(), files.hosts());
        let named = Files { hosts: &hosts_file, leases: &files.leases, pid: &server.pid };
        let Some(config) = dhcp::text(&self.network, named, files.user()) else { return Ok(()) };
        let hosts = dhcp::hosts(hosts);
        let write = |file: &Path, text: &str| {
            fs::write(file, text).map_err(NetworkError::io(format!("Cannot write {}", file.display())))
        };
        if hosts != self.told.1 || self.dhcp.is_none() {
            write(&hosts_file, &hosts)?;
            if let Some(dhcp) = &self.dhcp {
                dhcp.reload();
            }
        }
        if config != self.told.0 || self.dhcp.is_none() {
            write(&server.config, &config)?;
            if let Some(old) = self.dhcp.take() {
                old.stop().await;
            }
            self.dhcp = Some(DhcpServer::start(server, told.clone()));
        }
        self.told = (config, hosts);
        Ok(())
    }
}
