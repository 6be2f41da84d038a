//! What the node is made of, from `/proc/cpuinfo` and `/sys`. A blocking thread.

use std::collections::BTreeSet;

use super::roots::Roots;

/// Bytes of a sector in `/sys/block/*/size`, whatever the disk has.
const SECTOR: u64 = 512;
/// Block devices that are no hardware.
const NOT_DISKS: [&str; 5] = ["loop", "ram", "zram", "dm-", "md"];

/// What the node is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// As the processor calls itself.
    pub cpu_model: String,
    /// Processors.
    pub sockets: u32,
    /// Cores of all processors.
    pub cores: u32,
    /// CPUs as the kernel counts them.
    pub threads: u32,
    /// `vmx`, `svm`, or empty.
    pub virtualization: String,
    /// Disks.
    pub block_devices: Vec<BlockDevice>,
    /// Interfaces that have hardware behind them, or that look so from here.
    pub network_interfaces: Vec<NetworkInterface>,
    /// Devices on PCI.
    pub pci_devices: Vec<PciDevice>,
    /// Who made the machine.
    pub system_vendor: String,
    /// What they call it.
    pub system_product: String,
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockDevice {
    /// Such as `nvme0n1`.
    pub name: String,
    /// In bytes.
    pub size_bytes: u64,
    /// It turns.
    pub rotational: bool,
    /// As it calls itself.
    pub model: String,
    /// Its number.
    pub serial: String,
    /// Mounted, or part of something else; also when one of its partitions is.
    pub in_use: bool,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkInterface {
    /// Such as `eth0`.
    pub name: String,
    /// Its address on Ethernet.
    pub mac: String,
    /// There is a link.
    pub up: bool,
    /// Longest packet, in bytes.
    pub mtu: u32,
    /// 0 when not known.
    pub speed_bits_per_second: u64,
    /// IP addresses with prefix length.
    pub addresses: Vec<String>,
    /// Of the kernel.
    pub driver: String,
}

/// A device on PCI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// Such as `0000:00:1f.0`.
    pub address: String,
    /// Four hexadecimal digits.
    pub vendor_id: String,
    /// Four hexadecimal digits.
    pub device_id: String,
    /// Six hexadecimal digits.
    pub class: String,
    /// Of the kernel; empty for none.
    pub driver: String,
}

pub(super) fn read(roots: &Roots) -> Hardware {
    let mut hardware = Hardware {
        block_devices: block_devices(roots),
        network_interfaces: network_interfaces(roots),
        pci_devices: pci_devices(roots),
        system_vendor: roots.line_sys("class/dmi/id/sys_vendor"),
        system_product: roots.line_sys("class/dmi/id/product_name"),
        ..Hardware::default()
    };
    processors(&roots.read_proc("cpuinfo").unwrap_or_default(), &mut hardware);
    hardware
}

fn processors(cpuinfo: &str, hardware: &mut Hardware) {
    let (mut sockets, mut cores) = (BTreeSet::new(), BTreeSet::new());
    for cpu in cpuinfo.split("\n\n") {
        let value = |name: &str| {
            cpu.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim())
            })
        };
        if value("processor").is_none() {
            continue;
        }
        hardware.threads += 1;
        let socket = value("physical id").unwrap_or("0");
        sockets.insert(socket);
        // Without core ids each CPU is a core.
        cores.insert((socket, value("core id").or(value("processor")).unwrap_or("0")));
        if hardware.cpu_model.is_empty() {
            hardware.cpu_model = value("model name").unwrap_or_default().into();
            let flags = value("flags").unwrap_or_default();
            let has = |flag: &&str| flags.split_whitespace().any(|word| word == *flag);
            hardware.virtualization = ["vmx", "svm"].into_iter().find(has).unwrap_or_default().into();
        }
    }
    hardware.sockets = u32::try_from(sockets.len()).unwrap_or(0);
    hardware.cores = u32::try_from(cores.len()).unwrap_or(0);
}

/// Whether a name in `/sys/block` is a disk of its own, not made of others.
pub(crate) fn is_disk(name: &str) -> bool {
    !NOT_DISKS.iter().any(|prefix| name.starts_with(prefix))
}

