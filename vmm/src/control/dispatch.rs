//! One request, one answer: checks the phase and the descriptors, calls the machine, wraps what it says.
//!
//! Runs on the main loop's thread. It decides nothing else, and knows neither sockets nor devices.

use std::os::fd::OwnedFd;

use quantix_vmm_api::v1::request::Command;
use quantix_vmm_api::v1::response::Outcome;
use quantix_vmm_api::v1::{AttachConsole, ConsoleAttached, Done, SubscribeEvents};

use super::commands::{CommandError, Commands};
use super::phase::allowed;

/// What a request can ask of its own connection or of the server, in place of the machine.
pub(super) trait Surroundings {
    /// Adds kinds of event to this connection's subscription.
    fn subscribe(&mut self, wanted: &SubscribeEvents) -> Result<(), CommandError>;

    /// Connects a viewer.
    fn attach_console(&mut self, wanted: AttachConsole, socket: OwnedFd) -> Result<ConsoleAttached, CommandError>;
}

/// Carries one command out.
pub(super) fn dispatch(
    command: Option<Command>,
    fds: Vec<OwnedFd>,
    machine: &mut dyn Commands,
    surroundings: &mut dyn Surroundings,
) -> (Outcome, Option<OwnedFd>) {
    match carry_out(command, fds, machine, surroundings) {
        Ok(answer) => answer,
        Err(error) => (Outcome::Error((&error).into()), None),
    }
}

fn carry_out(
    command: Option<Command>,
    fds: Vec<OwnedFd>,
    machine: &mut dyn Commands,
    surroundings: &mut dyn Surroundings,
) -> Result<(Outcome, Option<OwnedFd>), CommandError> {
    let command = command.ok_or(CommandError::Unknown)?;
    allowed(machine.phase(), &command)?;
    let fd = single_fd(&command, fds)?;
    let outcome = match (command, fd) {
        (Command::AddFd(wanted), Some(fd)) => done(machine.add_fd(&wanted.name, fd))?,
        (Command::AttachConsole(wanted), Some(fd)) => {
            Outcome::ConsoleAttached(surroundings.attach_console(wanted, fd)?)
        }
        (Command::TakeFd(wanted), _) => {
            let fd = machine.take_fd(&wanted.name)?;
            return Ok((Outcome::Done(Done {}), Some(fd)));
        }
        (Command::GetInfo(_), _) => Outcome::Info(machine.info()),
        (Command::Pause(_), _) => done(machine.pause())?,
        (Command::Resume(_), _) => done(machine.resume())?,
        (Command::PressPowerButton(_), _) => done(machine.press_power_button())?,
        (Command::Reset(_), _) => done(machine.reset())?,
        (Command::Stop(_), _) => done(machine.stop())?,
        (Command::SetBalloon(wanted), _) => done(machine.set_balloon(wanted.size_bytes))?,
        (Command::SetRateLimit(wanted), _) => {
            let limit = wanted.limit.unwrap_or_default();
            done(machine.set_rate_limit(&wanted.device_id, limit))?
        }
        (Command::SubscribeEvents(wanted), _) => done(surroundings.subscribe(&wanted))?,
        (Command::GetStatistics(wanted), _) => Outcome::Statistics(machine.statistics(&wanted)?),
        (Command::GetBootTimeline(_), _) => Outcome::BootTimeline(machine.boot_timeline()),
        // `single_fd` has seen to it that these two have theirs.
        (Command::AddFd(_) | Command::AttachConsole(_), None) => {
            return Err(CommandError::WrongFds { wanted: 1, found: 0 });
        }
    };
    Ok((outcome, None))
}

fn done(result: Result<(), CommandError>) -> Result<Outcome, CommandError> {
    result.map(|()| Outcome::Done(Done {}))
}

/// The descriptor that the command needs, if it needs one; any other number of them is refused.
fn single_fd(command: &Command, fds: Vec<OwnedFd>) -> Result<Option<OwnedFd>, CommandError> {
    let wanted = usize::from(matches!(command, Command::AddFd(_) | Command::AttachConsole(_)));
    if fds.len() == wanted {
        Ok(fds.into_iter().next())
    } else {
        Err(CommandError::WrongFds { wanted, found: fds.len() })
    }
}
