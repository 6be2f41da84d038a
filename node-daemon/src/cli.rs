//! The daemon's command line. Pure but for reading the settings' file; starts nothing.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _, Parser, Subcommand};
use clap_complete::Shell;

use crate::settings::{Settings, SettingsError};

/// Where the settings are when nobody says otherwise. Only this file may be missing.
const DEFAULT_CONFIG: &str = "/etc/quantix/node.toml";

const EXAMPLES: &str = "\
Examples:
  quantix-node run
      Serve with the settings of /etc/quantix/node.toml, if that exists.
  quantix-node run --config ./node.toml --log debug
      Serve with other settings, and tell more.
  quantix-node run --state-dir /tmp/q/state --run-dir /tmp/q/run --log-dir /tmp/q/log \\
                   --grpc 127.0.0.1:0 --rest 127.0.0.1:0 --vmm ./target/vmm/quantix-vmm
      A node of one's own beside another, on ports that the kernel chooses.
  quantix-node check-config --config ./node.toml
      Say what is wrong with a file, or print all settings that come of it.
  quantix-node completions bash > /etc/bash_completion.d/quantix-node

Exit status: 0 done, 1 failed, 2 refused (settings, a port in use, another daemon).";

/// Turns this machine into a hypervisor host: VMs, storage and networks behind one API.
#[derive(Debug, Parser)]
#[command(name = "quantix-node", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT. VMs go on running without the daemon, and are found again by the next one.
    Run(RunArguments),
    /// Check the settings and print them, with what the command line and the defaults add.
    CheckConfig(Overrides),
    /// Print what a shell needs to complete this command line.
    Completions {
        /// For which shell.
        shell: Shell,
    },
}

#[derive(Debug, Args)]
struct RunArguments {
    #[command(flatten)]
    overrides: Overrides,
    /// What to log: error, warn, info, debug, trace; or by module, such as `info,quantix_node::storage=debug`.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log: String,
}

/// What the command line says about settings.
#[derive(Debug, Default, Args)]
struct Overrides {
    /// The settings [default: /etc/quantix/node.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What has to survive a reboot.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// What lives as long as the machine is up, with the local socket.
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Logs of VMs.
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Where gRPC listens; port 0 lets the kernel choose.
    #[arg(long, value_name = "ADDRESS")]
    grpc: Option<SocketAddr>,
    /// Where REST and WebSocket listen.
    #[arg(long, value_name = "ADDRESS")]
    rest: Option<SocketAddr>,
    /// The VMM's program.
    #[arg(long, value_name = "FILE")]
    vmm: Option<PathBuf>,
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Invocation {
    /// Serve.
    Run {
        /// With these settings.
        settings: Box<Settings>,
        /// What to log.
        log: String,
    },
    /// Print this on standard output.
    Print(String),
}

/// Why a command line cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The arguments; also asked-for help, which is no failure.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// The settings.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The settings cannot be printed.
    #[error("Cannot print the settings")]
    Print(#[from] toml::ser::Error),
}

/// Reads the command line, and the settings that it names.
///
/// # Errors
/// What is wrong with either.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, CliError> {
    match Arguments::try_parse_from(arguments)?.command {
        Command::Run(RunArguments { overrides, log }) => {
            Ok(Invocation::Run { settings: Box::new(overrides.settings()?), log })
        }
        Command::CheckConfig(overrides) => Ok(Invocation::Print(toml::to_string_pretty(&overrides.settings()?)?)),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "quantix-node", &mut text);
            Ok(Invocation::Print(String::from_utf8_lossy(&text).into_owned()))
        }
    }
}

impl Overrides {
    fn settings(self) -> Result<Settings, SettingsError> {
        let mut settings = match self.config {
            Some(path) => Settings::read(&path)?,
            None if Path::new(DEFAULT_CONFIG).exists() => Settings::read(Path::new(DEFAULT_CONFIG))?,
            None => Settings::default(),
        };
        let paths = [
            (&mut settings.state_dir, self.state_dir),
            (&mut settings.run_dir, self.run_dir),
            (&mut settings.log_dir, self.log_dir),
            (&mut settings.vmm, self.vmm),
        ];
        for (setting, given) in paths {
            if let Some(given) = given {
                // Relative to where the command was given; the daemon itself has no such place.
                *setting = std::path::absolute(&given).unwrap_or(given);
            }
        }
        settings.listen.grpc = self.grpc.unwrap_or(settings.listen.grpc);
        settings.listen.rest = self.rest.unwrap_or(settings.listen.rest);
        settings.check()?;
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn invoke(line: &str) -> Result<Invocation, CliError> {
        parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_command_line_goes_before_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "state_dir = '/a'\nrun_dir = '/b'\n[listen]\ngrpc = '127.0.0.1:1'\n").unwrap();
        let line = format!("quantix-node run --config {} --state-dir /c --rest 127.0.0.1:2", file.path().display());
        let Invocation::Run { settings, .. } = invoke(&line).unwrap() else { panic!("run was asked for") };
        assert_eq!((settings.state_dir, settings.run_dir), ("/c".into(), "/b".into()));
        assert_eq!((settings.listen.grpc.port(), settings.listen.rest.port()), (1, 2));
    }

    #[test]
    fn printed_settings_are_settings() {
        let Invocation::Print(text) = invoke("quantix-node check-config --vmm ./vmm").unwrap() else {
            panic!("a text was asked for")
        };
        let settings = Settings::parse(Path::new("printed"), &text).unwrap();
        assert!(settings.vmm.is_absolute());
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = invoke("quantix-node run --config /nonexistent.toml").unwrap_err();
        assert_eq!(error.to_string(), "Cannot read /nonexistent.toml");
    }
}
