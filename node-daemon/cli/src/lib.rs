//! The command line of a Quantix node: one file per noun, and the rooms that they share. It speaks the public API and
//! knows nothing that any other client could not know.
//!
//! One thread runs everything (tokio, current thread); only the console has a second one, which reads the keyboard.

#![forbid(unsafe_code)]
#![allow(clippy::doc_markdown, reason = "doc comments of options are help texts, and a terminal shows no markup")]
#![allow(clippy::format_push_string, reason = "a few lines for one reader: clear before fast")]

pub mod args;
pub mod failure;
pub mod units;

mod audit;
mod bars;
mod connect;
mod console;
mod contexts;
mod events;
mod host;
mod image;
mod login;
mod metrics;
mod net;
mod output;
mod pairs;
mod pool;
mod progress;
mod session;
mod shell;
mod stats;
mod style;
mod table;
mod task;
mod terminal;
mod trust;
mod upload;
mod user;
mod vm;
mod volume;
mod words;

use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Noun};
use crate::failure::Failure;
use crate::session::Session;

/// Runs `qx` with the arguments of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let colour = cli.global.colour_for(&std::io::stderr());
    match start(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report(colour);
            failure.status.into()
        }
    }
}

/// Runs a parsed command line to its end.
fn start(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("The program cannot start: {error}")))?;
    let ended = runtime.block_on(dispatch(cli));
    // A read of standard input that nobody waits for any more must not hold the program.
    runtime.shutdown_background();
    ended
}

/// Hands the command to its noun.
async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let session = Session::new(cli.global);
    match cli.noun {
        Noun::Vm { command } => vm::run(command, &session).await,
        Noun::Image { command } => image::run(command, &session).await,
        Noun::Pool { command } => pool::run(command, &session).await,
        Noun::Volume { command } => volume::run(command, &session).await,
        Noun::Net { command } => net::run(command, &session).await,
        Noun::Task { command } => task::run(command, &session).await,
        Noun::Events(command) => events::run(command, &session).await,
        Noun::Audit(command) => audit::run(command, &session).await,
        Noun::Host { command } => host::run(command.unwrap_or_default(), &session).await,
        Noun::User { command } => user::run(command, &session).await,
        Noun::Token { command } => user::run_token(command, &session).await,
        Noun::Login(command) => login::login(command, &session).await,
        Noun::Setup(command) => login::setup(command, &session).await,
        Noun::Logout(_) => login::logout(&session).await,
        Noun::Whoami(_) => login::whoami(&session).await,
        Noun::Context { command } => contexts::run(command, &session).await,
        Noun::Completions(command) => shell::completions(&command),
        Noun::Man(command) => shell::man(&command),
    }
}
