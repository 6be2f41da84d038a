//! Virtual machines. What a VM shall be is in `spec` and `edit`, how it looks in `show`; here are the commands, and those
//! that are one call each.

mod edit;
mod show;
mod spec;

use clap::{Args, Subcommand};
use prost_types::Duration;
use quantix_api::v1::{
    CloneVmRequest, DeleteVmRequest, GetVmBootReportRequest, GetVmIsolationRequest, GetVmLogRequest, GetVmRequest,
    ListVmsRequest, PauseVmRequest, ResetVmRequest, ResumeVmRequest, StartVmRequest, StopVmRequest,
};

use crate::bars;
use crate::console::{self, ConsoleArgs};
use crate::failure::{ExitStatus, Failure};
use crate::metrics::{self, MetricsArgs};
use crate::output::Format;
use crate::pairs::parse_label;
use crate::progress::{Idempotent, Waiting};
use crate::session::{Session, pages};
use crate::stats::{self, StatsArgs};
use crate::table::Cell;
use crate::units::{self, parse_duration, parse_size};

const CREATE_HELP: &str = "\
Disks:
  size=SIZE[,image=IMAGE][,pool=POOL][,name=NAME][,format=raw|qcow2][,full-copy]
               makes a volume
  volume=NAME  takes a volume that is there
  iso=IMAGE    takes an ISO image, read-only
  each with [,id=ID][,readonly][,direct][,queues=N][,iops=N][,bps=SIZE]

Networks:
  NAME[,id=ID][,mac=MAC][,address=IP][,queues=N][,allow-spoofing][,pps=N][,bps=SIZE]

Firewall rules:
  in|out,accept|drop[,protocol=tcp|udp|icmp][,remote=ADDRESS/PREFIX][,ports=N[-M]]

Examples:
  qx vm create demo --image debian --cpus 2 --memory 1G --network default \\
      --ssh-key @~/.ssh/id_ed25519.pub --start
  qx vm create db --image debian --size 40G --disk size=200G,pool=fast,direct \\
      --memory 8G,hugepages=2M --network lan
  qx vm create kiosk --kernel vmlinux --initrd rescue --cmdline 'console=ttyS0 quiet' \\
      --restart on-failure --autostart
  qx vm create web --image debian --network default --dry-run \\
      --rule in,accept,protocol=tcp,ports=80 --rule in,drop";

/// Commands on VMs.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Make a VM, with the volumes that it asks for
    #[command(after_help = CREATE_HELP)]
    Create(Box<spec::CreateArgs>),
    /// List VMs
    #[command(
        visible_alias = "list",
        after_help = "Examples:\n  qx vm ls\n  qx vm ls --label tier=web -o wide\n  qx vm ls -o name"
    )]
    Ls {
        /// Only those with this label (repeatable)
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
    },
    /// Show a VM: what it is, and what it shall be
    #[command(after_help = "Examples:\n  qx vm show demo\n  qx vm show demo -o json")]
    Show {
        /// Name or id
        vm: String,
    },
    /// Start VMs
    #[command(after_help = "Examples:\n  qx vm start demo\n  qx vm start web1 web2 web3 --no-wait")]
    Start(StartArgs),
    /// Stop VMs: press the power button, and pull the plug when that does not help
    #[command(after_help = "Examples:\n  qx vm stop demo\n  qx vm stop demo --timeout 2m\n  qx vm stop demo --force")]
    Stop(StopArgs),
    /// Reset VMs, as with the button
    #[command(after_help = "Examples:\n  qx vm reset demo")]
    Reset(Several),
    /// Pause VMs: their vCPUs stand still
    #[command(after_help = "Examples:\n  qx vm pause demo")]
    Pause(Several),
    /// Let paused VMs run on
    #[command(after_help = "Examples:\n  qx vm resume demo")]
    Resume(Several),
    /// Delete VMs
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  qx vm delete demo\n  qx vm delete demo --force --with-volumes"
    )]
    Delete(DeleteArgs),
    /// Copy a stopped VM with its volumes
    #[command(after_help = "Examples:\n  qx vm clone golden web1 --start\n  qx vm clone golden archive --full-copy")]
    Clone(CloneArgs),
    /// Change what a VM shall be; without options, its spec in your editor
    #[command(after_help = edit::EXAMPLES)]
    Edit(Box<edit::EditArgs>),
    /// Open the serial console; Ctrl-] leaves it
    #[command(after_help = "Examples:\n  qx vm console demo\n  qx vm console demo --view-only")]
    Console(ConsoleArgs),
    /// Counters of vCPUs and devices
    #[command(
        visible_alias = "statistics",
        after_help = "Examples:\n  qx vm stats demo\n  qx vm stats demo --watch\n  qx vm stats demo --watch --interval 5s -o json"
    )]
    Stats(StatsArgs),
    /// Measured values over time, as curves
    #[command(after_help = "Examples:\n  qx vm metrics demo\n  qx vm metrics demo cpu_percent --window 1h")]
    Metrics {
        /// Name or id
        vm: String,
        #[command(flatten)]
        metrics: MetricsArgs,
    },
    /// What was printed on the serial console, of this run and of runs before
    #[command(
        visible_alias = "log",
        after_help = "Examples:\n  qx vm logs demo\n  qx vm logs demo --follow\n  qx vm logs demo --vmm --bytes 1M"
    )]
    Logs(LogsArgs),
    /// What the kernel says now of the process that runs a VM; fails when something is not as it must be
    #[command(after_help = "Examples:\n  qx vm isolation demo\n  qx vm isolation demo --fds")]
    Isolation {
        /// Name or id
        vm: String,
        /// Show the open file descriptors too
        #[arg(long)]
        fds: bool,
    },
    /// Every step of the last start on one clock, and what is not accounted for
    #[command(after_help = "Examples:\n  qx vm boot-report demo\n  qx vm boot-report demo -o json")]
    BootReport {
        /// Name or id
        vm: String,
    },
}

