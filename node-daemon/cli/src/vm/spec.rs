//! What a VM shall be, from options: parsing of each, and the request made of all. Files are read by a function that is
//! given, so that everything here is pure.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use prost_types::Duration;
use quantix_api::v1::{
    Autostart, BootSpec, CloudInit, CpuSpec, CreateVmRequest, Direction, DiskSpec, FirewallAction, FirewallRule,
    HugePages, MemorySpec, NewVolume, NicSpec, RestartMode, RestartPolicy, VmSpec, VolumeFormat, disk_spec,
};

use crate::failure::Failure;
use crate::pairs::{Pairs, parse_label};
use crate::progress::{Idempotent, Waiting};
use crate::units::{parse_duration, parse_size, parse_some_size};
use crate::words::{all, parser, value};

/// Reads a file to its end.
pub type Reader<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// What `vm create` takes.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What to call it
    pub name: String,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    description: String,
    /// Label (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    first_disk: FirstDiskArgs,
    /// Further disk: size=SIZE to make one, volume=NAME, or iso=IMAGE; see Disks below (repeatable)
    #[arg(long = "disk", value_name = "DISK", value_parser = parse_disk, help_heading = "Disks and networks")]
    disks: Vec<DiskSpec>,
    /// NIC in a network: NAME[,address=IP][,mac=MAC]…; see Networks below (repeatable)
    #[arg(long = "network", value_name = "NIC", value_parser = parse_nic, help_heading = "Disks and networks")]
    nics: Vec<NicSpec>,
    /// Firewall rule of the first NIC, such as in,accept,protocol=tcp,ports=22; first match wins (repeatable)
    #[arg(long = "rule", value_name = "RULE", value_parser = parse_rule, requires = "nics", help_heading = "Disks and networks")]
    rules: Vec<FirewallRule>,
    #[command(flatten)]
    seed: SeedArgs,
    /// Start it when it is made
    #[arg(long)]
    start: bool,
    /// Check everything, and make nothing
    #[arg(long)]
    pub dry_run: bool,
    #[command(flatten)]
    idempotent: Idempotent,
    #[command(flatten)]
    pub waiting: Waiting,
}

/// CPUs, memory, boot and policies: what `vm create` and `vm edit` both take.
#[derive(Debug, Default, Args)]
pub struct MachineArgs {
    /// vCPUs
    #[arg(long, value_name = "N", help_heading = "Machine")]
    pub cpus: Option<u32>,
    /// Sockets; with cores and threads their product is --cpus
    #[arg(long, value_name = "N", help_heading = "Machine", hide_short_help = true)]
    pub sockets: Option<u32>,
    /// Cores in a socket
    #[arg(long, value_name = "N", help_heading = "Machine", hide_short_help = true)]
    pub cores: Option<u32>,
    /// Threads in a core
    #[arg(long, value_name = "N", help_heading = "Machine", hide_short_help = true)]
    pub threads: Option<u32>,
    /// Share of CPU time among VMs that want it, 1 to 10000
    #[arg(long, value_name = "N", help_heading = "Machine", hide_short_help = true)]
    pub cpu_weight: Option<u32>,
    /// Upper bound of CPU time in hundredths of a CPU; 0 for none
    #[arg(long, value_name = "PERCENT", help_heading = "Machine", hide_short_help = true)]
    pub cpu_quota: Option<u32>,
    /// Host CPUs that it may run on, such as 0-3,8
    #[arg(long, value_name = "CPUS", help_heading = "Machine", hide_short_help = true)]
    pub pin: Option<String>,
    /// Memory: SIZE[,hugepages=2M|1G][,prefault]
    #[arg(long, value_name = "MEMORY", value_parser = parse_memory, help_heading = "Machine")]
    pub memory: Option<MemorySpec>,
    /// Image of a kernel to boot directly
    #[arg(long, value_name = "IMAGE", help_heading = "Machine")]
    pub kernel: Option<String>,
    /// Image of an initial RAM disk
    #[arg(long, value_name = "IMAGE", help_heading = "Machine")]
    pub initrd: Option<String>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", help_heading = "Machine")]
    pub cmdline: Option<String>,
    /// When it is started again by itself
    #[arg(long, value_parser = parser::<RestartMode>(), help_heading = "Machine")]
    pub restart: Option<RestartMode>,
    /// Attempts within ten minutes before it is given up
    #[arg(long, value_name = "N", help_heading = "Machine", hide_short_help = true)]
    pub restart_attempts: Option<u32>,
    /// Wait before the first attempt, doubled after each
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, help_heading = "Machine", hide_short_help = true)]
    pub restart_backoff: Option<Duration>,
    /// Start it when the node starts; [ORDER[,delay=DURATION]], smaller orders first, or off
    #[arg(long, value_name = "ORDER", num_args = 0..=1, default_missing_value = "0", value_parser = parse_autostart,
          help_heading = "Machine")]
    pub autostart: Option<Autostart>,
    /// Leave devices out: rng, balloon, vsock
    #[arg(long, value_name = "DEVICE", value_delimiter = ',', value_parser = ["rng", "balloon", "vsock"],
          help_heading = "Machine", hide_short_help = true)]
    pub without: Vec<String>,
}

