//! Networks that VMs are plugged into.

use clap::{ArgGroup, Args, Subcommand};
use prost_types::FieldMask;
use quantix_api::v1::{
    BridgeNetwork, CreateNetworkRequest, DeleteNetworkRequest, GetNetworkRequest, IsolatedNetwork, Lease,
    ListLeasesRequest, ListNetworksRequest, ListVmsRequest, NatNetwork, Network, NetworkState, UpdateNetworkRequest,
    create_network_request, network,
};

use crate::failure::Failure;
use crate::output::Format;
use crate::pairs::parse_label;
use crate::progress::{Idempotent, Waiting};
use crate::session::{Session, pages};
use crate::style::Tone;
use crate::table::{Cell, Column, Facts, Sheet, View, labels};
use crate::units;
use crate::words::word;

/// Commands on networks.
#[derive(Debug, Subcommand)]
pub enum NetCommand {
    /// List networks
    #[command(visible_alias = "list", after_help = "Examples:\n  qx net ls\n  qx net ls -o wide")]
    Ls,
    /// Show a network
    #[command(after_help = "Examples:\n  qx net show default")]
    Show {
        /// Name or id
        network: String,
    },
    /// Make a network: NAT, a bridge to the host's own, or isolated
    #[command(after_help = "\
Examples:
  qx net create lab --nat
  qx net create web --nat 10.80.7.1/24 --domain web.internal --dns 9.9.9.9
  qx net create office --bridge eth0 --vlan 42
  qx net create storage --isolated 10.99.0.1/24")]
    Create(CreateArgs),
    /// Change name servers, domain or labels
    #[command(
        after_help = "Examples:\n  qx net edit web --dns 9.9.9.9 --dns 1.1.1.1\n  qx net edit web --label team=front"
    )]
    Edit(EditArgs),
    /// Delete a network
    #[command(visible_alias = "rm", after_help = "Examples:\n  qx net delete lab")]
    Delete {
        /// Name or id
        network: String,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// List which addresses DHCP gave to whom
    #[command(after_help = "Examples:\n  qx net leases\n  qx net leases default")]
    Leases {
        /// Name or id; all networks when none is named
        network: Option<String>,
    },
}

/// What `net create` takes.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("kind").required(true).args(["nat", "bridge", "isolated"])))]
pub struct CreateArgs {
    /// What to call it
    name: String,
    /// A bridge of its own behind the host, with DHCP and DNS; the host's address and the prefix, or a free one
    #[arg(long, value_name = "ADDRESS/PREFIX", num_args = 0..=1, default_missing_value = "")]
    nat: Option<String>,
    /// Guests are on the network of this interface or bridge of the host
    #[arg(long, value_name = "UPLINK")]
    bridge: Option<String>,
    /// A bridge that leads nowhere; with DHCP when the host's address and the prefix are given
    #[arg(long, value_name = "ADDRESS/PREFIX", num_args = 0..=1, default_missing_value = "")]
    isolated: Option<String>,
    /// VLAN of a bridge
    #[arg(long, value_name = "ID", conflicts_with_all = ["nat", "isolated"], value_parser = clap::value_parser!(u32).range(1..=4094))]
    vlan: Option<u32>,
    /// First and last address that DHCP gives
    #[arg(long, value_name = "FIRST-LAST", conflicts_with_all = ["bridge", "isolated"], value_parser = parse_range)]
    dhcp: Option<(String, String)>,
    /// Domain of the guests' names
    #[arg(long, value_name = "DOMAIN", conflicts_with_all = ["bridge", "isolated"], default_value = "", hide_default_value = true)]
    domain: String,
    /// Name server to ask for other names (repeatable)
    #[arg(long = "dns", value_name = "ADDRESS", conflicts_with_all = ["bridge", "isolated"])]
    dns_servers: Vec<String>,
    /// Label (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    idempotent: Idempotent,
    #[command(flatten)]
    waiting: Waiting,
}

/// What `net edit` takes.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Name or id
    network: String,
    /// Domain of the guests' names
    #[arg(long, value_name = "DOMAIN")]
    domain: Option<String>,
    /// Name server to ask for other names, in place of those before (repeatable); '' for the host's own
    #[arg(long = "dns", value_name = "ADDRESS")]
    dns_servers: Vec<String>,
    /// Set a label (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Remove a label (repeatable)
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,
}

fn parse_range(text: &str) -> Result<(String, String), String> {
    let range = text.split_once('-').map(|(first, last)| (first.trim().to_owned(), last.trim().to_owned()));
    range.ok_or_else(|| format!("'{text}' is no range; write it as FIRST-LAST"))
}

const SHEET: Sheet<Network> = Sheet {
    plural: "networks",
    name: |network| &network.name,
    columns: &[
        Column::text("NAME", |network, _| network.name.as_str().into()),
        Column::text("KIND", |network, _| kind(network).into()),
        Column::text("ADDRESSES", |network, _| addresses(network).into()),
        Column::text("INTERFACE", |network, _| network.interface.as_str().into()),
        Column::number("NICS", |network, _| network.nic_count.to_string().into()),
        Column::text("STATE", |network, _| state(network)),
        Column::number("AGE", |network, view| units::age(network.create_time.as_ref(), view.now).into()),
        Column::wide_text("LABELS", |network, _| labels(&network.labels).into()),
        Column::wide_text("ID", |network, _| network.id.as_str().into()),
    ],
};