/// What commands on several VMs take.
#[derive(Debug, Args)]
pub struct Several {
    /// Names or ids
    #[arg(required = true)]
    vms: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// What `vm start` takes.
#[derive(Debug, Args)]
pub struct StartArgs {
    #[command(flatten)]
    several: Several,
    #[command(flatten)]
    idempotent: Idempotent,
}

/// What `vm stop` takes.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    several: Several,
    /// How long the guest has before the plug is pulled [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "force")]
    timeout: Option<Duration>,
    /// Pull the plug at once
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    idempotent: Idempotent,
}

/// What `vm delete` takes.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    several: Several,
    /// Pull the plug when it runs
    #[arg(long)]
    force: bool,
    /// Delete the volumes that were made with it too
    #[arg(long)]
    with_volumes: bool,
}

/// What `vm clone` takes.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// Name or id
    vm: String,
    /// Name of the copy
    name: String,
    /// Copy volumes fully instead of holding the differences
    #[arg(long)]
    full_copy: bool,
    /// Start the copy
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    idempotent: Idempotent,
    #[command(flatten)]
    waiting: Waiting,
}

/// What `vm logs` takes.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Name or id
    vm: String,
    /// Go on with what is printed from now on
    #[arg(short, long, conflicts_with = "vmm")]
    follow: bool,
    /// The VMM's own log instead of the guest's console
    #[arg(long)]
    vmm: bool,
    /// The newest so many bytes, at most 1M
    #[arg(long, value_name = "SIZE", default_value = "64K", value_parser = parse_size)]
    bytes: u64,
    /// Pass on control sequences as the guest wrote them; a terminal obeys them
    #[arg(long)]
    raw: bool,
}

/// Asks for something to be done with each VM: the tasks run beside each other, then each is waited for. One that fails keeps
/// none of the others from being done.
macro_rules! each {
    ($session:expr, $several:expr, $method:ident, $done:literal, |$vm:ident| $request:expr) => {{
        let mut client = $session.vms().await?;
        let mut asked = Vec::new();
        for $vm in $several.vms {
            asked.push(client.$method($request).await.map_err(Failure::from));
        }
        let mut ended = Vec::new();
        for answer in asked {
            let end = match answer {
                Ok(task) => $several.waiting.finish($session, task.into_inner(), $done).await,
                Err(failure) => Err(failure),
            };
            let left = end.as_ref().is_err_and(|failure| failure.status == ExitStatus::Interrupted);
            ended.push(end);
            if left {
                break;
            }
        }
        last_failure(ended, $session)
    }};
}

/// Of several failures the last is the command's; the others are told here.
fn last_failure(ended: Vec<Result<(), Failure>>, session: &Session) -> Result<(), Failure> {
    let mut failures: Vec<Failure> = ended.into_iter().filter_map(Result::err).collect();
    let last = failures.pop();
    let colour = session.global.colour_for(&std::io::stderr());
    for failure in &failures {
        failure.report(colour);
    }
    last.map_or(Ok(()), Err)
}

