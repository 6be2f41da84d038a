//! A VM's life as one table: (state, event) → (state, actions). Pure; carried out by the VM's supervisor, the only one who
//! changes that VM.
//!
//! ```text
//!            Made                Start               Up
//!  Creating ──────► Stopped ───────────► Starting ─────────► Running ◄───────► Paused
//!     │ NotMade      ▲ │ ▲ ▲               ▲  │ │ Stop, Kill    │ │  Paused/Resumed │
//!     ▼              │ │ │ │ EndedOff      │  │ └──────────────►│ │ Stop, Kill      │
//!  (forgotten)  Stop,│ │ │ └───────────────┼──┼──── Stopping ◄──┘─┼─────────────────┘
//!                Kill│ │ │                 │  │                   │
//!                    │ │ └─ Stop, Kill ─┐  │  │ EndedRetry        │ EndedRetry
//!                    │ │ Delete         │  │  ▼                   ▼
//!                 Failed               Backoff ◄──────────────────┤
//!                    ▲ │                     BackoffOver, Start → Starting
//!                    │ │ Delete                                   │ EndedForGood
//!                    └─┼──────────────────────────────────────────┘
//!                      ▼
//!                   Deleting ── Deleted ──► (forgotten)
//!                      └─ NotDeleted ──► Failed
//! ```
//!
//! What is not in the table does not happen: a request is refused with [`Refusal`], anything else is stale news and is
//! ignored. "Forgotten" is no state: the supervisor ends.

use thiserror::Error;

use Action::{
    AbortStart, ArmBackoff, ArmStopTimer, CleanUp, DisarmTimer, Erase, Forget, Launch, Pause, PressButton, PullPlug,
    Reset, Resume,
};

/// Where a VM is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// Its volumes are being made.
    Creating,
    /// It is off.
    Stopped,
    /// Its VMM is being started, or found again.
    Starting,
    /// The guest runs.
    Running,
    /// The guest stands still.
    Paused,
    /// The power button was pressed, or the plug was pulled.
    Stopping,
    /// It ended and should not have; another attempt comes.
    Backoff,
    /// It ended or could not start, and nothing more is tried.
    Failed,
    /// It and what belongs to it is being deleted.
    Deleting,
}

impl State {
    /// All states.
    pub const ALL: [Self; 9] = [
        Self::Creating,
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Backoff,
        Self::Failed,
        Self::Deleting,
    ];

    /// The word for it in sentences and events.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Creating => "being created",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Backoff => "waiting to be started again",
            Self::Failed => "failed",
            Self::Deleting => "being deleted",
        }
    }

    /// Whether there is, or may be, a VMM process.
    pub const fn has_process(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Paused | Self::Stopping)
    }
}

/// What happens to a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody wants it on.
    Start,
    /// Somebody wants it off, and asks the guest for it.
    Stop,
    /// Somebody wants it off now.
    Kill,
    /// Somebody presses the reset button.
    Reset,
    /// Somebody wants it to stand still.
    Pause,
    /// Somebody wants it to go on.
    Resume,
    /// Somebody wants it gone.
    Delete,
    /// Its volumes are there.
    Made,
    /// They could not be made, and nothing is left of them.
    NotMade,
    /// The guest runs.
    Up,
    /// The guest stands still.
    Paused,
    /// The guest goes on.
    Resumed,
    /// There is no VMM any more, and the VM shall be off.
    EndedOff,
    /// There is no VMM any more, and there shall be one again after a wait.
    EndedRetry,
    /// There is no VMM any more, and nothing more is tried.
    EndedForGood,
    /// The guest is still there after the time that it was given.
    ButtonIgnored,
    /// The wait before the next attempt is over.
    BackoffOver,
    /// Nothing is left of it.
    Deleted,
    /// Something is left of it.
    NotDeleted,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 19] = [
        Self::Start,
        Self::Stop,
        Self::Kill,
        Self::Reset,
        Self::Pause,
        Self::Resume,
        Self::Delete,
        Self::Made,
        Self::NotMade,
        Self::Up,
        Self::Paused,
        Self::Resumed,
        Self::EndedOff,
        Self::EndedRetry,
        Self::EndedForGood,
        Self::ButtonIgnored,
        Self::BackoffOver,
        Self::Deleted,
        Self::NotDeleted,
    ];

    /// For a request, what the caller wanted to do: "started", "paused", …; [`None`] for what just happens.
    pub const fn request(self) -> Option<&'static str> {
        match self {
            Self::Start => Some("started"),
            Self::Stop | Self::Kill => Some("stopped"),
            Self::Reset => Some("reset"),
            Self::Pause => Some("paused"),
            Self::Resume => Some("resumed"),
            Self::Delete => Some("deleted"),
            _ => None,
        }
    }
}

