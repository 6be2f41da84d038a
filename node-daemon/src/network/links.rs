//! Interfaces, addresses and routes of the host, over rtnetlink. Tokio tasks. It does what it is told, and must not decide.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future};
use rtnetlink::packet_route::address::AddressAttribute;
use rtnetlink::packet_route::link::{
    BridgeStpState, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVlan, MulticastGroup};

use super::error::{NetworkError, NetworkErrorKind};
use crate::model::Subnet;

/// One interface, as the kernel described it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Free text that its maker left on it.
    pub alias: String,
    /// The bridge that it is a port of, by number.
    pub master: Option<u32>,
    /// Whether it is a bridge.
    pub is_bridge: bool,
    /// Its VLAN number, when it is a VLAN's sub-interface.
    pub vlan: Option<u16>,
    /// Switched on.
    pub up: bool,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

/// The host's interfaces.
#[derive(Clone, Debug)]
pub struct Links {
    handle: Handle,
}

impl Links {
    /// Connects to the kernel; the connection's task ends when the last handle is dropped. Must be called on a tokio task.
    pub fn connect() -> Result<Self, NetworkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(NetworkError::io("Cannot open a netlink socket"))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Yields whenever an interface or an address of the host changes.
    pub fn changes() -> Result<impl Stream<Item = ()> + Send + Unpin, NetworkError> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(NetworkError::io("Cannot listen on netlink"))?;
        tokio::spawn(connection);
        // The connection lives as long as its handle.
        Ok(messages.map(move |_| drop(handle.clone())))
    }

    /// All interfaces.
    pub async fn list(&self) -> Result<Vec<Link>, NetworkError> {
        let links = self.handle.link().get().execute().map_ok(|message| link_of(&message));
        links.try_collect().await.map_err(NetworkError::link("Cannot list the host's interfaces"))
    }

    /// One interface; none when there is none of that name.
    pub async fn find(&self, name: &str) -> Result<Option<Link>, NetworkError> {
        let answer = self.handle.link().get().match_name(name.to_owned()).execute().try_next().await;
        match answer {
            Ok(message) => Ok(message.map(|message| link_of(&message))),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => Ok(None),
            Err(e) => Err(NetworkError::link(format!("Cannot look for the interface {name}"))(e)),
        }
    }

    /// One interface that must be there.
    pub async fn get(&self, name: &str) -> Result<Link, NetworkError> {
        let gone = || NetworkError::new(NetworkErrorKind::Unfit, format!("There is no interface {name} on this host"));
        self.find(name).await?.ok_or_else(gone)
    }

    /// Makes a bridge with an address of its own, switched off.
    pub async fn add_bridge(&self, name: &str, address: [u8; 6]) -> Result<(), NetworkError> {
        let bridge = LinkBridge::new(name)
            .down()
            .address(address.to_vec())
            // Guests wait for nothing: loops are kept out by the filters, which let no spanning tree of a guest through.
            .stp_state(BridgeStpState::Disabled)
            .forward_delay(0)
            .build();
        let made = self.handle.link().add(bridge).execute().await;
        made.map_err(NetworkError::link(format!("Cannot make the bridge {name}")))
    }

    /// Makes the sub-interface `name` of `uplink` that carries one VLAN, switched off.
    pub async fn add_vlan(&self, name: &str, uplink: &Link, vlan: u16) -> Result<(), NetworkError> {
        let message = LinkVlan::new(name, uplink.index, vlan).build();
        self.handle.link().add(message).execute().await.map_err(NetworkError::link(format!(
            "Cannot make VLAN {vlan} on {}: does this kernel have the module 8021q?",
            uplink.name
        )))
    }

    /// Leaves free text on an interface, by which its maker knows it again.
    pub async fn set_alias(&self, link: &Link, alias: &str) -> Result<(), NetworkError> {
        let attribute = LinkAttribute::IfAlias(alias.to_owned());
        let message = LinkUnspec::new_with_index(link.index).append_extra_attribute(attribute).build();
        self.set(message, || format!("Cannot mark the interface {}", link.name)).await
    }

    /// Switches an interface on.
    pub async fn set_up(&self, link: &Link) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.set(message, || format!("Cannot switch the interface {} on", link.name)).await
    }

    /// Makes an interface a port of a bridge, with the bridge's MTU.
    pub async fn set_port(&self, link: &Link, bridge: &Link) -> Result<(), NetworkError> {
        let message = LinkUnspec::new_with_index(link.index).mtu(bridge.mtu).controller(bridge.index).build();
        self.set(message, || format!("Cannot put {} into the bridge {}", link.name, bridge.name)).await
    }

    async fn set(&self, message: LinkMessage, what: impl FnOnce() -> String) -> Result<(), NetworkError> {
        self.handle.link().set(message).execute().await.map_err(|e| NetworkError::link(what())(e))
    }

    /// Removes an interface; it is no error when it is gone already.
    pub async fn delete(&self, name: &str) -> Result<(), NetworkError> {
        let Some(link) = self.find(name).await? else { return Ok(()) };
        match self.handle.link().del(link.index).execute().await {
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -libc::ENODEV => Ok(()),
            other => other.map_err(NetworkError::link(format!("Cannot remove the interface {name}"))),
        }
    }

    /// Gives an interface an address.
    pub async fn add_address(&self, link: &Link, subnet: Subnet) -> Result<(), NetworkError> {
        let request = self.handle.address().add(link.index, IpAddr::V4(subnet.address()), subnet.prefix());
        request.execute().await.map_err(NetworkError::link(format!("Cannot give {} the address {subnet}", link.name)))
    }

    /// An interface's addresses with their prefixes, but for those that every interface gives itself.
    pub async fn addresses(&self, link: &Link) -> Result<Vec<(IpAddr, u8)>, NetworkError> {
        let all = self.handle.address().get().set_link_index_filter(link.index).execute();
        let messages: Vec<_> = all
            .try_collect()
            .await
            .map_err(NetworkError::link(format!("Cannot list the addresses of {}", link.name)))?;
        let address = |attribute: &AddressAttribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        };
        let given = |address: &IpAddr| !matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
        let pairs = messages.iter().filter_map(|m| Some((m.attributes.iter().find_map(address)?, m.header.prefix_len)));
        Ok(pairs.filter(|(address, _)| given(address)).collect())
    }

    /// Where the host's IPv4 routes lead, but for the default route, with the number of the interface.
    pub async fn routes(&self) -> Result<Vec<(Subnet, Option<u32>)>, NetworkError> {
        let mut query = RouteMessage::default();
        query.header.address_family = rtnetlink::packet_route::AddressFamily::Inet;
        let all = self.handle.route().get(query).execute();
        let routes = all.try_filter_map(|message| future::ready(Ok(route_of(&message))));
        routes.try_collect().await.map_err(NetworkError::link("Cannot list the host's routes"))
    }
}

fn link_of(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        alias: String::new(),
        master: None,
        is_bridge: false,
        vlan: None,
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => {
                link.is_bridge = infos.contains(&LinkInfo::Kind(InfoKind::Bridge));
                link.vlan = infos.iter().find_map(vlan_of);
            }
            _ => {}
        }
    }
    link
}

fn vlan_of(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(parts)) = info else { return None };
    parts.iter().find_map(|part| if let InfoVlan::Id(id) = part { Some(*id) } else { None })
}

fn route_of(message: &RouteMessage) -> Option<(Subnet, Option<u32>)> {
    let destination = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    let interface = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let prefix = message.header.destination_prefix_length;
    // The host's own loop is nobody's network.
    let usable =
        |address: &Ipv4Addr| prefix > 0 && !address.is_loopback() && !address.is_multicast() && !address.is_broadcast();
    destination.filter(usable).map(|address| (Subnet::of_route(address, prefix), interface))
}