/// Runs a command on VMs.
pub async fn run(command: VmCommand, session: &Session) -> Result<(), Failure> {
    match command {
        VmCommand::Create(args) => create(*args, session).await,
        VmCommand::Ls { labels } => {
            let request = ListVmsRequest { labels: labels.into_iter().collect(), ..ListVmsRequest::default() };
            let vms = pages!(session.vms().await?, list_vms, request, vms)?;
            session.out.list(&vms, &show::SHEET, &session.out.view())
        }
        VmCommand::Show { vm } => {
            let vm = session.vms().await?.get_vm(GetVmRequest { vm }).await?.into_inner();
            session.out.show(&vm, &vm.name, show::facts)
        }
        VmCommand::Start(args) => {
            let id = args.idempotent.request_id;
            each!(session, args.several, start_vm, "VM {} runs.", |vm| StartVmRequest {
                vm,
                request_id: id.clone(),
                wait: None
            })
        }
        VmCommand::Stop(args) => {
            let timeout = if args.force { Some(Duration::default()) } else { args.timeout };
            let id = args.idempotent.request_id;
            each!(session, args.several, stop_vm, "VM {} is off.", |vm| StopVmRequest {
                vm,
                timeout,
                request_id: id.clone(),
                wait: None
            })
        }
        VmCommand::Reset(args) => {
            each!(session, args, reset_vm, "VM {} was reset.", |vm| ResetVmRequest { vm, wait: None })
        }
        VmCommand::Pause(args) => {
            each!(session, args, pause_vm, "VM {} is paused.", |vm| PauseVmRequest { vm, wait: None })
        }
        VmCommand::Resume(args) => {
            each!(session, args, resume_vm, "VM {} runs on.", |vm| ResumeVmRequest { vm, wait: None })
        }
        VmCommand::Delete(args) => {
            let (force, delete_volumes) = (args.force, args.with_volumes);
            each!(session, args.several, delete_vm, "VM {} is deleted.", |vm| DeleteVmRequest {
                vm,
                force,
                delete_volumes,
                ..DeleteVmRequest::default()
            })
        }
        VmCommand::Clone(args) => clone(args, session).await,
        VmCommand::Edit(args) => edit::run(*args, session).await,
        VmCommand::Console(args) => console::run(args, session).await,
        VmCommand::Stats(args) => stats::run(args, session).await,
        VmCommand::Metrics { vm, metrics } => metrics::show(metrics, vm, session).await,
        VmCommand::Logs(args) => logs(args, session).await,
        VmCommand::Isolation { vm, fds } => isolation(vm, fds, session).await,
        VmCommand::BootReport { vm } => boot_report(vm, session).await,
    }
}

async fn create(args: spec::CreateArgs, session: &Session) -> Result<(), Failure> {
    let (waiting, dry_run) = (args.waiting.clone(), args.dry_run);
    let request = spec::create_request(args, &|path| std::fs::read_to_string(path))?;
    let (name, start) = (request.name.clone(), request.start);
    let task = session.vms().await?.create_vm(request).await?.into_inner();
    if dry_run {
        return session.out.done(&task, &name, &format!("VM {name} could be made; nothing was changed."));
    }
    let done = if start { "VM {} is made, and runs." } else { "VM {} is made." };
    waiting.finish(session, task, done).await
}

async fn clone(args: CloneArgs, session: &Session) -> Result<(), Failure> {
    let request = CloneVmRequest {
        vm: args.vm.clone(),
        name: args.name.clone(),
        full_copy: args.full_copy,
        start: args.start,
        request_id: args.idempotent.request_id,
        wait: None,
    };
    let task = session.vms().await?.clone_vm(request).await?.into_inner();
    args.waiting.finish(session, task, &format!("{} is a copy of {}.", args.name, args.vm)).await
}

async fn logs(args: LogsArgs, session: &Session) -> Result<(), Failure> {
    let raw = args.raw || !session.out.terminal;
    if args.follow {
        return console::follow(args.vm, raw, session).await;
    }
    let max_bytes = u32::try_from(args.bytes).unwrap_or(u32::MAX);
    let request = GetVmLogRequest { vm: args.vm, max_bytes, vmm: args.vmm };
    let log = session.vms().await?.get_vm_log(request).await?.into_inner();
    if session.out.format == Format::Json {
        return session.out.json(&log);
    }
    if log.truncated && session.out.terminal {
        eprintln!("There was more before this; --bytes shows more of it.");
    }
    let data = if raw { log.data } else { console::harmless(&log.data) };
    session.out.bytes(&data)
}

async fn isolation(vm: String, fds: bool, session: &Session) -> Result<(), Failure> {
    let request = GetVmIsolationRequest { vm: vm.clone() };
    let receipt = session.vms().await?.get_vm_isolation(request).await?.into_inner();
    match session.out.format {
        Format::Json => session.out.json(&receipt)?,
        _ => session.out.text(&show::isolation(&receipt, fds, &session.out.view()))?,
    }
    if receipt.intact {
        Ok(())
    } else {
        Err(Failure::failed(format!("The isolation of {vm} is not as it must be"))
            .hint(format!("stop it with: qx vm stop {vm} --force; what happened: qx events --kind vm.")))
    }
}

async fn boot_report(vm: String, session: &Session) -> Result<(), Failure> {
    let request = GetVmBootReportRequest { vm };
    let report = session.vms().await?.get_vm_boot_report(request).await?.into_inner();
    if session.out.format == Format::Json {
        return session.out.json(&report);
    }
    let width = session.out.view().width.unwrap_or(100);
    session.out.text(&bars::boot_report(&report, width.into(), session.out.colour))
}

/// Text of an age that may be missing.
fn since(time: Option<&prost_types::Timestamp>, now: jiff::Timestamp) -> Cell {
    units::age(time, now).into()
}