fn block_devices(roots: &Roots) -> Vec<BlockDevice> {
    let mounts = roots.read_proc("self/mountinfo").unwrap_or_default();
    let swaps = roots.read_proc("swaps").unwrap_or_default();
    let used: BTreeSet<&str> = mounts
        .lines()
        .filter_map(|line| line.split(" - ").nth(1)?.split_whitespace().nth(1)?.strip_prefix("/dev/"))
        .chain(swaps.lines().filter_map(|line| line.split_whitespace().next()?.strip_prefix("/dev/")))
        .collect();
    let disks = roots.list_sys("block").into_iter().filter(|name| is_disk(name));
    disks.map(|name| block_device(roots, name, &used)).collect()
}

fn block_device(roots: &Roots, name: String, used: &BTreeSet<&str>) -> BlockDevice {
    let of = |file: &str| format!("block/{name}/{file}");
    let is_used = |part: &str, directory: &str| {
        used.contains(part) || !roots.list_sys(&format!("{directory}/holders")).is_empty()
    };
    let partitions = roots.list_sys(&format!("block/{name}")).into_iter().filter(|part| part.starts_with(&name));
    let in_use = is_used(&name, &of("")) || partitions.into_iter().any(|part| is_used(&part, &of(&part)));
    BlockDevice {
        size_bytes: roots.number_sys(&of("size")).unwrap_or(0) * SECTOR,
        rotational: roots.number_sys(&of("queue/rotational")) == Some(1),
        model: roots.line_sys(&of("device/model")),
        serial: [of("serial"), of("device/serial")]
            .map(|file| roots.line_sys(&file))
            .into_iter()
            .find(|s| !s.is_empty())
            .unwrap_or_default(),
        in_use,
        name,
    }
}

fn network_interfaces(roots: &Roots) -> Vec<NetworkInterface> {
    let addresses = addresses();
    let names =
        roots.list_sys("class/net").into_iter().filter(|name| roots.has_sys(&format!("class/net/{name}/device")));
    names
        .map(|name| {
            let of = |file: &str| format!("class/net/{name}/{file}");
            // Mbit/s; -1 when the link is down.
            let speed: i64 = roots.line_sys(&of("speed")).parse().unwrap_or(0);
            NetworkInterface {
                mac: roots.line_sys(&of("address")),
                up: roots.line_sys(&of("operstate")) == "up",
                mtu: roots.number_sys(&of("mtu")).and_then(|mtu| mtu.try_into().ok()).unwrap_or(0),
                speed_bits_per_second: u64::try_from(speed).unwrap_or(0) * 1_000_000,
                addresses: addresses.iter().filter(|(of, _)| *of == name).map(|(_, address)| address.clone()).collect(),
                driver: roots.link_sys(&of("device/driver")),
                name,
            }
        })
        .collect()
}

/// Addresses of all interfaces of this network namespace: (interface, address with prefix length).
fn addresses() -> Vec<(String, String)> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    all.filter_map(|entry| {
        let (address, mask) = (entry.address?, entry.netmask?);
        if let (Some(ip), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
            return Some((entry.interface_name, format!("{}/{}", ip.ip(), mask.ip().to_bits().count_ones())));
        }
        let (ip, mask) = (address.as_sockaddr_in6()?, mask.as_sockaddr_in6()?);
        Some((entry.interface_name, format!("{}/{}", ip.ip(), mask.ip().to_bits().count_ones())))
    })
    .collect()
}

fn pci_devices(roots: &Roots) -> Vec<PciDevice> {
    let devices = roots.list_sys("bus/pci/devices").into_iter();
    devices
        .map(|address| {
            let of = |file: &str| format!("bus/pci/devices/{address}/{file}");
            let number = |file: &str| roots.line_sys(&of(file)).trim_start_matches("0x").to_owned();
            PciDevice {
                vendor_id: number("vendor"),
                device_id: number("device"),
                class: number("class"),
                driver: roots.link_sys(&of("driver")),
                address,
            }
        })
        .collect()
}
