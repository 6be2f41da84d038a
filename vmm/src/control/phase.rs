//! The phases of a machine, and what may be asked of it in each. Pure.
//!
//! ```text
//!   Creating ──► Running ◄──► Paused
//!       │           │           │
//!       └───────────┴───────────┴──► Stopped
//! ```

use quantix_vmm_api::v1;
use quantix_vmm_api::v1::request::Command;
use thiserror::Error;

/// Where a machine is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Being built or restored; no vCPU has run.
    Creating,
    /// vCPUs run.
    Running,
    /// vCPUs and devices stand still.
    Paused,
    /// Over; the process is about to end.
    Stopped,
}

impl Phase {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl From<Phase> for v1::Phase {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Creating => Self::Creating,
            Phase::Running => Self::Running,
            Phase::Paused => Self::Paused,
            Phase::Stopped => Self::Stopped,
        }
    }
}

/// A command came in the wrong phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("The machine is {}: {rule}", phase.word())]
pub struct WrongPhase {
    /// The phase that it is in.
    pub phase: Phase,
    /// When the command is possible.
    pub rule: &'static str,
}

/// Whether a command may run now.
///
/// # Errors
/// [`WrongPhase`] says when it may.
pub fn allowed(phase: Phase, command: &Command) -> Result<(), WrongPhase> {
    use Phase::{Creating, Paused, Running, Stopped};
    let (phases, rule): (&[Phase], _) = match command {
        Command::GetInfo(_)
        | Command::GetStatistics(_)
        | Command::GetBootTimeline(_)
        | Command::SubscribeEvents(_)
        | Command::AttachConsole(_) => (&[Creating, Running, Paused, Stopped], "always"),
        Command::Stop(_) | Command::AddFd(_) | Command::TakeFd(_) => {
            (&[Creating, Running, Paused], "only before it has stopped")
        }
        Command::SetBalloon(_) | Command::SetRateLimit(_) => (&[Running, Paused], "only while it is running or paused"),
        Command::Pause(_) => (&[Running], "only a running machine can be paused"),
        Command::Resume(_) => (&[Paused], "only a paused machine can be resumed"),
        // A paused guest would neither see the button nor the reset: whoever wants both says resume first.
        Command::PressPowerButton(_) => (&[Running], "only a running guest sees its power button"),
        Command::Reset(_) => (&[Running], "only a running machine can be reset"),
    };
    if phases.contains(&phase) { Ok(()) } else { Err(WrongPhase { phase, rule }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantix_vmm_api::call::Call;

    /// One row a command: allowed while creating, running, paused, stopped?
    #[test]
    fn each_command_in_each_phase() {
        let (yes, no) = (true, false);
        let rows: Vec<(Command, [bool; 4])> = vec![
            (v1::GetInfo {}.into_command(), [yes, yes, yes, yes]),
            (v1::GetStatistics::default().into_command(), [yes, yes, yes, yes]),
            (v1::GetBootTimeline {}.into_command(), [yes, yes, yes, yes]),
            (v1::SubscribeEvents::default().into_command(), [yes, yes, yes, yes]),
            (v1::AttachConsole::default().into_command(), [yes, yes, yes, yes]),
            (v1::AddFd::default().into_command(), [yes, yes, yes, no]),
            (v1::TakeFd::default().into_command(), [yes, yes, yes, no]),
            (v1::Stop {}.into_command(), [yes, yes, yes, no]),
            (v1::SetBalloon::default().into_command(), [no, yes, yes, no]),
            (v1::SetRateLimit::default().into_command(), [no, yes, yes, no]),
            (v1::Pause {}.into_command(), [no, yes, no, no]),
            (v1::Resume {}.into_command(), [no, no, yes, no]),
            (v1::PressPowerButton {}.into_command(), [no, yes, no, no]),
            (v1::Reset {}.into_command(), [no, yes, no, no]),
        ];
        for (command, expected) in rows {
            let phases = [Phase::Creating, Phase::Running, Phase::Paused, Phase::Stopped];
            assert_eq!(phases.map(|phase| allowed(phase, &command).is_ok()), expected, "{command:?}");
        }
    }

    #[test]
    fn refusal_says_what_is_and_what_would_be_needed() {
        let refusal = allowed(Phase::Paused, &v1::Pause {}.into_command()).expect_err("refused");
        assert_eq!(refusal.to_string(), "The machine is paused: only a running machine can be paused");
    }
}