/// What the supervisor does on a transition, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Admit it, gather its resources, start its VMM.
    Launch,
    /// Give up the start that goes on; its VMM, if there is one already, is killed.
    AbortStart,
    /// Ask the guest to switch itself off.
    PressButton,
    /// Give the guest its time, then say [`Event::ButtonIgnored`].
    ArmStopTimer,
    /// End the VMM: by its control socket, and by a signal when it does not listen.
    PullPlug,
    /// Reset the guest.
    Reset,
    /// Make the guest stand still.
    Pause,
    /// Let the guest go on.
    Resume,
    /// Wait, then say [`Event::BackoffOver`].
    ArmBackoff,
    /// Forget the wait.
    DisarmTimer,
    /// Give back what the run had: taps, sockets, what was promised to it.
    CleanUp,
    /// Delete what belongs to it, then say [`Event::Deleted`] or [`Event::NotDeleted`].
    Erase,
    /// Take it out of the inventory. The supervisor ends.
    Forget,
}

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// In this state
    pub from: State,
    /// this event
    pub on: Event,
    /// leads to this state
    pub to: State,
    /// with these actions.
    pub actions: &'static [Action],
}

const fn row(from: State, on: Event, to: State, actions: &'static [Action]) -> Row {
    Row { from, on, to, actions }
}

