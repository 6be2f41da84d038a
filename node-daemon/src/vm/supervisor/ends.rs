//! How runs end: what a VMM tells, when its process is gone, and what comes after.

use std::sync::Arc;
use std::time::Duration;

use quantix_vmm_api::client::{EventStream, StreamItem};
use quantix_vmm_api::v1::{self, event::Kind};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use super::{Message, News, Origin, Supervisor};
use crate::model::vm::{ExitCause, VmExit};
use crate::model::{Failure, NewEvent};
use crate::reconcile::lifecycle::{Event, State};
use crate::reconcile::restart::{self, End, Reason, Verdict};
use crate::vm::entry::Change;
use crate::vm::exits;
use crate::vm::launch::{Exit, Launched, exit_of};
use crate::vm::start::Files;

/// How long the last events of a process that is gone may take to come out of its socket.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Follows one VMM to its end. A task beside the supervisor.
pub(super) async fn watch(run: u64, mut events: EventStream, process: Arc<Launched>, news: mpsc::Sender<Message>) {
    let tell = async |told: News| {
        // The supervisor may have ended with the daemon.
        let _ = news.send(Message::News { run, news: told }).await;
    };
    let exit = loop {
        tokio::select! {
            biased;
            item = events.next() => match item {
                Some(item) => if let Some(told) = meaning(item) { tell(told).await },
                None => break exit_of(&process.pidfd).await,
            },
            exit = exit_of(&process.pidfd) => {
                while let Ok(Some(item)) = tokio::time::timeout(LAST_EVENTS, events.next()).await {
                    if let Some(told) = meaning(item) {
                        tell(told).await;
                    }
                }
                break exit;
            }
        }
    };
    tell(News::Ended(exit.unwrap_or(Exit::Unknown))).await;
}

/// What an event of a VMM means for its VM.
fn meaning(item: StreamItem) -> Option<News> {
    let StreamItem::Event(event) = item else {
        // The phase is told by answers too, and an end by the process: what was lost is made up for.
        return None;
    };
    match event.kind? {
        Kind::PhaseChanged(change) => match change.to() {
            v1::Phase::Paused => Some(News::Saw(Event::Paused)),
            v1::Phase::Running if change.from() == v1::Phase::Paused => Some(News::Saw(Event::Resumed)),
            _ => None,
        },
        Kind::GuestPanicked(panic) if !panic.crash_loaded => Some(News::Panicked),
        Kind::GuestShutdown(_) => Some(News::Shutdown),
        Kind::DeviceFault(fault) => {
            let words: String = fault.message.chars().filter(|c| !c.is_control()).take(200).collect();
            tracing::warn!("A guest broke the rules of its device: {words}");
            None
        }
        _ => None,
    }
}

/// Since the machine was booted; does not go back, and counts sleep too.
fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

impl Supervisor {
    /// A start that came to nothing.
    pub(super) async fn not_up(&mut self, failure: Failure) {
        self.timeline = None;
        let origin = self.run.as_ref().map_or(Origin::Policy, |run| run.origin);
        let end = match origin {
            Origin::Asked => End::NotStarted,
            Origin::Policy => End::NotRestarted,
            // It ended while it was being found again.
            Origin::Found => End::Ran(ExitCause::Lost),
        };
        let adopted = origin == Origin::Found;
        let message = failure.chain();
        let exit = adopted.then(|| VmExit { message: message.clone(), ..exits::lost() });
        self.conclude(end, exit, message).await;
    }

    /// The end of a run that nobody saw.
    pub(super) async fn lost(&mut self) {
        let exit = exits::lost();
        let message = exit.message.clone();
        self.conclude(End::Ran(exit.cause), Some(exit), message).await;
    }

    /// The process is gone.
    pub(super) async fn ended(&mut self, how: Exit) {
        let heard = self.run.as_ref().map(|run| run.heard).unwrap_or_default();
        let exit = exits::exit(heard, how, &Files::new(&self.shared, &self.entry).last_words());
        let message = exit.message.clone();
        self.conclude(End::Ran(exit.cause), Some(exit), message).await;
    }

    /// Notes how it ended, and lets the policy say what comes after.
    async fn conclude(&mut self, end: End, exit: Option<VmExit>, message: String) {
        let view = self.entry.view();
        let record = view.record();
        let wanted = record.running && self.state != State::Stopping;
        let now = uptime();
        let verdict = restart::verdict(&record.spec.restart, wanted, end, &self.attempts, now);
        let (event, reason) = match verdict {
            Verdict::Off => (Event::EndedOff, message),
            Verdict::Again(wait) => {
                self.attempts.note(now);
                self.backoff = wait;
                (Event::EndedRetry, message)
            }
            Verdict::GiveUp(Reason::Exhausted(attempts)) => {
                let text =
                    format!("{message}; {attempts} attempts within ten minutes were in vain, so nothing more is tried");
                (Event::EndedForGood, text)
            }
            Verdict::GiveUp(Reason::Never | Reason::NotStarted) => (Event::EndedForGood, message),
        };
        let failed = (event == Event::EndedForGood && self.state != State::Stopping).then(|| reason.clone());
        if let Some(exit) = &exit {
            tracing::info!(vm = %self.entry.id, name = %record.name, cause = exit.cause.as_str(), "{}", exit.message);
        }
        self.note_end(event == Event::EndedOff, failed, exit).await;
        self.happened(event, None, reason).await;
    }

    /// One transaction for all that a run's end changes in the inventory.
    async fn note_end(&mut self, off: bool, failed: Option<String>, exit: Option<VmExit>) {
        let noted = self.entry.change(&self.shared.store, Change::Note, move |tx, record| {
            if off {
                record.running = false;
            }
            record.failed = failed;
            if let Some(exit) = exit {
                tx.event(exited(record.resource(), record.name.as_str(), &exit))?;
                record.last_exit = Some(exit);
            }
            Ok(())
        });
        if let Err(failure) = noted.await {
            // The disk is full, perhaps. The VM's life goes on; after a crash the next start finds the process gone.
            tracing::error!(vm = %self.entry.id, "How it ended could not be noted: {}", failure.chain());
        }
    }
}

fn exited(resource: crate::model::ResourceRef, name: &str, exit: &VmExit) -> NewEvent {
    let sentence = format!("VM {name} has ended: {}", exit.message);
    let event = match exit.cause {
        ExitCause::GuestShutdown | ExitCause::Stopped => NewEvent::info("vm.exited", sentence),
        ExitCause::GuestPanic | ExitCause::VmmFailed | ExitCause::VmmKilled | ExitCause::Lost => {
            NewEvent::warning("vm.exited", sentence)
        }
    };
    let mut event = event.on(resource).with("cause", exit.cause.as_str());
    if let Some(code) = exit.exit_code {
        event = event.with("exit_code", code);
    }
    if let Some(signal) = exit.signal {
        event = event.with("signal", signal);
    }
    event
}