/// The disk that a VM starts from.
#[derive(Debug, Default, Args)]
struct FirstDiskArgs {
    /// Image that the first disk is made from
    #[arg(long, value_name = "IMAGE", help_heading = "Disks and networks")]
    image: Option<String>,
    /// Size of that disk; the image's own when nothing is said
    #[arg(long, value_name = "SIZE", value_parser = parse_some_size, requires = "image", help_heading = "Disks and networks")]
    size: Option<u64>,
    /// Pool of that disk
    #[arg(
        long,
        value_name = "POOL",
        requires = "image",
        default_value = "",
        hide_default_value = true,
        help_heading = "Disks and networks"
    )]
    pool: String,
    /// Copy the image instead of holding the differences
    #[arg(long, requires = "image", help_heading = "Disks and networks")]
    full_copy: bool,
}

/// What cloud-init finds.
#[derive(Debug, Default, Args)]
struct SeedArgs {
    /// Public key that may log in: the key, or @FILE (repeatable)
    #[arg(long = "ssh-key", value_name = "KEY", help_heading = "cloud-init")]
    ssh_keys: Vec<String>,
    /// User whom the keys are for
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, help_heading = "cloud-init")]
    user: String,
    /// Host name; the VM's name when nothing is said
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, help_heading = "cloud-init")]
    hostname: String,
    /// File with the hash of that user's password, as mkpasswd makes it
    #[arg(long, value_name = "FILE", help_heading = "cloud-init")]
    password_hash_file: Option<PathBuf>,
    /// File that is given as user-data, in place of the options above
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ssh_keys", "user", "hostname", "password_hash_file"],
          help_heading = "cloud-init")]
    user_data: Option<PathBuf>,
    /// File that is given as meta-data
    #[arg(long, value_name = "FILE", help_heading = "cloud-init")]
    meta_data: Option<PathBuf>,
    /// File that is given as network-config
    #[arg(long, value_name = "FILE", help_heading = "cloud-init")]
    network_config: Option<PathBuf>,
}

/// The request that makes a VM.
pub fn create_request(args: CreateArgs, read: Reader<'_>) -> Result<CreateVmRequest, Failure> {
    let mut spec = VmSpec {
        cpus: Some(CpuSpec { count: 1, ..CpuSpec::default() }),
        memory: Some(MemorySpec { size_bytes: 512 << 20, ..MemorySpec::default() }),
        disks: args.first_disk.spec().into_iter().chain(args.disks).collect(),
        nics: args.nics,
        ..VmSpec::default()
    };
    if let Some(first) = spec.nics.first_mut() {
        first.rules = args.rules;
    }
    spec.cloud_init = args.seed.spec(&args.name, read)?;
    args.machine.apply(&mut spec);
    Ok(CreateVmRequest {
        name: args.name,
        description: args.description,
        labels: args.labels.into_iter().collect(),
        spec: Some(spec),
        start: args.start,
        request_id: args.idempotent.request_id,
        wait: None,
        validate_only: args.dry_run,
    })
}