/// The table. Each pair of state and event has at most one row.
pub const TABLE: &[Row] = &[
    row(State::Creating, Event::Made, State::Stopped, &[]),
    row(State::Creating, Event::NotMade, State::Deleting, &[Forget]),
    //
    row(State::Stopped, Event::Start, State::Starting, &[Launch]),
    row(State::Stopped, Event::Stop, State::Stopped, &[]),
    row(State::Stopped, Event::Kill, State::Stopped, &[]),
    row(State::Stopped, Event::Delete, State::Deleting, &[Erase]),
    //
    row(State::Starting, Event::Start, State::Starting, &[]),
    row(State::Starting, Event::Stop, State::Stopping, &[AbortStart]),
    row(State::Starting, Event::Kill, State::Stopping, &[AbortStart]),
    row(State::Starting, Event::Up, State::Running, &[]),
    row(State::Starting, Event::Paused, State::Paused, &[]),
    row(State::Starting, Event::EndedOff, State::Stopped, &[CleanUp]),
    row(State::Starting, Event::EndedRetry, State::Backoff, &[CleanUp, ArmBackoff]),
    row(State::Starting, Event::EndedForGood, State::Failed, &[CleanUp]),
    //
    row(State::Running, Event::Start, State::Running, &[]),
    row(State::Running, Event::Stop, State::Stopping, &[PressButton, ArmStopTimer]),
    row(State::Running, Event::Kill, State::Stopping, &[PullPlug]),
    row(State::Running, Event::Reset, State::Running, &[Reset]),
    row(State::Running, Event::Pause, State::Running, &[Pause]),
    row(State::Running, Event::Resume, State::Running, &[]),
    row(State::Running, Event::Paused, State::Paused, &[]),
    row(State::Running, Event::EndedOff, State::Stopped, &[CleanUp]),
    row(State::Running, Event::EndedRetry, State::Backoff, &[CleanUp, ArmBackoff]),
    row(State::Running, Event::EndedForGood, State::Failed, &[CleanUp]),
    //
    // A paused guest does not see its button.
    row(State::Paused, Event::Stop, State::Stopping, &[Resume, PressButton, ArmStopTimer]),
    row(State::Paused, Event::Kill, State::Stopping, &[PullPlug]),
    row(State::Paused, Event::Pause, State::Paused, &[]),
    row(State::Paused, Event::Resume, State::Paused, &[Resume]),
    row(State::Paused, Event::Resumed, State::Running, &[]),
    row(State::Paused, Event::EndedOff, State::Stopped, &[CleanUp]),
    row(State::Paused, Event::EndedRetry, State::Backoff, &[CleanUp, ArmBackoff]),
    row(State::Paused, Event::EndedForGood, State::Failed, &[CleanUp]),
    //
    // Pressed again: some guests need it twice. The time begins anew.
    row(State::Stopping, Event::Stop, State::Stopping, &[PressButton, ArmStopTimer]),
    row(State::Stopping, Event::Kill, State::Stopping, &[DisarmTimer, PullPlug]),
    row(State::Stopping, Event::ButtonIgnored, State::Stopping, &[PullPlug]),
    // However it ends now, off is what was asked for.
    row(State::Stopping, Event::EndedOff, State::Stopped, &[DisarmTimer, CleanUp]),
    row(State::Stopping, Event::EndedRetry, State::Stopped, &[DisarmTimer, CleanUp]),
    row(State::Stopping, Event::EndedForGood, State::Stopped, &[DisarmTimer, CleanUp]),
    //
    row(State::Backoff, Event::Start, State::Starting, &[DisarmTimer, Launch]),
    row(State::Backoff, Event::Stop, State::Stopped, &[DisarmTimer]),
    row(State::Backoff, Event::Kill, State::Stopped, &[DisarmTimer]),
    row(State::Backoff, Event::BackoffOver, State::Starting, &[Launch]),
    row(State::Backoff, Event::Delete, State::Deleting, &[DisarmTimer, Erase]),
    //
    row(State::Failed, Event::Start, State::Starting, &[Launch]),
    row(State::Failed, Event::Stop, State::Stopped, &[]),
    row(State::Failed, Event::Kill, State::Stopped, &[]),
    row(State::Failed, Event::Delete, State::Deleting, &[Erase]),
    //
    row(State::Deleting, Event::Deleted, State::Deleting, &[Forget]),
    row(State::Deleting, Event::NotDeleted, State::Failed, &[]),
];

/// The row for an event in a state; [`None`] when there is none.
pub fn transition(from: State, on: Event) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.from == from && row.on == on)
}

/// A request that is not possible now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it cannot be {wanted} while it is {}{}", state.word(), advice.map(|a| format!("; {a}")).unwrap_or_default())]
pub struct Refusal {
    /// What was asked for, as a participle.
    pub wanted: &'static str,
    /// The state that it is in.
    pub state: State,
    /// What to do instead.
    pub advice: Option<&'static str>,
}

/// Whether a request is possible in a state.
///
/// # Errors
/// [`Refusal`] says what to do instead.
pub fn request(state: State, event: Event) -> Result<&'static Row, Refusal> {
    transition(state, event).ok_or_else(|| {
        let advice = match (state, event) {
            (State::Paused, Event::Start | Event::Reset) => Some("resume it"),
            (State::Creating | State::Starting, _) => Some("wait for its task to end"),
            (State::Stopping, _) => Some("wait until it has stopped"),
            (State::Running | State::Paused, Event::Delete) => Some("stop it first, or delete it with force"),
            (State::Stopped | State::Failed | State::Backoff, _) => Some("start it first"),
            _ => None,
        };
        Refusal { wanted: event.request().unwrap_or("changed"), state, advice }
    })
}

#[cfg(test)]
mod tests;
