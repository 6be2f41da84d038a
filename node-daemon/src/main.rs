//! The `quantix-node` program: reads the command line, serves until a signal, turns the end into an exit status.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use quantix_node::cli::{self, CliError, Invocation};
use quantix_node::daemon::Daemon;
use quantix_node::settings::Settings;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit status when something failed.
const FAILED: u8 = 1;
/// Exit status when the input was refused.
const REFUSED: u8 = 2;
/// How long blocking work that does not hear of the end may delay it.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // Before anything else: this is a small program of its own, that must have one thread.
    if let Some(status) = quantix_node::vm::launch::stage::requested() {
        return status;
    }
    match cli::parse(std::env::args_os()) {
        Ok(Invocation::Print(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => end(FAILED, &error),
        },
        Ok(Invocation::Run { settings, log }) => run(*settings, &log),
        Err(CliError::Arguments(error)) => error.exit(),
        Err(error) => end(REFUSED, &error),
    }
}

/// Says why in one line.
fn end(status: u8, error: &dyn std::error::Error) -> ExitCode {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    eprintln!("quantix-node: {}", text.replace('\n', " "));
    ExitCode::from(status)
}

fn run(settings: Settings, log: &str) -> ExitCode {
    let filter = match EnvFilter::builder().parse(log) {
        Ok(filter) => filter,
        Err(error) => return end(REFUSED, &error),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("node").build() {
        Ok(runtime) => runtime,
        Err(error) => return end(FAILED, &error),
    };
    let status = runtime.block_on(serve(settings));
    runtime.shutdown_timeout(LAST_PATIENCE);
    status
}

async fn serve(settings: Settings) -> ExitCode {
    // Before anything is started, so that no signal finds a half-started daemon without an ear for it.
    let (mut term, mut int) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(term), Ok(int)) => (term, int),
        (Err(error), _) | (_, Err(error)) => return end(FAILED, &error),
    };
    let daemon = match Daemon::start(settings).await {
        Ok(daemon) => daemon,
        Err(error) => return end(if error.is_refusal() { REFUSED } else { FAILED }, &error),
    };
    tracing::info!("Serving on {}", daemon.server().addresses().join(", "));
    let name = ended(&mut term, &mut int).await;
    tracing::info!("{name}: stopping; VMs go on");
    tokio::select! {
        () = daemon.stop() => ExitCode::SUCCESS,
        name = ended(&mut term, &mut int) => {
            tracing::warn!("{name} again: not waiting any longer");
            ExitCode::from(FAILED)
        }
    }
}

async fn ended(term: &mut Signal, int: &mut Signal) -> &'static str {
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}
