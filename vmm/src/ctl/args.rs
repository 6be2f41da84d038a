//! The command line of `quantix-vmm ctl`. Pure.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::config;

const EXAMPLES: &str = "\
Examples:
  quantix-vmm ctl vm.sock info
  quantix-vmm ctl vm.sock -o json stats
  quantix-vmm ctl vm.sock stats --watch
  quantix-vmm ctl vm.sock balloon 512M
  quantix-vmm ctl vm.sock limit disk0 --iops 500 --bps 20M
  quantix-vmm ctl vm.sock console            (Ctrl-] leaves)
  quantix-vmm ctl vm.sock add-fd scratch /srv/scratch.img

Exit status: 0 when it was done, 1 when the machine refused or cannot be reached, 2 when the command line was refused.";

/// Talk to the control socket of a running guest
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = false)]
pub struct CtlArgs {
    /// Control socket that the guest was started with (--api-socket)
    pub socket: PathBuf,
    /// How answers are printed; JSON is one value a line
    #[arg(short, long, value_enum, default_value_t = Format::Text, global = true, value_name = "FORMAT")]
    pub(super) output: Format,
    /// How long to wait for an answer, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400), global = true)]
    pub(super) timeout: u64,
    #[command(subcommand)]
    pub(super) action: Action,
}

impl CtlArgs {
    /// How long to wait for an answer.
    pub(super) fn deadline(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// Forms of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Tables for people
    Text,
    /// One JSON value a line
    Json,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Action {
    /// Show what this machine is
    Info,
    /// Stop the vCPUs and bring the devices to rest
    Pause,
    /// Let a paused machine go on
    Resume,
    /// Press the power button: ask the guest to shut down
    PowerButton,
    /// Reset the machine, as its reset button would
    Reset,
    /// End the machine at once, as pulling the plug would
    Stop,
    /// Set how much memory the balloon takes from the guest
    Balloon {
        /// Bytes; K, M, G and T are understood; 0 gives everything back
        #[arg(value_parser = config::size)]
        size: u64,
    },
    /// Limit a disk or a NIC; what is not named is unlimited
    Limit {
        /// Device, as `info` lists it
        id: String,
        /// Operations or packets a second; 0 = no limit
        #[arg(long, default_value_t = 0)]
        iops: u64,
        /// Bytes a second; K, M, G and T are understood; 0 = no limit
        #[arg(long, default_value = "0", value_parser = config::size)]
        bps: u64,
    },
    /// Show the counters
    Stats(StatsArgs),
    /// Show when each step of the start happened
    Timeline,
    /// Connect this terminal to a console of the guest; Ctrl-] leaves
    Console(ConsoleArgs),
    /// Print events as they happen
    Events(EventsArgs),
    /// Open a file and pass it to the machine, which knows it as fd:NAME then
    AddFd {
        /// Its name
        name: String,
        /// The file; opened for reading and writing
        path: PathBuf,
        /// Open it only for reading
        #[arg(long)]
        read_only: bool,
    },
    /// Take a file that nothing uses out of the machine, and close it
    TakeFd {
        /// Its name
        name: String,
    },
}

/// Options of `stats`.
#[derive(Debug, Clone, Args)]
pub(super) struct StatsArgs {
    /// Show rates, again and again
    #[arg(short, long)]
    pub(super) watch: bool,
    /// Seconds between two looks
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600), requires = "watch")]
    pub(super) interval: u64,
    /// Looks before it ends; 0 = for ever
    #[arg(long, default_value_t = 0, requires = "watch")]
    pub(super) count: u64,
    /// Only these devices
    #[arg(long = "device", value_name = "ID")]
    pub(super) devices: Vec<String>,
}

/// Options of `console`.
#[derive(Debug, Clone, Args)]
pub(super) struct ConsoleArgs {
    /// Which console
    #[arg(value_enum, default_value_t = Which::Serial)]
    pub(super) which: Which,
    /// Print what it printed so far, and leave
    #[arg(long)]
    pub(super) past: bool,
}

/// The consoles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Which {
    /// The first serial port
    Serial,
    /// The virtio console
    Virtio,
}

/// Options of `events`.
#[derive(Debug, Clone, Args)]
pub(super) struct EventsArgs {
    /// Only these kinds
    #[arg(long = "kind", value_enum, value_name = "KIND")]
    pub(super) kinds: Vec<Kind>,
    /// Events before it ends; 0 = until the machine does
    #[arg(long, default_value_t = 0)]
    pub(super) count: u64,
}

/// The kinds of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// The machine went into another phase
    PhaseChanged,
    /// The guest's kernel panicked
    GuestPanicked,
    /// The guest switched itself off or reset itself
    GuestPower,
    /// The guest broke a device's rules
    DeviceFault,
    /// The guest's balloon driver told its statistics
    BalloonStatistics,
    /// The VMM logged a warning or an error
    LogWarning,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: CtlArgs,
    }

    fn action(line: &str) -> Result<Action, clap::Error> {
        Line::try_parse_from(std::iter::once("ctl").chain(line.split_whitespace())).map(|line| line.args.action)
    }

    #[test]
    fn the_parser_is_sound() {
        Line::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        let table =
            [("balloon 512M", Some(512 << 20)), ("balloon 0", Some(0)), ("balloon much", None), ("balloon", None)];
        for (words, expected) in table {
            let size = match action(&format!("s {words}")) {
                Ok(Action::Balloon { size }) => Some(size),
                _ => None,
            };
            assert_eq!(size, expected, "{words}");
        }
        let Ok(Action::Limit { id, iops, bps }) = action("s limit disk0 --bps 20M -o json") else { panic!() };
        assert_eq!((id.as_str(), iops, bps), ("disk0", 0, 20 << 20));
    }
}
