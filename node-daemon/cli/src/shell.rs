//! What shells and `man` want to know of this command line; both are made from its definition.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;

/// What `completions` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  qx completions bash > /etc/bash_completion.d/qx
  qx completions zsh > ~/.zfunc/_qx
  qx completions fish > ~/.config/fish/completions/qx.fish")]
pub struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

/// What `man` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  qx man /usr/local/share/man/man1")]
pub struct ManArgs {
    /// Where to write them; it is made when it is not there
    directory: PathBuf,
}

/// Prints a completion script.
pub fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "qx", &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
    Ok(())
}

/// Writes a page for each command.
pub fn man(args: &ManArgs) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| Failure::file(&args.directory, &error);
    std::fs::create_dir_all(&args.directory).map_err(wrong)?;
    clap_mangen::generate_to(Cli::command(), &args.directory).map_err(wrong)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_gets_a_page() {
        let directory = tempfile::tempdir().unwrap();
        man(&ManArgs { directory: directory.path().to_owned() }).unwrap();
        for page in ["qx.1", "qx-vm.1", "qx-vm-create.1", "qx-image-add.1"] {
            let text = std::fs::read_to_string(directory.path().join(page)).unwrap();
            assert!(text.contains("Examples:") || page == "qx-vm.1", "{page}");
        }
    }

    #[test]
    fn every_shell_has_a_script() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "qx", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("boot-report"), "{shell}");
        }
    }
}