const LEASES: Sheet<Lease> = Sheet {
    plural: "leases",
    name: |lease| &lease.address,
    columns: &[
        Column::text("ADDRESS", |lease, _| lease.address.as_str().into()),
        Column::text("MAC", |lease, _| lease.mac.as_str().into()),
        Column::text("HOSTNAME", |lease, _| lease.hostname.as_str().into()),
        Column::text("VM", |lease, view| view.name(&lease.vm).into()),
        Column::number("EXPIRES", |lease, view| units::until(lease.expire_time.as_ref(), view.now).into()),
    ],
};

/// Runs a command on networks.
pub async fn run(command: NetCommand, session: &Session) -> Result<(), Failure> {
    let mut networks = session.networks().await?;
    match command {
        NetCommand::Ls => {
            let all = pages!(&networks, list_networks, ListNetworksRequest::default(), networks)?;
            session.out.list(&all, &SHEET, &session.out.view())
        }
        NetCommand::Show { network } => {
            let network = networks.get_network(GetNetworkRequest { network }).await?.into_inner();
            session.out.show(&network, &network.name, facts)
        }
        NetCommand::Create(args) => {
            let waiting = args.waiting.clone();
            let task = networks.create_network(request(args)).await?.into_inner();
            waiting.finish(session, task, "Network {} is there.").await
        }
        NetCommand::Edit(args) => edit(args, session).await,
        NetCommand::Delete { network, waiting } => {
            let request = DeleteNetworkRequest { network, ..DeleteNetworkRequest::default() };
            let task = networks.delete_network(request).await?.into_inner();
            waiting.finish(session, task, "Network {} is deleted.").await
        }
        NetCommand::Leases { network } => leases(network, session).await,
    }
}

fn request(args: CreateArgs) -> CreateNetworkRequest {
    let kind = match (args.nat, args.bridge, args.isolated) {
        (Some(subnet), ..) => {
            let (dhcp_first, dhcp_last) = args.dhcp.unwrap_or_default();
            let domain = args.domain;
            let dns_servers = args.dns_servers;
            create_network_request::Kind::Nat(NatNetwork { subnet, dhcp_first, dhcp_last, domain, dns_servers })
        }
        (None, Some(uplink), _) => {
            create_network_request::Kind::Bridge(BridgeNetwork { uplink, vlan: args.vlan.unwrap_or_default() })
        }
        (None, None, subnet) => {
            create_network_request::Kind::Isolated(IsolatedNetwork { subnet: subnet.unwrap_or_default() })
        }
    };
    CreateNetworkRequest {
        name: args.name,
        kind: Some(kind),
        labels: args.labels.into_iter().collect(),
        request_id: args.idempotent.request_id,
        wait: None,
    }
}

async fn edit(args: EditArgs, session: &Session) -> Result<(), Failure> {
    let mut networks = session.networks().await?;
    let mut network = networks.get_network(GetNetworkRequest { network: args.network }).await?.into_inner();
    let mut paths: Vec<&str> = Vec::new();
    if let Some(network::Kind::Nat(nat)) = &mut network.kind {
        if let Some(domain) = args.domain {
            nat.domain = domain;
            paths.push("nat.domain");
        }
        if !args.dns_servers.is_empty() {
            nat.dns_servers = args.dns_servers.into_iter().filter(|server| !server.is_empty()).collect();
            paths.push("nat.dns_servers");
        }
    } else if args.domain.is_some() || !args.dns_servers.is_empty() {
        return Err(Failure::usage(format!("Network {} has no NAT, and so no domain and name servers", network.name)));
    }
    if !args.labels.is_empty() || !args.unlabels.is_empty() {
        network.labels.retain(|key, _| !args.unlabels.contains(key));
        network.labels.extend(args.labels);
        paths.push("labels");
    }
    if paths.is_empty() {
        return Err(Failure::usage("Nothing is to be changed").hint("what can be: qx net edit --help"));
    }
    let update_mask = Some(FieldMask { paths: paths.into_iter().map(str::to_owned).collect() });
    let request = UpdateNetworkRequest { network: Some(network), update_mask };
    let network = networks.update_network(request).await?.into_inner();
    session.out.done(&network, &network.name, &format!("Network {} is changed.", network.name))
}

