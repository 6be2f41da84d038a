//! Which answer belongs to which command: one table, from which the types are made.
//!
//! Pure; no thread, no socket.

use thiserror::Error;

use crate::v1::request::Command;
use crate::v1::response::Outcome;
use crate::v1::{
    AddFd, AttachConsole, BootTimeline, ConsoleAttached, ControlError, Done, ErrorCode, GetBootTimeline, GetInfo,
    GetStatistics, Info, Pause, PressPowerButton, Reset, Resume, SetBalloon, SetRateLimit, Statistics, Stop,
    SubscribeEvents, TakeFd,
};

/// A command whose answer is known by its type.
pub trait Call {
    /// The message that answers it.
    type Reply;
    /// How many descriptors ride along with the answer.
    const REPLY_FDS: usize;

    /// Wraps it for a request.
    fn into_command(self) -> Command;

    /// Takes the answer out of a response.
    ///
    /// # Errors
    /// [`CallError::Refused`] when the server said no, [`CallError::WrongAnswer`] when it answered something else.
    fn reply(outcome: Option<Outcome>, fds: usize) -> Result<Self::Reply, CallError>;
}

/// Why a call has no answer, as far as the protocol goes.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum CallError {
    /// The server refused, or it tried and failed.
    #[error("The machine refused: {}", .0.message)]
    Refused(ControlError),
    /// The server answered with a message, or with descriptors, that do not belong to the command.
    #[error("The machine's answer does not belong to the command")]
    WrongAnswer,
}

macro_rules! calls {
    ($($command:ident => $reply:ident + $fds:literal;)*) => {$(
        impl Call for $command {
            type Reply = $reply;
            const REPLY_FDS: usize = $fds;

            fn into_command(self) -> Command {
                Command::$command(self)
            }

            fn reply(outcome: Option<Outcome>, fds: usize) -> Result<$reply, CallError> {
                match outcome {
                    Some(Outcome::$reply(reply)) if fds == $fds => Ok(reply),
                    Some(Outcome::Error(error)) => Err(CallError::Refused(error)),
                    _ => Err(CallError::WrongAnswer),
                }
            }
        }
    )*};
}

// Command => the answer + how many descriptors come with it.
calls! {
    GetInfo => Info + 0;
    Pause => Done + 0;
    Resume => Done + 0;
    PressPowerButton => Done + 0;
    Reset => Done + 0;
    Stop => Done + 0;
    SetBalloon => Done + 0;
    SetRateLimit => Done + 0;
    AddFd => Done + 0;
    TakeFd => Done + 1;
    AttachConsole => ConsoleAttached + 0;
    SubscribeEvents => Done + 0;
    GetStatistics => Statistics + 0;
    GetBootTimeline => BootTimeline + 0;
}

impl ControlError {
    /// A refusal that blames no field.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), field: String::new() }
    }

    /// The same refusal, blaming the request's `field`.
    #[must_use]
    pub fn on(mut self, field: &str) -> Self {
        field.clone_into(&mut self.field);
        self
    }
}
