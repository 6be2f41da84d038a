//! The table, spelt out a second time as a matrix, and what must hold for every way through it.

use std::collections::{BTreeSet, HashSet};

use proptest::prelude::*;

use super::*;

/// One row an event, one column a state (in the order of `State::ALL`): the first letter of the state that follows, with `K` for
/// Backoff, `P` for Paused, `G` for Stopping, `D` for Deleting, `.` for none.
const MATRIX: &str = "
                C S T R P G K F D
    Start       . T T R . . T T .
    Stop        . S G G G G S S .
    Kill        . S G G G G S S .
    Reset       . . . R . . . . .
    Pause       . . . R P . . . .
    Resume      . . . R P . . . .
    Delete      . D . . . . D D .
    Made        S . . . . . . . .
    NotMade     D . . . . . . . .
    Up          . . R . . . . . .
    Paused      . . P P . . . . .
    Resumed     . . . . R . . . .
    EndedOff    . . S S S S . . .
    EndedRetry  . . K K K S . . .
    EndedForGood . . F F F S . . .
    ButtonIgnored . . . . . G . . .
    BackoffOver . . . . . . T . .
    Deleted     . . . . . . . . D
    NotDeleted  . . . . . . . . F
";

fn letter(state: State) -> char {
    match state {
        State::Creating => 'C',
        State::Stopped => 'S',
        State::Starting => 'T',
        State::Running => 'R',
        State::Paused => 'P',
        State::Stopping => 'G',
        State::Backoff => 'K',
        State::Failed => 'F',
        State::Deleting => 'D',
    }
}

#[test]
fn every_state_with_every_event() {
    let mut lines = MATRIX.lines().map(str::split_whitespace).skip(2);
    for event in Event::ALL {
        let mut words = lines.next().expect("a line for each event");
        assert_eq!(words.next(), Some(format!("{event:?}").as_str()));
        for state in State::ALL {
            let found = transition(state, event).map_or('.', |row| letter(row.to)).to_string();
            assert_eq!(words.next(), Some(found.as_str()), "{event:?} in {state:?}");
        }
    }
}

#[test]
fn no_pair_has_two_rows() {
    let mut seen = HashSet::new();
    assert!(TABLE.iter().all(|row| seen.insert((row.from, row.on))));
}

#[test]
fn every_state_but_creating_can_come_to_deleting_and_every_row_is_reachable() {
    let mut reached = BTreeSet::from([State::Creating]);
    while let Some(row) = TABLE.iter().find(|row| reached.contains(&row.from) && !reached.contains(&row.to)) {
        reached.insert(row.to);
    }
    assert_eq!(reached, BTreeSet::from(State::ALL));
    for start in State::ALL {
        let mut reached = BTreeSet::from([start]);
        while let Some(row) = TABLE.iter().find(|row| reached.contains(&row.from) && !reached.contains(&row.to)) {
            reached.insert(row.to);
        }
        assert!(reached.contains(&State::Deleting), "{start:?}");
    }
}

#[test]
fn a_refusal_says_what_to_do() {
    let refusal = request(State::Running, Event::Delete).unwrap_err().to_string();
    assert_eq!(refusal, "it cannot be deleted while it is running; stop it first, or delete it with force");
    let refusal = request(State::Paused, Event::Start).unwrap_err().to_string();
    assert_eq!(refusal, "it cannot be started while it is paused; resume it");
    for state in State::ALL {
        for event in Event::ALL.into_iter().filter(|event| event.request().is_some()) {
            if let Err(refusal) = request(state, event) {
                assert!(refusal.advice.is_some() || state == State::Deleting, "{event:?} in {state:?}");
            }
        }
    }
}

/// What a VM has besides its state, as far as actions change it.
#[derive(Debug, Default)]
struct World {
    run: bool,
    timer: bool,
}

impl World {
    /// Does what the supervisor would, and says what must never happen.
    fn act(&mut self, action: Action) {
        match action {
            Launch => {
                assert!(!self.run, "a second VMM");
                self.run = true;
            }
            AbortStart | PressButton | PullPlug | Reset | Pause | Resume => {
                assert!(self.run, "{action:?} without a VMM");
            }
            ArmStopTimer => {
                assert!(self.run, "a stop timer without a VMM");
                self.timer = true;
            }
            ArmBackoff => {
                assert!(!self.run && !self.timer, "a wait beside a VMM or another wait");
                self.timer = true;
            }
            DisarmTimer => self.timer = false,
            CleanUp => {
                assert!(self.run, "nothing to clean up");
                self.run = false;
            }
            Erase | Forget => assert!(!self.run && !self.timer, "deleted while something is left"),
        }
    }
}

proptest! {
    /// Whatever happens in whatever order: one VMM at most, none is left behind, and no timer outlives its reason.
    #[test]
    fn no_order_of_events_breaks_the_rules(events in proptest::collection::vec(0..Event::ALL.len(), 0..60)) {
        let mut state = State::Creating;
        let mut world = World::default();
        for index in events {
            let event = Event::ALL[index];
            // A timer that is not armed does not fire.
            if matches!(event, Event::ButtonIgnored | Event::BackoffOver) && !world.timer {
                continue;
            }
            let Some(row) = transition(state, event) else { continue };
            if matches!(event, Event::ButtonIgnored | Event::BackoffOver) {
                world.timer = false;
            }
            row.actions.iter().for_each(|action| world.act(*action));
            state = row.to;
            prop_assert_eq!(world.run, state.has_process(), "{:?} after {:?}", state, event);
            if !matches!(state, State::Stopping | State::Backoff) {
                prop_assert!(!world.timer, "a timer in {:?} after {:?}", state, event);
            }
        }
    }
}
