//! The node itself: what it is, what it has, how it is.

use clap::Subcommand;
use quantix_api::v1::{
    BlockDevice, GetHardwareRequest, GetHostBootReportRequest, GetHostRequest, Hardware, Host, HostCapacity,
    NetworkInterface, PciDevice,
};

use crate::bars;
use crate::failure::Failure;
use crate::metrics::{self, MetricsArgs};
use crate::output::Format;
use crate::session::Session;
use crate::style::Tone;
use crate::table::{Cell, Column, Facts, Sheet, View, printable};
use crate::units;

/// Commands on the node.
#[derive(Debug, Default, Subcommand)]
pub enum HostCommand {
    /// What the node is, what it has promised to VMs, and what is wrong
    #[default]
    #[command(visible_alias = "show", after_help = "Examples:\n  qx host status\n  qx host status -o json")]
    Status,
    /// What the node is made of
    #[command(after_help = "Examples:\n  qx host hardware\n  qx host hardware -o wide")]
    Hardware,
    /// Measured values over time, as curves
    #[command(after_help = "\
Examples:
  qx host metrics
  qx host metrics cpu_percent --window 1h
  qx host metrics -o json")]
    Metrics(MetricsArgs),
    /// Every step of the daemon's start on one clock, and what is not accounted for
    #[command(after_help = "Examples:\n  qx host boot-report")]
    BootReport,
    /// What is wrong at the moment
    #[command(after_help = "Examples:\n  qx host alarms")]
    Alarms,
}

/// Runs a command on the node.
pub async fn run(command: HostCommand, session: &Session) -> Result<(), Failure> {
    let out = &session.out;
    match command {
        HostCommand::Status => {
            let host = session.host().await?.get_host(GetHostRequest {}).await?.into_inner();
            out.show(&host, &host.hostname, facts)
        }
        HostCommand::Hardware => {
            let hardware = session.host().await?.get_hardware(GetHardwareRequest {}).await?.into_inner();
            match out.format {
                Format::Json => out.json(&hardware),
                _ => out.text(&hardware_sheet(&hardware, &out.view())),
            }
        }
        HostCommand::Metrics(args) => metrics::show(args, String::new(), session).await,
        HostCommand::BootReport => {
            let request = GetHostBootReportRequest {};
            let report = session.host().await?.get_host_boot_report(request).await?.into_inner();
            match out.format {
                Format::Json => out.json(&report),
                _ => out.text(&bars::boot_report(&report, out.view().width.unwrap_or(100).into(), out.colour)),
            }
        }
        HostCommand::Alarms => {
            let host = session.host().await?.get_host(GetHostRequest {}).await?.into_inner();
            if out.format == Format::Json {
                return out.line(&serde_json::json!(host.alarms).to_string());
            }
            if host.alarms.is_empty() {
                eprintln!("{} Nothing is wrong.", Tone::Good.paint("✓", out.colour));
            }
            host.alarms
                .iter()
                .try_for_each(|alarm| out.line(&format!("{} {}", Tone::Bad.paint("✗", out.colour), printable(alarm))))
        }
    }
}

fn facts(host: &Host, view: &View) -> Facts {
    let mut facts = Facts::default();
    let kvm = if host.kvm_ready { Tone::Good } else { Tone::Warn };
    facts
        .add("Node", Cell::toned(host.hostname.as_str(), Tone::Strong))
        .add("Id", host.id.as_str())
        .add("Version", format!("quantix-node {}, kernel {}", host.version, host.kernel))
        .add("Up since", up_since(host, view))
        .add("KVM", Cell::toned(host.kvm_summary.as_str(), kvm))
        .add("Certificate", host.certificate_sha256.as_str());
    if let Some(capacity) = &host.capacity {
        capacity_facts(&mut facts, capacity);
    }
    if host.alarms.is_empty() {
        facts.add("Alarms", Cell::toned("none", Tone::Good));
    }
    for alarm in &host.alarms {
        facts.add("Alarm", Cell::toned(alarm.as_str(), Tone::Bad));
    }
    facts
}

fn up_since(host: &Host, view: &View) -> String {
    let boot =
        format!("{} ({} ago)", units::when(host.boot_time.as_ref()), units::age(host.boot_time.as_ref(), view.now));
    match &host.start_time {
        Some(start) => format!("{boot}; the daemon for {}", units::age(Some(start), view.now)),
        None => boot,
    }
}

fn capacity_facts(facts: &mut Facts, capacity: &HostCapacity) {
    facts
        .add("VMs", format!("{} running of {}", capacity.running_vms, capacity.vms))
        .add("CPUs", format!("{}, with {} vCPUs of running VMs", capacity.cpus, capacity.allocated_vcpus))
        .add(
            "Memory",
            format!(
                "{}, {} available, {} promised to VMs",
                units::size(capacity.memory_bytes),
                units::size(capacity.memory_available_bytes),
                units::size(capacity.allocated_memory_bytes)
            ),
        );
    for pages in capacity.huge_pages.iter().filter(|pages| pages.total > 0) {
        let size = units::size(pages.page_size_bytes);
        facts
            .add("Huge pages", format!("{} of {size}, {} free, {} promised", pages.total, pages.free, pages.allocated));
    }
    if capacity.numa_nodes.len() > 1 {
        for node in &capacity.numa_nodes {
            let (all, free) = (units::size(node.memory_bytes), units::size(node.memory_free_bytes));
            facts.add("NUMA node", format!("{}: CPUs {}, {all}, {free} free", node.id, node.cpus));
        }
    }
}

