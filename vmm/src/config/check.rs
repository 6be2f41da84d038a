//! The rules of a machine, from the wire configuration to the plan.
//!
//! Runs on the main thread, in one pass, and stops at the first rule that is broken. It must not open a file: whether a
//! path exists is found when it is opened. What two devices may not share is next door, in `claims.rs`.

use super::claims::Claims;
use super::error::ConfigError;
use super::numa;
use super::parse::{
    Cmdline, DeviceId, DiskSerial, Endpoint, FdName, GuestCid, MacAddress, ParseError, QueueCount, Source, TapName,
};
use super::plan::{
    BalloonPlan, BootPlan, CpuPlan, DiskPlan, MAX_CPUS, MAX_PCI_DEVICES, MemoryPlan, NetPlan, Plan, TapSource,
    Topology, VsockPlan,
};
use super::wire::{
    BalloonConfig, CpuConfig, DiskConfig, DiskFormat, HugePages, MachineConfig, MemoryConfig, NetConfig, VsockConfig,
};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// Least memory: a small kernel unpacks in it.
const MIN_MEMORY: u64 = 16 * MIB;
/// Most memory: it still fits, with the PCI window above it, into 46 bits of address.
const MAX_MEMORY: u64 = 16 * TIB;
/// Longest path of a unix socket: `sun_path` less its NUL.
const MAX_SOCKET_PATH: usize = 107;
/// The host side of vsock appends `_PORT` to its path for connections that the guest starts.
const PORT_SUFFIX: usize = "_4294967295".len();

impl TryFrom<&MachineConfig> for Plan {
    type Error = ConfigError;

    fn try_from(config: &MachineConfig) -> Result<Self, ConfigError> {
        let mut claims = Claims::default();
        let cpus = cpus(&config.cpus)?;
        let plan = Self {
            boot: boot(config)?,
            cpus,
            memory: memory(&config.memory, cpus.count)?,
            disks: numbered(&config.disks, disk)?,
            nets: numbered(&config.nets, net)?,
            vsock: config.vsock.as_ref().map(vsock).transpose()?,
            rng: config.rng,
            balloon: config.balloon.as_ref().map(|b| balloon(b, config.memory.size_bytes)).transpose()?,
            console: endpoint("--console", &config.console)?,
            serial: endpoint("--serial", &config.serial)?,
            api_socket: config.api_socket.as_deref().map(|text| socket("--api-socket", text, 0)).transpose()?,
            reboot: config.reboot,
            sandbox: config.sandbox,
            log_level: config.log_level.into(),
        };
        room(&plan)?;
        claims.collect(&plan)?;
        Ok(plan)
    }
}

fn boot(config: &MachineConfig) -> Result<BootPlan, ConfigError> {
    if let Some(firmware) = &config.firmware {
        let reason = "UEFI guests do not work yet; leave it out and boot a kernel with --kernel";
        return Err(ConfigError::new("--firmware", firmware, reason));
    }
    let kernel = config.kernel.as_deref().ok_or_else(|| {
        ConfigError::new("--kernel", "", "there is nothing to boot; give a vmlinux or bzImage with --kernel PATH")
    })?;
    Ok(BootPlan {
        kernel: whole("--kernel", kernel)?,
        initrd: config.initrd.as_deref().map(|text| whole("--initrd", text)).transpose()?,
        cmdline: whole::<Cmdline>("--cmdline", &config.cmdline)?,
    })
}

fn cpus(config: &CpuConfig) -> Result<CpuPlan, ConfigError> {
    let refused = |reason: String| ConfigError::new("--cpus", config.count, reason);
    let count = u8::try_from(config.count).ok().filter(|n| (1..=MAX_CPUS).contains(&u32::from(*n)));
    let count = count.ok_or_else(|| refused(format!("must be from 1 to {MAX_CPUS}")))?;
    let Some(topology) = &config.topology else {
        return Ok(CpuPlan { count, topology: Topology { sockets: 1, cores: count, threads: 1 } });
    };
    let part = |key: &str, number: u32| {
        let in_bounds = u8::try_from(number).ok().filter(|n| (1..=count).contains(n));
        let reason = format!("must be from 1 to {count}, the number of vCPUs");
        in_bounds.ok_or_else(|| ConfigError::new("--cpus", number, reason).at_key(key))
    };
    let topology = Topology {
        sockets: part("sockets", topology.sockets)?,
        cores: part("cores", topology.cores)?,
        threads: part("threads", topology.threads)?,
    };
    let product = u32::from(topology.sockets) * u32::from(topology.cores) * u32::from(topology.threads);
    if product != config.count {
        return Err(refused(format!("sockets × cores × threads is {product}; make the two equal")));
    }
    Ok(CpuPlan { count, topology })
}

