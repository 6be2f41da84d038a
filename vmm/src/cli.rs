//! The command line of `quantix-vmm`: what the user typed, into what is to be done.
//!
//! Runs on the main thread, first of all. Every bad input becomes one line that names the option, the value and the
//! reason. It must not start anything: its only effect is reading the file of `--config`, or standard input.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{self, ConfigError, FdGrant, LogLevel, MachineConfig, Plan};
use crate::ctl::CtlArgs;

/// Largest configuration file that is read, in bytes.
const MAX_CONFIG_FILE: u64 = 1 << 20;

/// What the user wants done.
#[derive(Debug)]
pub enum Invocation {
    /// Run a guest until it ends.
    Run {
        /// The machine.
        plan: Box<Plan>,
        /// Inherited descriptors and their names.
        fds: Vec<FdGrant>,
    },
    /// Say what this host's KVM can do.
    Check {
        /// For people or for scripts.
        format: crate::check::Format,
    },
    /// Talk to the control socket of a running guest.
    Ctl(CtlArgs),
    /// Print a text (help, version, completions, a configuration) to stdout and end with status 0.
    Print(String),
}

/// A command line that was refused: one line, exit status 2.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Not the shape of a command line.
    #[error("{0}; see quantix-vmm --help")]
    Usage(String),
    /// A value that was refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration file could not be read.
    #[error("--config {}: {reason}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Reads the arguments, program name first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) if !error.use_stderr() => return Ok(Invocation::Print(error.to_string())),
        Err(error) => return Err(CliError::Usage(one_line(&error.to_string()))),
    };
    match cli.action {
        Action::Run(run) => run.invocation(),
        Action::Ctl(args) => Ok(Invocation::Ctl(args)),
        Action::Check { output } => Ok(Invocation::Check { format: output }),
        Action::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "quantix-vmm", &mut script);
            Ok(Invocation::Print(String::from_utf8_lossy(&script).into_owned()))
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  quantix-vmm run --kernel vmlinux --cmdline 'console=ttyS0 root=/dev/vda' --cpus 2 --memory 1G --disk path=root.img
  quantix-vmm run --kernel bzImage --initrd initrd.img --memory 4G,hugepages=2M --net tap=tap0 --vsock cid=3,socket=vm.sock
  quantix-vmm run --config vm.json --memory 8G --print-config
  quantix-vmm run --config - --fd kvm=3 --fd kernel=4 --fd root=5 <vm.json
  quantix-vmm ctl vm-api.sock info
  quantix-vmm check

Sizes take K, M, G or T. A comma inside a value is written twice. Wherever a path stands, fd:NAME stands for a
descriptor that was passed with --fd; fd:TOP+BASE for a qcow2 image and those below it, fd:Q0+Q1 for the queues of a tap.
Exit status: 0 when the guest ended by itself, 1 when it could not go on, 2 when the command line was refused.";

/// Runs one virtual machine on KVM, in one sandboxed process
#[derive(Debug, Parser)]
#[command(name = "quantix-vmm", version, after_help = EXAMPLES, arg_required_else_help = false)]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run a guest until it ends
    #[command(after_help = EXAMPLES)]
    Run(Box<Run>),
    /// Talk to the control socket of a running guest
    Ctl(CtlArgs),
    /// Say in words what this host's KVM can do; ends with status 0 when ordinary kernels can run, else 1
    Check {
        /// For people or for scripts
        #[arg(short, long, value_enum, default_value_t)]
        output: crate::check::Format,
    },
    /// Print a completion script
    Completions {
        /// Shell to complete in
        shell: clap_complete::Shell,
    },
}

