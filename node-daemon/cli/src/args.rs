//! The command line as a whole: the nouns, and the options that every command takes. What each noun can do is in its own
//! file.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::connect::Address;
use crate::output::{Format, Output};
use crate::trust::Fingerprint;
use crate::{audit, contexts, events, host, image, login, net, pool, shell, task, user, vm, volume};

const EXAMPLES: &str = "\
Examples:
  qx vm create demo --image debian --cpus 2 --memory 1G --network default \\
      --ssh-key @~/.ssh/id_ed25519.pub --start
  qx vm ls
  qx vm console demo
  qx image add debian debian-12.qcow2 --kernel vmlinuz --initrd initrd.img
  qx login node1.example.net
  qx host metrics

Exit status:
  0 done   1 failed   2 asked for wrongly   3 not found   4 not allowed   5 the node does not answer   130 interrupted

Environment:
  QX_NODE         address of the node, as --node
  QX_TOKEN        API token; never give it as an argument, where others can read it
  QX_FINGERPRINT  SHA-256 of the node's certificate, as --fingerprint
  NO_COLOR        no colours, as --color never";

/// The command line of a Quantix node.
///
/// Without --node, --context or QX_NODE it uses the node on this machine, by its local socket; where there is none, the
/// current context (see qx context).
#[derive(Debug, Parser)]
#[command(name = "qx", version, after_help = EXAMPLES, max_term_width = 110, disable_help_subcommand = true)]
pub struct Cli {
    /// For every command.
    #[command(flatten)]
    pub global: Global,
    /// What it is about.
    #[command(subcommand)]
    pub noun: Noun,
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// Form of the output
    #[arg(short, long, global = true, value_enum, default_value_t, help_heading = "Global options")]
    pub output: Format,
    /// Node to talk to: HOST[:PORT] or unix:PATH
    #[arg(long, global = true, value_name = "ADDRESS", help_heading = "Global options")]
    pub node: Option<Address>,
    /// Context to use instead of the current one
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "node", help_heading = "Global options")]
    pub context: Option<String>,
    /// SHA-256 of the certificate that the node must have
    #[arg(long, global = true, value_name = "SHA256", help_heading = "Global options", hide_short_help = true)]
    pub fingerprint: Option<Fingerprint>,
    /// Accept whatever certificate an unknown node shows at the first contact
    #[arg(long, global = true, help_heading = "Global options", hide_short_help = true)]
    pub trust_on_first_use: bool,
    /// Certificates (PEM) one of which must have signed the node's
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        conflicts_with_all = ["fingerprint", "trust_on_first_use"],
        help_heading = "Global options",
        hide_short_help = true
    )]
    pub ca_file: Option<PathBuf>,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t, help_heading = "Global options", hide_short_help = true)]
    pub color: Colour,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl Global {
    /// Whether a stream gets colours.
    pub fn colour_for(&self, stream: &impl IsTerminal) -> bool {
        match self.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                stream.is_terminal()
                    && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
                    && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
            }
        }
    }

    /// Standard output as it was asked for.
    pub fn output(&self) -> Output {
        let stdout = std::io::stdout();
        Output { format: self.output, colour: self.colour_for(&stdout), terminal: stdout.is_terminal() }
    }
}

/// What a command is about.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "one is made in the life of the program")]
pub enum Noun {
    /// Virtual machines
    Vm {
        /// What to do.
        #[command(subcommand)]
        command: vm::VmCommand,
    },
    /// Images that VMs start from: disks, kernels, initial RAM disks, ISO files
    #[command(alias = "images")]
    Image {
        /// What to do.
        #[command(subcommand)]
        command: image::ImageCommand,
    },
    /// Volumes: the disks of VMs
    #[command(alias = "vol")]
    Volume {
        /// What to do.
        #[command(subcommand)]
        command: volume::VolumeCommand,
    },
    /// Pools: where volumes and images are kept
    Pool {
        /// What to do.
        #[command(subcommand)]
        command: pool::PoolCommand,
    },
    /// Networks that VMs are plugged into
    #[command(alias = "network")]
    Net {
        /// What to do.
        #[command(subcommand)]
        command: net::NetCommand,
    },
    /// Tasks: everything that takes time
    Task {
        /// What to do.
        #[command(subcommand)]
        command: task::TaskCommand,
    },
    /// What happened on the node, and what happens
    Events(events::EventsArgs),
    /// Who changed what, and who was refused
    Audit(audit::AuditArgs),
    /// The node itself
    Host {
        /// What to show; `status` when nothing is said.
        #[command(subcommand)]
        command: Option<host::HostCommand>,
    },
    /// Who may use the node
    User {
        /// What to do.
        #[command(subcommand)]
        command: user::UserCommand,
    },
    /// API tokens for programs
    Token {
        /// What to do.
        #[command(subcommand)]
        command: user::TokenCommand,
    },
    /// Log in to a node, and keep the token in a context
    Login(login::LoginArgs),
    /// Make the first administrator of a new node
    Setup(login::SetupArgs),
    /// End the session, and forget its token
    Logout(login::LogoutArgs),
    /// Who you are to the node, and what you may do
    Whoami(login::WhoamiArgs),
    /// Nodes that this program knows
    Context {
        /// What to do.
        #[command(subcommand)]
        command: contexts::ContextCommand,
    },
    /// Print a completion script for a shell
    Completions(shell::CompletionsArgs),
    /// Write manual pages into a directory
    Man(shell::ManArgs),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, CommandFactory};

    /// Calls a function with each command that has none below it, and the words that lead to it.
    fn each_leaf(command: &Command, path: &str, look: &mut dyn FnMut(&str, &Command)) {
        if !command.has_subcommands() {
            look(path, command);
        }
        for below in command.get_subcommands() {
            each_leaf(below, &format!("{path} {}", below.get_name()), look);
        }
    }

    /// Splits an example as a shell does: single quotes hold words together, `#` begins a comment.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut quoted = false;
        for letter in line.chars() {
            match letter {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(String::new()),
                other => words.last_mut().unwrap().push(other),
            }
        }
        words.retain(|word| !word.is_empty());
        let end = words.iter().position(|word| word == "#" || word == "|" || word == ">" || word == "<");
        words.truncate(end.unwrap_or(words.len()));
        words
    }

    /// Lines that go on on the next one, as one.
    fn joined(help: &str) -> String {
        help.replace("\\\n", " ")
    }

    #[test]
    fn clap_finds_no_fault() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_each_of_them_can_be_parsed() {
        let mut faults = Vec::new();
        each_leaf(&Cli::command(), "qx", &mut |path, command| {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let help = joined(&help);
            let examples: Vec<&str> = help.lines().map(str::trim).filter(|line| line.starts_with("qx ")).collect();
            if examples.is_empty() {
                faults.push(format!("{path}: no example"));
            }
            for example in examples {
                if !example.starts_with(path) {
                    faults.push(format!("{path}: its example is of another command: {example}"));
                }
                if let Err(error) = Cli::try_parse_from(words(example)) {
                    faults.push(format!("{example}: {error}"));
                }
            }
        });
        for example in joined(EXAMPLES).lines().map(str::trim).filter(|line| line.starts_with("qx ")) {
            if let Err(error) = Cli::try_parse_from(words(example)) {
                faults.push(format!("{example}: {error}"));
            }
        }
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }

    #[test]
    fn no_option_takes_a_secret() {
        each_leaf(&Cli::command(), "qx", &mut |path, command| {
            for option in command.get_arguments() {
                let name = option.get_long().unwrap_or_default();
                assert!(!matches!(name, "password" | "token" | "secret"), "{path} --{name}");
            }
        });
    }
}