fn memory(config: &MemoryConfig, cpus: u8) -> Result<MemoryPlan, ConfigError> {
    let size = config.size_bytes;
    let refused = |reason: String| ConfigError::new("--memory", size, reason);
    if !(MIN_MEMORY..=MAX_MEMORY).contains(&size) {
        return Err(refused("must be from 16M to 16T".to_owned()));
    }
    let (page, name) = page(config.hugepages);
    if !size.is_multiple_of(page) {
        return Err(refused(format!("must be a multiple of the page size, {name}")));
    }
    if config.numa.len() > usize::from(cpus) {
        let reason = format!("{} nodes for {cpus} vCPUs, but each node needs one; leave some out", config.numa.len());
        return Err(ConfigError::new("--numa", "", reason));
    }
    let numa = numbered(&config.numa, |node, index| numa::node(node, index, config.numa.len(), (page, name)))?;
    numa::adds_up(&numa, size, cpus)?;
    Ok(MemoryPlan {
        size_bytes: size,
        hugepages: config.hugepages,
        prefault: config.prefault,
        shared: config.shared,
        numa,
    })
}

fn page(hugepages: HugePages) -> (u64, &'static str) {
    match hugepages {
        HugePages::None => (4096, "4K"),
        HugePages::Size2M => (2 * MIB, "2M"),
        HugePages::Size1G => (GIB, "1G"),
    }
}

fn disk(config: &DiskConfig, index: usize) -> Result<DiskPlan, ConfigError> {
    let id = id("--disk", config.id.as_deref(), "disk", index)?;
    let serial = match &config.serial {
        Some(text) => keyed("--disk", "serial", text)?,
        None => default_serial(&id)?,
    };
    let (source, below) = layers(config)?;
    Ok(DiskPlan {
        source,
        below,
        format: config.format,
        readonly: config.readonly,
        direct: config.direct,
        queues: queues("--disk", config.queues)?,
        iops: limit("iops", config.iops)?,
        bps: limit("bps", config.bps)?,
        serial,
        id,
    })
}

/// The image, and those below it where all of them are passed.
fn layers(config: &DiskConfig) -> Result<(Source, Vec<FdName>), ConfigError> {
    let Some((top, below)) = config.path.strip_prefix("fd:").and_then(|names| names.split_once('+')) else {
        return Ok((keyed("--disk", "path", &config.path)?, Vec::new()));
    };
    if config.format != DiskFormat::Qcow2 {
        let reason = "only a qcow2 image has images below it; add format=qcow2 or name one descriptor";
        return Err(ConfigError::new("--disk", &config.path, reason).at_key("path"));
    }
    let below = below.split('+').map(|name| keyed("--disk", "path", name)).collect::<Result<_, _>>()?;
    Ok((Source::Fd(keyed("--disk", "path", top)?), below))
}

fn default_serial(id: &DeviceId) -> Result<DiskSerial, ConfigError> {
    let text: String = id.as_str().chars().take(20).collect();
    keyed("--disk", "serial", &text)
}

fn net(config: &NetConfig, index: usize) -> Result<NetPlan, ConfigError> {
    let queues = queues("--net", config.queues)?;
    let tap = match config.tap.strip_prefix("fd:") {
        None => TapSource::Name(keyed::<TapName>("--net", "tap", &config.tap)?),
        Some(names) => {
            let names: Result<Vec<FdName>, _> = names.split('+').map(|name| keyed("--net", "tap", name)).collect();
            TapSource::Fds(names?)
        }
    };
    match &tap {
        TapSource::Fds(names) if names.len() != usize::from(queues.get()) => {
            let reason = format!("{} descriptors for {} queues; name one a queue", names.len(), queues.get());
            return Err(ConfigError::new("--net", &config.tap, reason).at_key("tap"));
        }
        _ => {}
    }
    Ok(NetPlan {
        id: id("--net", config.id.as_deref(), "net", index)?,
        tap,
        mac: config.mac.as_deref().map(|text| keyed::<MacAddress>("--net", "mac", text)).transpose()?,
        queues,
        vhost: config.vhost,
    })
}