const DISKS: Sheet<BlockDevice> = Sheet {
    plural: "disks",
    name: |disk| &disk.name,
    columns: &[
        Column::text("DISK", |disk, _| disk.name.as_str().into()),
        Column::number("SIZE", |disk, _| units::size(disk.size_bytes).into()),
        Column::text("KIND", |disk, _| if disk.rotational { "rotating" } else { "solid" }.into()),
        Column::text("USE", |disk, _| if disk.in_use { "in use" } else { "free" }.into()),
        Column::text("MODEL", |disk, _| disk.model.as_str().into()),
        Column::text("SERIAL", |disk, _| disk.serial.as_str().into()),
    ],
};

const INTERFACES: Sheet<NetworkInterface> = Sheet {
    plural: "interfaces",
    name: |interface| &interface.name,
    columns: &[
        Column::text("INTERFACE", |interface, _| interface.name.as_str().into()),
        Column::text("STATE", |interface, _| {
            if interface.up { Cell::toned("up", Tone::Good) } else { Cell::toned("down", Tone::Dim) }
        }),
        Column::text("MAC", |interface, _| interface.mac.as_str().into()),
        Column::number("MTU", |interface, _| interface.mtu.to_string().into()),
        Column::number("SPEED", |interface, _| speed(interface.speed_bits_per_second).into()),
        Column::text("DRIVER", |interface, _| interface.driver.as_str().into()),
        Column::text("ADDRESSES", |interface, _| interface.addresses.join(" ").into()),
    ],
};

const PCI: Sheet<PciDevice> = Sheet {
    plural: "PCI devices",
    name: |device| &device.address,
    columns: &[
        Column::text("PCI", |device, _| device.address.as_str().into()),
        Column::text("ID", |device, _| format!("{}:{}", device.vendor_id, device.device_id).into()),
        Column::text("CLASS", |device, _| device.class.as_str().into()),
        Column::text("DRIVER", |device, _| device.driver.as_str().into()),
    ],
};

fn speed(bits_per_second: u64) -> String {
    if bits_per_second == 0 { String::new() } else { format!("{}bit/s", units::count(bits_per_second)) }
}

/// Facts, and a table for each kind of part that there is.
fn hardware_sheet(hardware: &Hardware, view: &View) -> String {
    let mut facts = Facts::default();
    let virtualization = match hardware.virtualization.as_str() {
        "" => Cell::toned("none", Tone::Warn),
        extension => Cell::toned(extension, Tone::Good),
    };
    facts
        .add("System", format!("{} {}", hardware.system_vendor, hardware.system_product).trim().to_owned())
        .add("CPU", hardware.cpu_model.as_str())
        .add(
            "Topology",
            format!("{} sockets, {} cores, {} threads", hardware.sockets, hardware.cores, hardware.threads),
        )
        .add("Virtualization", virtualization);
    let tables = [
        (hardware.block_devices.len(), DISKS.render(&hardware.block_devices, view)),
        (hardware.network_interfaces.len(), INTERFACES.render(&hardware.network_interfaces, view)),
        (hardware.pci_devices.len(), PCI.render(&hardware.pci_devices, view)),
    ];
    let mut text = facts.render(view.colour);
    for (_, table) in tables.iter().filter(|(rows, _)| *rows > 0) {
        text.push('\n');
        text.push_str(table);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::view;

    #[test]
    fn a_node_that_is_well() {
        let host = Host {
            hostname: "node1".into(),
            version: "0.1.0".into(),
            kernel: "6.1.0".into(),
            kvm_ready: true,
            kvm_summary: "KVM runs ordinary kernels".into(),
            capacity: Some(HostCapacity {
                cpus: 8,
                allocated_vcpus: 4,
                memory_bytes: 32 << 30,
                memory_available_bytes: 20 << 30,
                allocated_memory_bytes: 9 << 30,
                vms: 3,
                running_vms: 2,
                ..HostCapacity::default()
            }),
            ..Host::default()
        };
        let text = facts(&host, &view()).render(false);
        assert!(text.contains("VMs       2 running of 3\n"), "{text}");
        assert!(text.contains("Memory    32 GiB, 20 GiB available, 9 GiB promised to VMs\n"), "{text}");
        assert!(text.contains("Alarms    none\n"), "{text}");
    }

    #[test]
    fn hardware_has_a_table_for_what_there_is() {
        let hardware = Hardware {
            cpu_model: "A CPU".into(),
            block_devices: vec![BlockDevice { name: "sda".into(), size_bytes: 1 << 40, ..BlockDevice::default() }],
            ..Hardware::default()
        };
        let text = hardware_sheet(&hardware, &view());
        assert!(text.contains("DISK   SIZE  KIND   USE   MODEL  SERIAL\nsda   1 TiB  solid  free\n"), "{text}");
        assert!(!text.contains("INTERFACE"), "{text}");
        assert_eq!(speed(10_000_000_000), "10Gbit/s");
    }
}
