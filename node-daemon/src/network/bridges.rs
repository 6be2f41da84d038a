//! The bridges of networks: made, kept as they shall be, removed. Tokio tasks. What it makes carries a mark of this daemon's
//! state directory, so that it removes nothing of anybody else's.

use std::net::IpAddr;
use std::path::Path;

use super::error::{NetworkError, NetworkErrorKind};
use super::links::{Link, Links};
use super::{naming, sysctl};
use crate::model::{Network, NetworkKind, Subnet, Uplink};

/// Makes bridges for one daemon.
#[derive(Clone, Debug)]
pub struct Bridges {
    links: Links,
    mark: String,
}

fn unfit(what: String) -> NetworkError {
    NetworkError::new(NetworkErrorKind::Unfit, what)
}

impl Bridges {
    /// For the daemon whose state is in this directory.
    pub fn new(links: Links, state_dir: &Path) -> Self {
        let mut mark = format!("quantix-node {}", state_dir.display());
        // The kernel takes at most 255 bytes.
        mark.truncate((0..=250).rev().find(|&end| mark.is_char_boundary(end)).unwrap_or(0));
        Self { links, mark }
    }

    /// Which interface a new network uses: an existing bridge itself, or a bridge of its own.
    ///
    /// # Errors
    /// When the uplink is not there or cannot be used, with what to do.
    pub async fn interface_for(&self, own: String, kind: &NetworkKind) -> Result<String, NetworkError> {
        let NetworkKind::Bridge(uplink) = kind else { return Ok(own) };
        let link = self.links.get(&uplink.interface).await?;
        if link.is_bridge && uplink.vlan.is_none() {
            return Ok(link.name);
        }
        self.check_uplink(&link, uplink, &own).await?;
        Ok(own)
    }

    /// Brings a network's bridge to what it shall be, and returns it.
    pub async fn ensure(&self, network: &Network) -> Result<Link, NetworkError> {
        match &network.kind {
            NetworkKind::Bridge(uplink) => self.ensure_uplinked(network, uplink).await,
            NetworkKind::Nat(nat) => self.ensure_own(&network.interface, Some(nat.subnet)).await,
            NetworkKind::Isolated { subnet } => self.ensure_own(&network.interface, *subnet).await,
        }
    }

    async fn ensure_own(&self, name: &str, subnet: Option<Subnet>) -> Result<Link, NetworkError> {
        let link = match self.links.find(name).await? {
            Some(link) if link.is_bridge => link,
            Some(_) => {
                return Err(unfit(format!("The interface {name} is no bridge: somebody else made it; remove it")));
            }
            None => {
                self.links.add_bridge(name, naming::bridge_address(name)).await?;
                let link = self.links.get(name).await?;
                self.links.set_alias(&link, &self.mark).await?;
                // Before it is switched on: then it never has an address that nobody gave it.
                sysctl::no_ipv6(name)?;
                link
            }
        };
        if let Some(subnet) = subnet {
            let wanted = (IpAddr::V4(subnet.address()), subnet.prefix());
            if !self.links.addresses(&link).await?.contains(&wanted) {
                self.links.add_address(&link, subnet).await?;
            }
        }
        if !link.up {
            self.links.set_up(&link).await?;
        }
        Ok(link)
    }

    async fn ensure_uplinked(&self, network: &Network, uplink: &Uplink) -> Result<Link, NetworkError> {
        let link = self.links.get(&uplink.interface).await?;
        if network.interface == uplink.interface {
            // Somebody else's bridge: used as it is.
            return if link.is_bridge {
                Ok(link)
            } else {
                Err(unfit(format!("The interface {} is no bridge any more", link.name)))
            };
        }
        self.check_uplink(&link, uplink, &network.interface).await?;
        let bridge = self.ensure_own(&network.interface, None).await?;
        let port = match uplink.vlan {
            None => link.clone(),
            Some(vlan) => self.ensure_vlan(&link, vlan).await?,
        };
        for below in [&link, &port] {
            if !below.up {
                self.links.set_up(below).await?;
            }
        }
        if port.master != Some(bridge.index) {
            // The bridge takes its MTU from its ports, not they from it.
            self.links.set_port(&port, &Link { mtu: port.mtu, ..bridge.clone() }).await?;
        }
        Ok(bridge)
    }

    async fn ensure_vlan(&self, uplink: &Link, vlan: u16) -> Result<Link, NetworkError> {
        let name = naming::vlan(&uplink.name, vlan);
        if let Some(link) = self.links.find(&name).await? {
            return Ok(link);
        }
        self.links.add_vlan(&name, uplink, vlan).await?;
        let link = self.links.get(&name).await?;
        self.links.set_alias(&link, &self.mark).await?;
        sysctl::no_ipv6(&name)?;
        Ok(link)
    }

    /// Whether an interface can be made a port of `bridge`, or carry a VLAN for it.
    async fn check_uplink(&self, link: &Link, uplink: &Uplink, bridge: &str) -> Result<(), NetworkError> {
        // A sub-interface takes nothing away from its uplink.
        if uplink.vlan.is_some() {
            return Ok(());
        }
        let name = &link.name;
        if let Some((address, prefix)) = self.links.addresses(link).await?.first() {
            return Err(unfit(format!(
                "The interface {name} carries the host's own address {address}/{prefix}, and would lose it as a port of a \
                 bridge: make a bridge that has {name} as its port and this address, and name that bridge as the uplink"
            )));
        }
        let master = match link.master {
            None => None,
            Some(index) => self.links.list().await?.into_iter().find(|other| other.index == index),
        };
        match master {
            Some(master) if master.name != bridge => Err(unfit(format!(
                "The interface {name} is a port of {} already: name that as the uplink",
                master.name
            ))),
            _ => Ok(()),
        }
    }

    /// Removes what was made for a network. An uplink, and a bridge that was there before, stay as they are.
    pub async fn remove(&self, network: &Network) -> Result<(), NetworkError> {
        let NetworkKind::Bridge(uplink) = &network.kind else { return self.links.delete(&network.interface).await };
        if network.interface == uplink.interface {
            return Ok(());
        }
        self.links.delete(&network.interface).await?;
        match uplink.vlan {
            Some(vlan) => self.links.delete(&naming::vlan(&uplink.interface, vlan)).await,
            None => Ok(()),
        }
    }

    /// Removes bridges and sub-interfaces that this daemon made and no network has any more. Returns their names.
    pub async fn sweep(&self, networks: &[Network]) -> Result<Vec<String>, NetworkError> {
        let wanted = |name: &str| {
            networks.iter().any(|network| {
                let vlan = match &network.kind {
                    NetworkKind::Bridge(Uplink { interface, vlan: Some(vlan) }) => Some(naming::vlan(interface, *vlan)),
                    _ => None,
                };
                network.interface == name || vlan.as_deref() == Some(name)
            })
        };
        let mut swept = Vec::new();
        for link in self.links.list().await? {
            if link.name.starts_with(naming::PREFIX) && link.alias == self.mark && !wanted(&link.name) {
                self.links.delete(&link.name).await?;
                swept.push(link.name);
            }
        }
        Ok(swept)
    }
}