fn vsock(config: &VsockConfig) -> Result<VsockPlan, ConfigError> {
    let cid = GuestCid::try_from(config.cid)
        .map_err(|reason| ConfigError::new("--vsock", config.cid, reason).at_key("cid"))?;
    let socket = socket("--vsock", &config.socket, PORT_SUFFIX).map_err(|error| error.at_key("socket"))?;
    Ok(VsockPlan { cid, socket })
}

fn balloon(config: &BalloonConfig, memory: u64) -> Result<BalloonPlan, ConfigError> {
    let refused = |reason: &str| Err(ConfigError::new("--balloon", config.size_bytes, reason).at_key("size"));
    if config.size_bytes >= memory {
        return refused("must be less than the guest's memory");
    }
    if !config.size_bytes.is_multiple_of(4096) {
        return refused("must be a multiple of 4K");
    }
    Ok(BalloonPlan {
        size_bytes: config.size_bytes,
        deflate_on_oom: config.deflate_on_oom,
        free_page_reporting: config.free_page_reporting,
    })
}

fn endpoint(option: &'static str, text: &str) -> Result<Endpoint, ConfigError> {
    let endpoint = whole(option, text)?;
    if let Endpoint::Socket(path) = &endpoint {
        socket_length(option, &path.to_string_lossy(), 0)?;
    }
    Ok(endpoint)
}

fn socket(option: &'static str, text: &str, suffix: usize) -> Result<Source, ConfigError> {
    let source = whole(option, text)?;
    if let Source::Path(_) = source {
        socket_length(option, text, suffix)?;
    }
    Ok(source)
}

fn socket_length(option: &'static str, text: &str, suffix: usize) -> Result<(), ConfigError> {
    let longest = MAX_SOCKET_PATH.saturating_sub(suffix);
    if text.len() <= longest {
        return Ok(());
    }
    Err(ConfigError::new(
        option,
        text,
        format!("the path of this socket has at most {longest} bytes; use a shorter one"),
    ))
}

/// The bus must have a slot for every device.
fn room(plan: &Plan) -> Result<(), ConfigError> {
    let single = [plan.vsock.is_some(), plan.rng, plan.balloon.is_some(), plan.console != Endpoint::Off];
    let others = single.into_iter().filter(|there| *there).count();
    let devices = plan.disks.len().saturating_add(plan.nets.len()).saturating_add(others);
    if devices <= MAX_PCI_DEVICES {
        return Ok(());
    }
    let option = if plan.disks.len() >= plan.nets.len() { "--disk" } else { "--net" };
    let reason = format!("{devices} devices, but the PCI bus has room for {MAX_PCI_DEVICES}; take some out");
    Err(ConfigError::new(option, "", reason))
}

/// Checks each item of a list; an error says which.
fn numbered<C, P>(configs: &[C], check: impl Fn(&C, usize) -> Result<P, ConfigError>) -> Result<Vec<P>, ConfigError> {
    let check = |(index, config)| check(config, index).map_err(|error| error.at_item(index));
    configs.iter().enumerate().map(check).collect()
}

fn id(option: &'static str, text: Option<&str>, kind: &str, index: usize) -> Result<DeviceId, ConfigError> {
    match text {
        Some(text) => keyed(option, "id", text),
        None => keyed(option, "id", &format!("{kind}{index}")),
    }
}

fn queues(option: &'static str, number: u32) -> Result<QueueCount, ConfigError> {
    QueueCount::try_from(u64::from(number)).map_err(|reason| ConfigError::new(option, number, reason).at_key("queues"))
}

fn limit(key: &str, number: Option<u64>) -> Result<Option<u64>, ConfigError> {
    match number {
        Some(0) => {
            Err(ConfigError::new("--disk", 0, "nothing would ever finish; leave it out for no limit").at_key(key))
        }
        other => Ok(other),
    }
}

fn whole<'a, T: TryFrom<&'a str, Error = ParseError>>(option: &'static str, text: &'a str) -> Result<T, ConfigError> {
    T::try_from(text).map_err(|reason| ConfigError::new(option, text, reason))
}

pub(super) fn keyed<'a, T>(option: &'static str, key: &str, text: &'a str) -> Result<T, ConfigError>
where
    T: TryFrom<&'a str, Error = ParseError>,
{
    whole(option, text).map_err(|error| error.at_key(key))
}
