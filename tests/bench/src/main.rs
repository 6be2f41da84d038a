//! Command line of the measurements: one subcommand each, results on standard output.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use quantix_bench::bare::{self, BareGuest};
use quantix_bench::start::spawn_to_ready;

const MIB: usize = 1 << 20;

#[derive(Parser)]
#[command(about = "Measures VMMs with the freestanding payload")]
struct Arguments {
    #[command(subcommand)]
    measurement: Measurement,
}

#[derive(Subcommand)]
enum Measurement {
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
        Measurement::Bare { payload, cmdline, memory_mib, until_ready } => {
            let guest = BareGuest {
                payload: &payload,
                command_line: &cmdline,
                memory_bytes: memory_mib.checked_mul(MIB).context("Too much memory")?,
                stop_at_first_line: until_ready,
            };
            bare::run(&guest, &mut std::io::stdout().lock())
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
