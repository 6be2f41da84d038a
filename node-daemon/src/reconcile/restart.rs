//! What comes after the end of a run: nothing, another attempt after a wait, or giving up. Pure.
//!
//! An attempt counts for ten minutes. The wait doubles with every attempt that still counts, so a VM that stays up for ten
//! minutes begins anew with the shortest wait.

use std::time::Duration;

use crate::model::vm::{ExitCause, RestartMode, RestartPolicy};

/// How long an attempt counts.
pub const WINDOW: Duration = Duration::from_mins(10);
/// The longest wait.
pub const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// The attempts that the policy made since somebody started the VM; times are on any clock that does not go back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attempts {
    recent: Vec<Duration>,
    total: u32,
}

impl Attempts {
    /// How many there were in all.
    pub fn total(&self) -> u32 {
        self.total
    }

    /// Notes one.
    pub fn note(&mut self, now: Duration) {
        self.recent.retain(|at| now.saturating_sub(*at) < WINDOW);
        self.recent.push(now);
        self.total = self.total.saturating_add(1);
    }

    fn counting(&self, now: Duration) -> u32 {
        let count = self.recent.iter().filter(|at| now.saturating_sub(**at) < WINDOW).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

/// How a run ended, as far as the policy cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The guest had been running.
    Ran(ExitCause),
    /// It never came up, and somebody is waiting for the answer.
    NotStarted,
    /// It never came up when the policy or the node tried.
    NotRestarted,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It stays off, as it should.
    Off,
    /// It is started again after so long.
    Again(Duration),
    /// It should run and will not be tried again.
    GiveUp(Reason),
}

/// Why nothing more is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The policy forbids it.
    Never,
    /// So many attempts were made within the window.
    Exhausted(u32),
    /// Whoever started it has been told.
    NotStarted,
}

/// What comes after `end`. `wanted`: it shall be on.
pub fn verdict(policy: &RestartPolicy, wanted: bool, end: End, attempts: &Attempts, now: Duration) -> Verdict {
    let powered_off = matches!(end, End::Ran(ExitCause::GuestShutdown | ExitCause::Stopped));
    match (policy.mode, end) {
        _ if !wanted => return Verdict::Off,
        (_, End::NotStarted) => return Verdict::GiveUp(Reason::NotStarted),
        (RestartMode::OnFailure | RestartMode::Never, _) if powered_off => return Verdict::Off,
        (RestartMode::Never, _) => return Verdict::GiveUp(Reason::Never),
        (RestartMode::OnFailure | RestartMode::Always, _) => {}
    }
    let made = attempts.counting(now);
    if made >= policy.max_attempts {
        return Verdict::GiveUp(Reason::Exhausted(made));
    }
    Verdict::Again(wait(policy.backoff, made))
}

/// The wait after so many attempts.
fn wait(first: Duration, made: u32) -> Duration {
    let factor = 1_u32.checked_shl(made).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn policy(mode: RestartMode) -> RestartPolicy {
        RestartPolicy { mode, max_attempts: 3, backoff: SECOND }
    }

    #[test]
    fn each_mode_after_each_end() {
        use ExitCause::{GuestPanic, GuestShutdown, Lost, Stopped, VmmFailed, VmmKilled};
        use RestartMode::{Always, Never, OnFailure};
        let again = Verdict::Again(SECOND);
        let never = Verdict::GiveUp(Reason::Never);
        let told = Verdict::GiveUp(Reason::NotStarted);
        let table = [
            // end, wanted, never, on failure, always
            (End::Ran(GuestShutdown), true, Verdict::Off, Verdict::Off, again),
            (End::Ran(Stopped), true, Verdict::Off, Verdict::Off, again),
            (End::Ran(GuestPanic), true, never, again, again),
            (End::Ran(VmmFailed), true, never, again, again),
            (End::Ran(VmmKilled), true, never, again, again),
            (End::Ran(Lost), true, never, again, again),
            (End::NotStarted, true, told, told, told),
            (End::NotRestarted, true, never, again, again),
            (End::Ran(GuestPanic), false, Verdict::Off, Verdict::Off, Verdict::Off),
            (End::Ran(Stopped), false, Verdict::Off, Verdict::Off, Verdict::Off),
            (End::NotStarted, false, Verdict::Off, Verdict::Off, Verdict::Off),
        ];
        for (end, wanted, in_never, in_failure, in_always) in table {
            for (mode, expected) in [(Never, in_never), (OnFailure, in_failure), (Always, in_always)] {
                let found = verdict(&policy(mode), wanted, end, &Attempts::default(), SECOND);
                assert_eq!(found, expected, "{mode:?} {end:?} {wanted}");
            }
        }
    }

    #[test]
    fn the_wait_doubles_and_attempts_run_out_and_come_back() {
        let policy = policy(RestartMode::OnFailure);
        let mut attempts = Attempts::default();
        let mut now = SECOND;
        let ended = |attempts: &mut Attempts, now: Duration| {
            let verdict = verdict(&policy, true, End::Ran(ExitCause::VmmKilled), attempts, now);
            if let Verdict::Again(_) = verdict {
                attempts.note(now);
            }
            verdict
        };
        for seconds in [1, 2, 4] {
            assert_eq!(ended(&mut attempts, now), Verdict::Again(SECOND * seconds));
            now += SECOND;
        }
        assert_eq!(ended(&mut attempts, now), Verdict::GiveUp(Reason::Exhausted(3)));
        now += WINDOW;
        assert_eq!(ended(&mut attempts, now), Verdict::Again(SECOND));
        assert_eq!(attempts.total(), 4);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_five_minutes_and_none_is_shorter_than_the_last(
            first in 0_u64..400, made in 0_u32..100
        ) {
            let first = Duration::from_secs(first);
            prop_assert!(wait(first, made) <= LONGEST_WAIT);
            prop_assert!(wait(first, made) <= wait(first, made + 1));
        }
    }
}
