//! Why a run ended: from what the VMM told, how its process ended, and what was asked for. Pure.

use super::launch::Exit;
use crate::model::Time;
use crate::model::vm::{ExitCause, VmExit};

/// What was heard of a run before its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// The guest's kernel panicked, and did not go on.
    pub panicked: bool,
    /// The guest switched itself off.
    pub shutdown: bool,
    /// Somebody asked for the end.
    pub stop_asked: bool,
}

/// Longest line of a VMM's log that is repeated, in characters.
const SHOWN: usize = 400;

/// What the VMM writes last when it ends because of a panic.
const PANICKED: &str = "The guest's kernel panicked";

/// Whether a VMM ended because its guest panicked, by its own words: for runs that were too short to be listened to.
pub fn panicked(last_words: &str) -> bool {
    last_line(last_words).as_deref() == Some(PANICKED)
}

/// The end of a run. `last_words`: the newest of the VMM's log of this run.
pub fn exit(heard: Heard, exit: Exit, last_words: &str) -> VmExit {
    let (exit_code, signal) = match exit {
        Exit::Status(code) => (Some(code), None),
        Exit::Signal(signal) => (None, Some(signal)),
        Exit::Unknown => (None, None),
    };
    let (cause, message) = match (heard, exit) {
        (Heard { panicked: true, .. }, _) => (ExitCause::GuestPanic, PANICKED.to_owned()),
        (Heard { shutdown: true, stop_asked: true, .. }, _) => {
            (ExitCause::Stopped, "The guest switched itself off, as it was asked to".to_owned())
        }
        (Heard { stop_asked: true, .. }, _) => (ExitCause::Stopped, "It was switched off".to_owned()),
        (Heard { shutdown: true, .. }, _) => (ExitCause::GuestShutdown, "The guest switched itself off".to_owned()),
        (_, Exit::Signal(signal)) => (ExitCause::VmmKilled, format!("{} ended the VMM", name(signal))),
        (_, Exit::Status(0)) => (ExitCause::GuestShutdown, "The VMM ended as after a shutdown".to_owned()),
        (_, Exit::Status(_)) if panicked(last_words) => (ExitCause::GuestPanic, PANICKED.to_owned()),
        (_, Exit::Status(code)) => {
            let words = last_line(last_words).unwrap_or_else(|| "it said nothing".to_owned());
            (ExitCause::VmmFailed, format!("The VMM ended with status {code}: {words}"))
        }
        (_, Exit::Unknown) => (ExitCause::Lost, "The VMM ended, and nobody was there to see how".to_owned()),
    };
    VmExit { time: Time::now(), cause, message, exit_code, signal }
}

/// The end of a run that was over when the daemon came back.
pub fn lost() -> VmExit {
    let message = "It was gone when the daemon came back".to_owned();
    VmExit { time: Time::now(), cause: ExitCause::Lost, message, exit_code: None, signal: None }
}

fn name(signal: i32) -> String {
    let named = nix::sys::signal::Signal::try_from(signal);
    named.map_or_else(|_| format!("Signal {signal}"), |named| format!("Signal {signal} ({named})"))
}

/// The last line that says something: indented ones are details of the one before.
pub fn last_line(text: &str) -> Option<String> {
    let line = text.lines().rev().find(|line| !line.trim().is_empty() && !line.starts_with(' '))?;
    let line = line.strip_prefix("quantix-vmm: ").unwrap_or(line);
    Some(line.chars().filter(|c| !c.is_control()).take(SHOWN).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_a_cause() {
        let none = Heard::default();
        let panicked = Heard { panicked: true, ..none };
        let shutdown = Heard { shutdown: true, ..none };
        let asked = Heard { stop_asked: true, ..none };
        let table = [
            (panicked, Exit::Status(1), ExitCause::GuestPanic),
            (shutdown, Exit::Status(0), ExitCause::GuestShutdown),
            (shutdown, Exit::Unknown, ExitCause::GuestShutdown),
            (Heard { shutdown: true, ..asked }, Exit::Status(0), ExitCause::Stopped),
            (asked, Exit::Signal(9), ExitCause::Stopped),
            (none, Exit::Signal(9), ExitCause::VmmKilled),
            (none, Exit::Status(0), ExitCause::GuestShutdown),
            (none, Exit::Status(2), ExitCause::VmmFailed),
            (none, Exit::Unknown, ExitCause::Lost),
        ];
        for (heard, how, cause) in table {
            assert_eq!(exit(heard, how, "").cause, cause, "{heard:?} {how:?}");
        }
        let killed = exit(none, Exit::Signal(9), "");
        assert_eq!((killed.message.as_str(), killed.signal), ("Signal 9 (SIGKILL) ended the VMM", Some(9)));
        let refused = exit(none, Exit::Status(2), "info\nquantix-vmm: --memory 5: too small\n  detail\n\n");
        assert_eq!(refused.message, "The VMM ended with status 2: --memory 5: too small");
    }
}