/// The options of `run`. Values stay texts here: `config` reads them, so that every refusal has the same form.
#[derive(Debug, Args)]
struct Run {
    /// JSON configuration, - for standard input; other options win over it, and lists are appended to
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    boot: Boot,
    #[command(flatten)]
    devices: Devices,
    #[command(flatten)]
    process: Process,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Boot, CPUs and memory")]
struct Boot {
    /// Kernel: an ELF vmlinux or a bzImage
    #[arg(long, value_name = "PATH")]
    kernel: Option<String>,
    /// UEFI firmware (not working yet)
    #[arg(long, value_name = "PATH")]
    firmware: Option<String>,
    /// Initial RAM disk
    #[arg(long, value_name = "PATH")]
    initrd: Option<String>,
    /// Kernel command line
    #[arg(long, value_name = "STR", allow_hyphen_values = true)]
    cmdline: Option<String>,
    /// vCPUs: N[,sockets=N][,cores=N][,threads=N]
    #[arg(long, value_name = "N")]
    cpus: Option<String>,
    /// Memory: SIZE[,hugepages=2M|1G][,prefault][,shared]
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// NUMA node: memory=SIZE,cpus=A-B[,distances=N:N…] (repeatable)
    #[arg(long, value_name = "NODE")]
    numa: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Devices")]
struct Devices {
    /// path=PATH[,id=ID][,readonly][,format=raw|qcow2][,direct][,queues=N][,iops=N][,bps=N][,serial=TEXT] (repeatable)
    #[arg(long, value_name = "DISK")]
    disk: Vec<String>,
    /// tap=NAME[,id=ID][,mac=MAC][,queues=N][,vhost=auto|on|off] (repeatable)
    #[arg(long, value_name = "NIC")]
    net: Vec<String>,
    /// cid=N,socket=PATH
    #[arg(long, value_name = "VSOCK")]
    vsock: Option<String>,
    /// Entropy device
    #[arg(long)]
    rng: bool,
    /// Memory balloon: [size=SIZE][,deflate-on-oom=on|off][,free-page-reporting=on|off]
    #[arg(long, value_name = "BALLOON", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    balloon: Option<String>,
    /// Serial port: stdio, off, file=PATH, socket=PATH or fd:NAME [default: stdio]
    #[arg(long, value_name = "WHERE")]
    serial: Option<String>,
    /// Virtio console: as --serial [default: off]
    #[arg(long, value_name = "WHERE")]
    console: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Process")]
struct Process {
    /// Control socket
    #[arg(long, value_name = "PATH")]
    api_socket: Option<String>,
    /// Start again when the guest resets, instead of ending
    #[arg(long)]
    reboot: bool,
    /// Give a name to an inherited descriptor: NAME=NUM (repeatable)
    #[arg(long, value_name = "NAME=NUM")]
    fd: Vec<String>,
    /// off, error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Keep all rights of the process (unsafe; for debugging)
    #[arg(long)]
    no_sandbox: bool,
    /// Print the checked configuration as JSON instead of running it
    #[arg(long)]
    print_config: bool,
}

impl Run {
    fn invocation(self) -> Result<Invocation, CliError> {
        let Self { config, boot, devices, process } = self;
        let mut machine = config.as_deref().map(read_config).transpose()?.unwrap_or_default();
        let fds = fd_grants(&process.fd)?;
        let print = process.print_config;
        boot.lay_over(&mut machine)?;
        devices.lay_over(&mut machine)?;
        process.lay_over(&mut machine)?;
        let plan = Plan::try_from(&machine)?;
        if print {
            return Ok(Invocation::Print(machine.to_json()));
        }
        Ok(Invocation::Run { plan: Box::new(plan), fds })
    }
}

impl Boot {
    fn lay_over(self, machine: &mut MachineConfig) -> Result<(), ConfigError> {
        machine.kernel = self.kernel.or(machine.kernel.take());
        machine.firmware = self.firmware.or(machine.firmware.take());
        machine.initrd = self.initrd.or(machine.initrd.take());
        replace(&mut machine.cmdline, self.cmdline);
        if let Some(text) = &self.cpus {
            config::cpus(text, &mut machine.cpus)?;
        }
        if let Some(text) = &self.memory {
            config::memory(text, &mut machine.memory)?;
        }
        append(&mut machine.memory.numa, &self.numa, config::numa)
    }
}

impl Devices {
    fn lay_over(self, machine: &mut MachineConfig) -> Result<(), ConfigError> {
        append(&mut machine.disks, &self.disk, config::disk)?;
        append(&mut machine.nets, &self.net, config::net)?;
        if let Some(text) = &self.vsock {
            machine.vsock = Some(config::vsock(text)?);
        }
        machine.rng |= self.rng;
        if let Some(text) = &self.balloon {
            machine.balloon = Some(config::balloon(text)?);
        }
        replace(&mut machine.serial, self.serial);
        replace(&mut machine.console, self.console);
        Ok(())
    }
}

impl Process {
    fn lay_over(self, machine: &mut MachineConfig) -> Result<(), ConfigError> {
        machine.api_socket = self.api_socket.or(machine.api_socket.take());
        machine.reboot |= self.reboot;
        machine.sandbox &= !self.no_sandbox;
        if let Some(text) = &self.log_level {
            machine.log_level = config::word::<LogLevel>("--log-level", text)?;
        }
        Ok(())
    }
}

fn replace(field: &mut String, option: Option<String>) {
    if let Some(text) = option {
        *field = text;
    }
}

fn append<T>(
    list: &mut Vec<T>,
    texts: &[String],
    read: impl Fn(&str) -> Result<T, ConfigError>,
) -> Result<(), ConfigError> {
    texts.iter().try_for_each(|text| read(text).map(|item| list.push(item)))
}

fn fd_grants(texts: &[String]) -> Result<Vec<FdGrant>, ConfigError> {
    let mut grants: Vec<FdGrant> = Vec::new();
    for text in texts {
        let grant = config::fd_grant(text)?;
        if grants.iter().any(|other| other.name == grant.name || other.number == grant.number) {
            return Err(ConfigError::new("--fd", text, "the name or the number is taken; use each once"));
        }
        grants.push(grant);
    }
    Ok(grants)
}

fn read_config(path: &Path) -> Result<MachineConfig, CliError> {
    if path.as_os_str() == "-" {
        // What starts a process with an empty root directory has no file to name.
        return machine_from(io::stdin().lock(), path);
    }
    match File::open(path) {
        Ok(file) => machine_from(file, path),
        Err(error) => Err(CliError::ConfigFile { path: path.to_owned(), reason: format!("cannot read it: {error}") }),
    }
}

/// The configuration that `input` holds; `path` is its name in an error.
fn machine_from(input: impl io::Read, path: &Path) -> Result<MachineConfig, CliError> {
    let refused = |reason: String| CliError::ConfigFile { path: path.to_owned(), reason };
    let mut bytes = Vec::new();
    input
        .take(MAX_CONFIG_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| refused(format!("cannot read it: {error}")))?;
    if bytes.len() as u64 > MAX_CONFIG_FILE {
        return Err(refused("it is larger than 1 MiB; this is not a configuration".to_owned()));
    }
    MachineConfig::from_json(&bytes).map_err(|error| refused(error.reason().to_owned()))
}

/// One line of clap's several: what is wrong and its tip, without the usage that follows.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let mut line = String::new();
    for piece in text.lines().map(str::trim).take_while(|piece| !piece.starts_with("Usage:")) {
        if piece.is_empty() || piece.starts_with("For more information") {
            continue;
        }
        let gap = if line.is_empty() || line.ends_with(':') { "" } else { ";" };
        let space = if line.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(line, "{gap}{space}{piece}");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, CliError> {
        parse(std::iter::once("quantix-vmm").chain(line.split_whitespace()).map(OsString::from))
    }

    fn plan(line: &str) -> Plan {
        match parsed(line) {
            Ok(Invocation::Run { plan, .. }) => *plan,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_stable_options_are_all_read() {
        let plan = plan(
            "run --kernel k --initrd i --cmdline console=ttyS0 --cpus 4,sockets=2,cores=2 --memory 4G,hugepages=2M,prefault,shared \
             --numa memory=2G,cpus=0-1 --numa memory=2G,cpus=2-3 --disk path=a,id=root,readonly,format=qcow2,direct,queues=2,iops=9,bps=1M \
             --disk path=b --net tap=tap0,id=lan,mac=52:54:00:00:00:01,queues=2,vhost=on --vsock cid=3,socket=v.sock --rng --balloon \
             --serial file=log --console stdio --api-socket api.sock --log-level warn --no-sandbox --reboot",
        );
        assert_eq!((plan.cpus.count, plan.memory.size_bytes, plan.memory.numa.len()), (4, 4 << 30, 2));
        assert_eq!((plan.disks.len(), plan.nets.len()), (2, 1));
        assert_eq!((plan.disks[0].iops, plan.disks[0].bps), (Some(9), Some(1 << 20)));
        assert!(plan.rng && plan.balloon.is_some() && plan.reboot && !plan.sandbox);
        assert_eq!(plan.log_level, log::LevelFilter::Warn);
    }

    #[test]
    fn options_win_over_the_file_and_lists_are_appended() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            r#"{"kernel": "old", "cpus": {"count": 2}, "disks": [{"path": "first"}], "serial": "off"}"#,
        )
        .unwrap();
        let plan = plan(&format!("run --config {} --kernel new --disk path=second", file.path().display()));
        assert_eq!(plan.boot.kernel.to_string(), "new");
        assert_eq!(plan.cpus.count, 2);
        assert_eq!(plan.disks.iter().map(|d| d.source.to_string()).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(plan.serial, config::Endpoint::Off);
    }

    #[test]
    fn a_configuration_is_read_from_any_stream_and_refused_by_its_name() {
        let read = |text: &str| machine_from(text.as_bytes(), Path::new("-"));
        assert_eq!(read(r#"{"kernel": "fd:kernel"}"#).unwrap().kernel.as_deref(), Some("fd:kernel"));
        let line = read(r#"{"kernle": "k"}"#).unwrap_err().to_string();
        assert!(line.starts_with("--config -: unknown field `kernle`"), "{line}");
        let line = read(&" ".repeat((1 << 20) + 1)).unwrap_err().to_string();
        assert!(line.starts_with("--config -: it is larger than 1 MiB"), "{line}");
    }

    #[test]
    fn descriptors_are_named_once() {
        let Ok(Invocation::Run { fds, .. }) = parsed("run --kernel fd:k --fd k=5 --fd kvm=6") else { panic!() };
        assert_eq!(fds.iter().map(|fd| fd.number).collect::<Vec<_>>(), [5, 6]);
        let line = parsed("run --kernel fd:k --fd k=5 --fd k=6").unwrap_err().to_string();
        assert_eq!(line, "--fd k=6: the name or the number is taken; use each once");
    }

    #[test]
    fn the_printed_configuration_runs_the_same_machine() {
        let Ok(Invocation::Print(json)) = parsed("run --kernel k --disk path=a --print-config") else { panic!() };
        assert_eq!(config::plan_from_json(json.as_bytes()).unwrap(), plan("run --kernel k --disk path=a"));
    }

    #[test]
    fn every_refusal_is_one_line_that_names_the_option() {
        let table = [
            ("", "'quantix-vmm' requires a subcommand but one was not provided"),
            ("fly", "unrecognized subcommand 'fly'"),
            ("run --kernle k", "unexpected argument '--kernle' found; tip: a similar argument exists: '--kernel'"),
            ("run --kernel", "a value is required for '--kernel <PATH>' but none was supplied"),
            ("run --rng=1 --kernel k", "unexpected value '1' for '--rng' found; no more were expected"),
            ("run --kernel a --kernel b", "the argument '--kernel <PATH>' cannot be used multiple times"),
            ("ctl", "'quantix-vmm ctl' requires a subcommand"),
            ("run", "--kernel: there is nothing to boot"),
            ("run --kernel k --memory 12Q", "--memory 12Q: unknown size suffix 'Q'; use K, M, G or T"),
            ("run --kernel k --log-level loud", "--log-level loud: unknown variant `loud`, expected one of `off`"),
            ("run --config /nonexistent", "--config /nonexistent: cannot read it: No such file or directory"),
            ("completions tcsh", "invalid value 'tcsh' for '<SHELL>'"),
        ];
        for (arguments, start) in table {
            let line = parsed(arguments).unwrap_err().to_string();
            assert!(line.starts_with(start), "{arguments}: {line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }
}
