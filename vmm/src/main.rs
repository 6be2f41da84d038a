//! The `quantix-vmm` program: reads the command line, runs a guest, turns its end into an exit status.

use std::process::ExitCode;

use quantix_vmm::check;
use quantix_vmm::cli::{self, Invocation};
use quantix_vmm::config::{FdGrant, Plan};
use quantix_vmm::ctl;
use quantix_vmm::machine::{Machine, Opened, Outcome};
use quantix_vmm::sandbox::FdStore;
use quantix_vmm::telemetry;

/// Exit status when the guest could not go on.
const FAILED: u8 = 1;
/// Exit status when the input was refused.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    telemetry::mark_spawn();
    match cli::parse(std::env::args_os()) {
        Ok(Invocation::Run { plan, fds }) => run(&plan, &fds),
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Check { format }) => check(format),
        Ok(Invocation::Ctl(args)) => ctl::run(&args).unwrap_or_else(|error| {
            eprintln!("quantix-vmm: {}", chain(&error));
            ExitCode::from(FAILED)
        }),
        Err(error) => refuse(error),
    }
}

fn check(format: check::Format) -> ExitCode {
    match check::run(format, &mut std::io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(FAILED),
        Err(error) => refuse(format!("Cannot write the report: {error}")),
    }
}

fn refuse(error: impl std::fmt::Display) -> ExitCode {
    eprintln!("quantix-vmm: {error}");
    ExitCode::from(REFUSED)
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn run(plan: &Plan, grants: &[FdGrant]) -> ExitCode {
    telemetry::log_to_stderr(plan.log_level);
    let options: Vec<String> = grants.iter().map(|g| format!("{}={}", g.name, g.number)).collect();
    // SAFETY: nothing has been opened yet but the standard streams; the configuration file was closed.
    let fds = unsafe { FdStore::inherit(&options) };
    let mut fds = match fds {
        Ok(fds) => fds,
        Err(error) => return refuse(format!("--fd: {}", chain(&error))),
    };
    let machine = match Opened::open(plan, &mut fds) {
        Ok(opened) => Machine::build(plan, opened, &mut fds),
        Err(error) => return refuse(chain(&error)),
    };
    let machine = match machine {
        Ok(machine) => machine,
        Err(error) => return refuse(chain(&error)),
    };
    match machine.run(plan.sandbox) {
        Ok(outcome) => report(outcome),
        Err(error) => {
            eprintln!("quantix-vmm: {}", chain(&error));
            ExitCode::from(FAILED)
        }
    }
}

fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Outcome::PowerOff | Outcome::Reset | Outcome::Stopped => ExitCode::SUCCESS,
        Outcome::NotReset(error) => {
            eprintln!("quantix-vmm: The guest could not be started again: {}", chain(error.as_ref()));
            ExitCode::from(FAILED)
        }
        Outcome::Panicked => {
            eprintln!("quantix-vmm: The guest's kernel panicked");
            ExitCode::from(FAILED)
        }
        Outcome::Failed(failure) => {
            eprintln!("quantix-vmm: {} (vCPU {})", failure.reason, failure.vcpu);
            for line in &failure.details {
                eprintln!("  {line}");
            }
            if failure.emulation {
                eprintln!(
                    "  This host's KVM emulates the guest's kernel and lacks this instruction; `quantix-vmm check` says what it can run. \
                     Use a host with hardware virtualisation (Intel VT-x or AMD-V)."
                );
            }
            ExitCode::from(FAILED)
        }
    }
}