async fn leases(network: Option<String>, session: &Session) -> Result<(), Failure> {
    let mut networks = session.networks().await?;
    let names = if let Some(name) = network {
        vec![name]
    } else {
        let all = pages!(&networks, list_networks, ListNetworksRequest::default(), networks)?;
        all.into_iter().map(|network| network.name).collect()
    };
    let mut all = Vec::new();
    for network in names {
        all.extend(networks.list_leases(ListLeasesRequest { network }).await?.into_inner().leases);
    }
    let mut view = session.out.view();
    let by_id = all.iter().any(|lease| !lease.vm.is_empty());
    if by_id && !matches!(session.out.format, Format::Json | Format::Name) {
        let vms = pages!(session.vms().await?, list_vms, ListVmsRequest::default(), vms)?;
        view.names.extend(vms.into_iter().map(|vm| (vm.id, vm.name)));
    }
    session.out.list(&all, &LEASES, &view)
}

fn kind(network: &Network) -> &'static str {
    match &network.kind {
        Some(network::Kind::Bridge(_)) => "bridge",
        Some(network::Kind::Nat(_)) => "nat",
        Some(network::Kind::Isolated(_)) => "isolated",
        None => "",
    }
}

fn addresses(network: &Network) -> String {
    match &network.kind {
        Some(network::Kind::Bridge(bridge)) if bridge.vlan > 0 => format!("{} vlan {}", bridge.uplink, bridge.vlan),
        Some(network::Kind::Bridge(bridge)) => bridge.uplink.clone(),
        Some(network::Kind::Nat(nat)) => nat.subnet.clone(),
        Some(network::Kind::Isolated(isolated)) => isolated.subnet.clone(),
        None => String::new(),
    }
}

fn state(network: &Network) -> Cell {
    let tone = if network.state() == NetworkState::Ready { Tone::Good } else { Tone::Bad };
    Cell::toned(word::<NetworkState>(network.state), tone)
}

fn facts(network: &Network, _: &View) -> Facts {
    let mut facts = Facts::default();
    facts
        .add("Name", network.name.as_str())
        .add("Id", network.id.as_str())
        .add("Kind", kind(network))
        .add("State", state(network))
        .add("Reason", network.state_reason.as_str())
        .add("Interface", network.interface.as_str());
    match &network.kind {
        Some(network::Kind::Bridge(_)) => {
            facts.add("Uplink", addresses(network));
        }
        Some(network::Kind::Nat(nat)) => {
            facts.add("Subnet", nat.subnet.as_str());
            if !nat.dhcp_first.is_empty() {
                facts.add("DHCP", format!("{} to {}", nat.dhcp_first, nat.dhcp_last));
            }
            facts.add("Domain", nat.domain.as_str()).add("Name servers", nat.dns_servers.join(" "));
        }
        Some(network::Kind::Isolated(isolated)) => {
            facts.add("Subnet", isolated.subnet.as_str());
        }
        None => {}
    }
    facts
        .add("NICs", network.nic_count.to_string())
        .add("Labels", labels(&network.labels))
        .add("Created", units::when(network.create_time.as_ref()));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Noun};
    use crate::table::tests::view;
    use clap::Parser;
    use quantix_api::json;

    fn created(line: &str) -> serde_json::Value {
        let cli = Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{error}"));
        let Noun::Net { command: NetCommand::Create(args) } = cli.noun else { panic!("{line}") };
        json::to_value(&request(args))
    }

    #[test]
    fn each_kind_has_its_options() {
        let nat = created("qx net create web --nat 10.80.7.1/24 --dhcp 10.80.7.10-10.80.7.99 --dns 9.9.9.9");
        assert_eq!(nat["nat"]["subnet"], "10.80.7.1/24");
        assert_eq!(nat["nat"]["dhcpLast"], "10.80.7.99");
        assert_eq!(nat["nat"]["dnsServers"][0], "9.9.9.9");
        assert_eq!(created("qx net create lab --nat")["nat"]["subnet"], "");
        assert_eq!(created("qx net create o --bridge eth0 --vlan 42")["bridge"]["vlan"], 42);
        assert_eq!(created("qx net create s --isolated")["isolated"]["subnet"], "");
    }

    #[test]
    fn options_of_another_kind_are_refused() {
        for line in [
            "qx net create x",
            "qx net create x --nat --bridge eth0",
            "qx net create x --isolated --dns 9.9.9.9",
            "qx net create x --nat --vlan 4",
            "qx net create x --bridge eth0 --vlan 4095",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn lists_of_networks_and_leases() {
        let network = Network {
            name: "default".into(),
            kind: Some(network::Kind::Nat(NatNetwork { subnet: "10.80.0.1/24".into(), ..NatNetwork::default() })),
            interface: "qxbr0".into(),
            state: NetworkState::Degraded.into(),
            nic_count: 3,
            ..Network::default()
        };
        assert_eq!(
            SHEET.render(&[network], &view()),
            "NAME     KIND  ADDRESSES     INTERFACE  NICS  STATE     AGE\n\
             default  nat   10.80.0.1/24  qxbr0         3  degraded\n"
        );
        let lease = Lease { address: "10.80.0.7".into(), mac: "52:54:00:00:00:01".into(), ..Lease::default() };
        assert_eq!(
            LEASES.render(&[lease], &view()),
            "ADDRESS    MAC                HOSTNAME  VM  EXPIRES\n\
             10.80.0.7  52:54:00:00:00:01                  never\n"
        );
    }
}