impl MachineArgs {
    /// Puts what was said into a spec; gives the paths of what changed, for a field mask.
    pub fn apply(self, spec: &mut VmSpec) -> Vec<&'static str> {
        let mut paths = Vec::new();
        let mut set = |path: &'static str, there: bool| {
            if there {
                paths.push(path);
            }
            there
        };
        let cpus = spec.cpus.get_or_insert_default();
        set("spec.cpus.count", put(&mut cpus.count, self.cpus));
        set("spec.cpus.sockets", put(&mut cpus.sockets, self.sockets));
        set("spec.cpus.cores", put(&mut cpus.cores, self.cores));
        set("spec.cpus.threads", put(&mut cpus.threads, self.threads));
        set("spec.cpus.weight", put(&mut cpus.weight, self.cpu_weight));
        set("spec.cpus.quota_percent", put(&mut cpus.quota_percent, self.cpu_quota));
        set("spec.cpus.pinning", put(&mut cpus.pinning, self.pin));
        set("spec.memory", put(&mut spec.memory, self.memory.map(Some)));
        if self.kernel.is_some() || self.initrd.is_some() || self.cmdline.is_some() {
            let boot = spec.boot.get_or_insert_with(BootSpec::default);
            set("spec.boot.kernel", put(&mut boot.kernel, self.kernel));
            set("spec.boot.initrd", put(&mut boot.initrd, self.initrd));
            set("spec.boot.cmdline", put(&mut boot.cmdline, self.cmdline));
        }
        if self.restart.is_some() || self.restart_attempts.is_some() || self.restart_backoff.is_some() {
            let restart = spec.restart.get_or_insert_with(RestartPolicy::default);
            set("spec.restart.mode", put(&mut restart.mode, self.restart.map(Into::into)));
            set("spec.restart.max_attempts", put(&mut restart.max_attempts, self.restart_attempts));
            set("spec.restart.backoff", put(&mut restart.backoff, self.restart_backoff.map(Some)));
        }
        set("spec.autostart", put(&mut spec.autostart, self.autostart.map(Some)));
        for device in self.without {
            let (field, path) = match device.as_str() {
                "rng" => (&mut spec.no_rng, "spec.no_rng"),
                "balloon" => (&mut spec.no_balloon, "spec.no_balloon"),
                _ => (&mut spec.no_vsock, "spec.no_vsock"),
            };
            set(path, put(field, Some(true)));
        }
        paths
    }
}

/// Puts a value in its place when there is one.
fn put<T>(place: &mut T, value: Option<T>) -> bool {
    let there = value.is_some();
    if let Some(value) = value {
        *place = value;
    }
    there
}

impl FirstDiskArgs {
    fn spec(&self) -> Option<DiskSpec> {
        let volume = NewVolume {
            image: self.image.clone()?,
            size_bytes: self.size.unwrap_or_default(),
            pool: self.pool.clone(),
            full_copy: self.full_copy,
            ..NewVolume::default()
        };
        Some(DiskSpec { source: Some(disk_spec::Source::NewVolume(volume)), ..DiskSpec::default() })
    }
}

impl SeedArgs {
    /// Nothing when nothing was asked for.
    fn spec(self, name: &str, read: Reader<'_>) -> Result<Option<CloudInit>, Failure> {
        let file = |path: &Path| read(path).map_err(|error| Failure::file(path, &error));
        let optional = |path: Option<PathBuf>| path.map_or_else(|| Ok(String::new()), |path| file(&path));
        let mut ssh_keys = Vec::new();
        for key in self.ssh_keys {
            match key.strip_prefix('@') {
                Some(path) => ssh_keys.extend(keys(&file(&home(path))?)),
                None => ssh_keys.push(key),
            }
        }
        let password_hash = optional(self.password_hash_file)?.lines().next().unwrap_or_default().trim().to_owned();
        let mut seed = CloudInit {
            user_data: optional(self.user_data)?,
            meta_data: optional(self.meta_data)?,
            network_config: optional(self.network_config)?,
            hostname: self.hostname,
            user: self.user,
            ssh_keys,
            password_hash,
        };
        if seed == CloudInit::default() {
            return Ok(None);
        }
        if seed.user_data.is_empty() && seed.hostname.is_empty() {
            name.clone_into(&mut seed.hostname);
        }
        Ok(Some(seed))
    }
}

/// The keys in a file as `ssh-keygen` and `authorized_keys` have them.
fn keys(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
}

/// A path in which a leading `~/` stands for the home directory: after `@` no shell puts it in.
fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => path.into(),
    }
}

fn parse_memory(text: &str) -> Result<MemorySpec, String> {
    let mut pairs = Pairs::parse(text, Some("size"))?;
    let size_bytes = pairs.take("size").ok_or("the size is missing; give such as 1G")?;
    let memory = MemorySpec {
        size_bytes: parse_some_size(&size_bytes)?,
        huge_pages: pairs.read("hugepages", |text| {
            value::<HugePages>(text).map(Into::into).ok_or_else(|| {
                format!(
                    "'{text}' is neither {}",
                    all::<HugePages>().iter().map(|word| word.to_uppercase()).collect::<Vec<_>>().join(" nor ")
                )
            })
        })?,
        prefault: pairs.flag("prefault")?,
    };
    pairs.finish()?;
    Ok(memory)
}

