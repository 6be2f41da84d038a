//! Command line of the measurements: one subcommand each, results on standard output.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use quantix_bench::bare::{self, BareGuest};
use quantix_bench::frames::{self, Port};
use quantix_bench::start::spawn_to_ready;
use quantix_bench::vsock_peer;
use quantix_bench::{compare, elf, node};

const MIB: usize = 1 << 20;

#[derive(Parser)]
#[command(about = "Measures VMMs with the freestanding payload")]
struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Subcommand)]
enum Measurement {
    /// The whole comparison: quantix-vmm beside a bare KVM program and QEMU microvm, run by run in turns
    All {
        /// The VMM
        #[arg(long)]
        vmm: PathBuf,
        /// The payload's ELF file
        #[arg(long)]
        payload: PathBuf,
        /// Measured runs of each; one more warms up
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Only these groups: start, twenty, memory, blk, exits, net, vsock
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// How to print
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// The node daemon: from a call to a running VM, a crowd of VMs, and the API with them there
    Node {
        /// The daemon
        #[arg(long)]
        node: PathBuf,
        /// The VMM that it starts
        #[arg(long)]
        vmm: PathBuf,
        /// The payload's ELF file
        #[arg(long)]
        payload: PathBuf,
        /// VMs created and started one after another
        #[arg(long, default_value_t = 100)]
        starts: usize,
        /// VMs at the same time
        #[arg(long, default_value_t = 200)]
        crowd: usize,
        /// Calls of each kind with the crowd there
        #[arg(long, default_value_t = 500)]
        calls: usize,
        /// How to print
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// Runs the payload on KVM with nothing around it; the guest's serial line is standard output
    Bare {
        /// The payload's ELF file
        #[arg(long)]
        payload: PathBuf,
        /// Its kernel command line
        #[arg(long, default_value = "")]
        cmdline: String,
        /// Guest memory in MiB
        #[arg(long, default_value_t = 128)]
        memory_mib: usize,
        /// End at the first line
        #[arg(long)]
        until_ready: bool,
    },
    /// The host end of network commands, on a tap: prints how many frames it handled
    Frames {
        /// The tap
        #[arg(long)]
        interface: String,
        /// Milliseconds without a frame after which it ends
        #[arg(long, default_value_t = 3000)]
        patience_ms: u64,
        #[command(subcommand)]
        duty: FrameDuty,
    },
    /// The host end of vsock commands, on the VMM's unix socket
    Vsock {
        /// The path that the VMM was given
        #[arg(long)]
        socket: PathBuf,
        #[command(subcommand)]
        duty: VsockDuty,
    },
    /// Writes a copy of the payload without its PVH note, to be booted by the 64-bit Linux protocol
    WithoutPvh {
        /// The payload's ELF file
        #[arg(long)]
        payload: PathBuf,
        /// The copy
        #[arg(long)]
        output: PathBuf,
    },
    /// Microseconds from spawn to the READY line of any command that shows the guest's serial line on standard output
    Start {
        /// How often; the minimum, median and maximum are printed
        #[arg(long, default_value_t = 11)]
        runs: usize,
        /// The command and its arguments
        #[arg(trailing_var_arg = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Subcommand)]
enum FrameDuty {
    /// Sends every frame back
    Echo,
    /// Sends frames without end
    Flood {
        /// Bytes a frame
        #[arg(long, default_value_t = 64)]
        length: usize,
        /// How long, in milliseconds
        #[arg(long, default_value_t = 2000)]
        ms: u64,
    },
    /// Sends frames to a guest that answers, and checks the answers
    Check {
        /// How many
        #[arg(long, default_value_t = 500)]
        count: u64,
    },
}

#[derive(Subcommand)]
enum VsockDuty {
    /// Waits for one connection of the guest and sends back all that comes
    Echo {
        /// The port that the guest connects to
        #[arg(long, default_value_t = 5000)]
        port: u32,
    },
    /// Connects to a guest that answers, and checks the answers
    Check {
        /// The port that the guest listens on
        #[arg(long, default_value_t = 5001)]
        port: u32,
        /// How much, in bytes
        #[arg(long, default_value_t = 1 << 20)]
        bytes: usize,
    },
}

fn main() -> ExitCode {
    match measure(Arguments::parse().measurement) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(measurement: Measurement) -> Result<()> {
    match measurement {
        Measurement::All { vmm, payload, runs, only, output } => {
            let comparison = compare::measure(&compare::Request { vmm, payload, runs, only })?;
            match output {
                Output::Table => print!("{}", compare::report::table(&comparison)),
                Output::Json => println!("{}", compare::report::json(&comparison)),
            }
            let missing = comparison.missing.len();
            ensure!(missing == 0, "Of what was asked for, {missing} could not be measured; see above");
            Ok(())
        }
        Measurement::Node { node, vmm, payload, starts, crowd, calls, output } => {
            ensure!(
                starts > 0 && crowd > 0 && calls > 0,
                "Nothing to measure: --starts, --crowd and --calls are at least 1"
            );
            let programs = node::Programs { node, vmm };
            let order = node::Order { programs, payload, starts, crowd, calls };
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            let figures = runtime.block_on(node::measure(&order))?;
            match output {
                Output::Table => print!("{}", node::table(&figures)),
                Output::Json => println!("{}", node::json(&figures)),
            }
            Ok(())
        }
        Measurement::Bare { payload, cmdline, memory_mib, until_ready } => {
            let guest = BareGuest {
                payload: &payload,
                command_line: &cmdline,
                memory_bytes: memory_mib.checked_mul(MIB).context("Too much memory")?,
                stop_at_first_line: until_ready,
            };
            bare::run(&guest, &mut std::io::stdout().lock())
        }
        Measurement::Frames { interface, patience_ms, duty } => {
            let port = Port::open(&interface, Duration::from_millis(patience_ms))?;
            let frames = match duty {
                FrameDuty::Echo => frames::echo(&port)?,
                FrameDuty::Flood { length, ms } => frames::flood(&port, length, Duration::from_millis(ms))?,
                FrameDuty::Check { count } => frames::check(&port, count).map(|()| count)?,
            };
            println!(r#"{{"peer":"frames","frames":{frames}}}"#);
            Ok(())
        }
        Measurement::Vsock { socket, duty } => {
            let bytes = match duty {
                VsockDuty::Echo { port } => vsock_peer::echo(&socket, port)?,
                VsockDuty::Check { port, bytes } => vsock_peer::check(&socket, port, bytes).map(|()| bytes as u64)?,
            };
            println!(r#"{{"peer":"vsock","bytes":{bytes}}}"#);
            Ok(())
        }
        Measurement::WithoutPvh { payload, output } => {
            let file = std::fs::read(&payload).with_context(|| format!("Cannot read {}", payload.display()))?;
            std::fs::write(&output, elf::without_pvh(file)?)
                .with_context(|| format!("Cannot write {}", output.display()))
        }
        Measurement::Start { runs, command } => start(runs, &command),
    }
}

fn start(runs: usize, command: &[String]) -> Result<()> {
    ensure!(runs > 0, "No runs were asked for");
    let (program, arguments) = command.split_first().context("No command was given")?;
    let mut times = (0..runs)
        .map(|_| spawn_to_ready(Command::new(program).args(arguments)).map(|time| time.as_micros()))
        .collect::<Result<Vec<_>>>()?;
    times.sort_unstable();
    let (min, median, max) = (times[0], times[runs / 2], times[runs - 1]);
    println!(r#"{{"measure":"start","runs":{runs},"min_us":{min},"median_us":{median},"max_us":{max}}}"#);
    Ok(())
}