fn parse_autostart(text: &str) -> Result<Autostart, String> {
    if text == "off" {
        return Ok(Autostart::default());
    }
    let mut pairs = Pairs::parse(text, Some("order"))?;
    let order = pairs.number("order")?;
    let delay = pairs.read("delay", |text| parse_duration(text).map(Some))?;
    pairs.finish()?;
    Ok(Autostart { enabled: true, order, delay })
}

/// A disk: `size=10G[,image=I][,pool=P][,name=N][,format=F][,full-copy]`, `volume=NAME` or `iso=IMAGE`; each with
/// `[,id=ID][,readonly][,direct][,queues=N][,iops=N][,bps=SIZE]`.
pub fn parse_disk(text: &str) -> Result<DiskSpec, String> {
    let mut pairs = Pairs::parse(text, Some("size"))?;
    let new = NewVolume {
        size_bytes: pairs.read("size", parse_some_size)?,
        image: pairs.text("image"),
        name: pairs.text("name"),
        pool: pairs.text("pool"),
        format: pairs.read("format", |text| {
            value::<VolumeFormat>(text).map(Into::into).ok_or_else(|| format!("'{text}' is neither raw nor qcow2"))
        })?,
        full_copy: pairs.flag("full-copy")?,
    };
    let (volume, iso) = (pairs.text("volume"), pairs.text("iso"));
    let source = match (volume.is_empty(), iso.is_empty(), new == NewVolume::default()) {
        (false, true, true) => disk_spec::Source::Volume(volume),
        (true, false, true) => disk_spec::Source::Image(iso),
        (true, true, false) if new.size_bytes > 0 || !new.image.is_empty() => disk_spec::Source::NewVolume(new),
        (true, true, _) => return Err("give size=SIZE, image=IMAGE, volume=NAME or iso=IMAGE".to_owned()),
        _ => return Err("volume=, iso= and what makes a new disk do not go together".to_owned()),
    };
    let disk = DiskSpec {
        id: pairs.text("id"),
        source: Some(source),
        readonly: pairs.flag("readonly")?,
        direct: pairs.flag("direct")?,
        queues: pairs.number("queues")?,
        max_operations_per_second: pairs.number("iops")?,
        max_bytes_per_second: pairs.read("bps", parse_size)?,
    };
    pairs.finish()?;
    Ok(disk)
}

/// A NIC: `NETWORK[,id=ID][,mac=MAC][,address=IP][,queues=N][,allow-spoofing][,pps=N][,bps=SIZE]`.
pub fn parse_nic(text: &str) -> Result<NicSpec, String> {
    let mut pairs = Pairs::parse(text, Some("network"))?;
    let nic = NicSpec {
        network: pairs.take("network").filter(|name| !name.is_empty()).ok_or("the network's name is missing")?,
        id: pairs.text("id"),
        mac: pairs.text("mac"),
        address: pairs.text("address"),
        queues: pairs.number("queues")?,
        allow_spoofing: pairs.flag("allow-spoofing")?,
        max_packets_per_second: pairs.number("pps")?,
        max_bytes_per_second: pairs.read("bps", parse_size)?,
        rules: Vec::new(),
    };
    pairs.finish()?;
    Ok(nic)
}

/// A firewall rule: `in|out,accept|drop[,protocol=P][,remote=PREFIX][,ports=PORTS]`.
pub fn parse_rule(text: &str) -> Result<FirewallRule, String> {
    let mut words = text.splitn(3, ',');
    let direction = words.next().and_then(value::<Direction>).ok_or("begin with in or out")?;
    let action = words.next().and_then(value::<FirewallAction>).ok_or("after in or out comes accept or drop")?;
    let mut pairs = words.next().map_or_else(|| Ok(Pairs::default()), |rest| Pairs::parse(rest, None))?;
    let rule = FirewallRule {
        direction: direction.into(),
        action: action.into(),
        protocol: pairs.text("protocol"),
        remote: pairs.text("remote"),
        ports: pairs.text("ports"),
    };
    pairs.finish()?;
    Ok(rule)
}

#[cfg(test)]
mod tests;
