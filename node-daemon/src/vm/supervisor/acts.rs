//! What a supervisor does on a transition: one arm for each action of the table.

use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{News, Origin, Supervisor, up_or_not};
use crate::model::vm::{Begun, VmRecord};
use crate::model::{Failure, FailureKind, NewEvent, Time};
use crate::reconcile::lifecycle::{Action, Event};
use crate::telemetry::Timeline;
use crate::vm::Shared;
use crate::vm::entry::{Change, Entry, Live};
use crate::vm::launch::{Launched, exit_of};
use crate::vm::start::{self, Files};

/// How long a VMM has to end by itself when its plug is pulled.
const PULLED: Duration = Duration::from_secs(2);
/// How long giving back what a run had may take.
const CLEANED: Duration = Duration::from_secs(20);

/// What a VMM is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Press,
    PullPlug,
    Reset,
    Pause,
    Resume,
}

impl Supervisor {
    /// Does one action; calls to the VMM are only gathered, because their order counts and they may take long.
    pub(super) async fn act(&mut self, action: Action, calls: &mut Vec<Call>) {
        match action {
            Action::Launch => self.launch(),
            Action::AbortStart => {
                if let Some(run) = &self.run {
                    run.cancel.cancel();
                }
            }
            Action::PressButton => calls.push(Call::Press),
            Action::ArmStopTimer => {
                // A caller's patience of a thousand years is none of the clock's business.
                let at = Instant::now().checked_add(self.stop_patience);
                self.timer = at.map(|at| (at, Event::ButtonIgnored));
            }
            Action::PullPlug => calls.push(Call::PullPlug),
            Action::Reset => calls.push(Call::Reset),
            Action::Pause => calls.push(Call::Pause),
            Action::Resume => calls.push(Call::Resume),
            Action::ArmBackoff => {
                self.timer = Some((Instant::now() + self.backoff, Event::BackoffOver));
                let micros = i64::try_from(self.backoff.as_micros()).unwrap_or(i64::MAX);
                let next = Time::from_micros(Time::now().micros().saturating_add(micros));
                self.entry.set_status(|status| status.next_restart = Some(next));
            }
            Action::DisarmTimer => self.timer = None,
            Action::CleanUp => self.clean_up().await,
            Action::Erase => {
                let (shared, entry) = (self.shared.clone(), self.entry.clone());
                self.report(self.runs, async move { News::Erased(erase(&shared, &entry).await) });
            }
            Action::Forget => {
                self.shared.forget(&self.entry);
                self.over = true;
            }
        }
    }

    fn launch(&mut self) {
        let origin = std::mem::replace(&mut self.origin, Origin::Policy);
        let run = self.new_run(origin);
        let (number, cancel) = (run.number, run.cancel.clone());
        self.run = Some(run);
        let timeline = self.timeline.get_or_insert_with(Timeline::begin).clone();
        let (shared, entry) = (self.shared.clone(), self.entry.clone());
        let record = Arc::new(entry.view().record().clone());
        let work = async move { up_or_not(start::start(shared, entry, record, timeline, cancel).await) };
        self.report(number, work);
    }

    /// Tells the VMM, beside the supervisor, and then whoever asked.
    pub(super) fn call(&self, calls: Vec<Call>, reply: Option<oneshot::Sender<Result<(), Failure>>>) {
        let Some((live, process)) = self.run.as_ref().and_then(|run| Some((run.live.clone()?, run.process.clone()?)))
        else {
            if let Some(reply) = reply {
                let _ = reply.send(Err(Failure::unavailable("The VMM cannot be reached now: try again")));
            }
            return;
        };
        let (number, news) = (self.runs, self.news.clone());
        tokio::spawn(async move {
            let mut result = Ok(());
            for call in calls {
                match carry_out(call, &live, &process).await {
                    Ok(None) => {}
                    Ok(Some(event)) => {
                        // The supervisor may have ended with the daemon.
                        let _ = news.send(super::Message::News { run: number, news: News::Saw(event) }).await;
                    }
                    Err(failure) => {
                        tracing::warn!(pid = live.pid, "{call:?}: {}", failure.chain());
                        result = Err(failure);
                    }
                }
            }
            if let Some(reply) = reply {
                let _ = reply.send(result);
            }
        });
    }

    /// Gives back what the run had. Awaited: the next launch must find nothing of this one.
    async fn clean_up(&mut self) {
        if let Some(run) = self.run.take() {
            run.cancel.cancel();
        }
        self.entry.set_live(None);
        self.shared.isolation.remove(&self.entry.id);
        self.entry.console.detach();
        let files = Files::new(&self.shared, &self.entry);
        let id = &self.entry.id;
        let work = async {
            if let Err(failure) = self.shared.resources.unplug(id).await {
                tracing::error!(vm = %id, "NICs stay plugged in: {}", failure.chain());
            }
            files.remove_run();
            self.shared.launcher.clean(id).await;
        };
        if tokio::time::timeout(CLEANED, work).await.is_err() {
            tracing::error!(vm = %id, "Cleaning up did not end within {} s and is left", CLEANED.as_secs());
        }
        self.shared.release(id);
    }
}

/// One call. Returns what is known by its answer.
async fn carry_out(call: Call, live: &Live, process: &Launched) -> Result<Option<Event>, Failure> {
    let client = &live.client;
    match call {
        Call::Press => client.press_power_button().await?,
        Call::PullPlug => pull_plug(live, process).await?,
        Call::Reset => client.reset().await?,
        Call::Pause => {
            client.pause().await?;
            return Ok(Some(Event::Paused));
        }
        Call::Resume => {
            client.resume().await?;
            return Ok(Some(Event::Resumed));
        }
    }
    Ok(None)
}

/// Ends a VMM: it is told, and killed when it does not listen.
async fn pull_plug(live: &Live, process: &Launched) -> Result<(), Failure> {
    let told = async {
        // What it answers does not matter: it ends, or it is killed.
        let _ = live.client.stop().await;
        exit_of(&process.pidfd).await
    };
    if matches!(tokio::time::timeout(PULLED, told).await, Ok(Ok(_))) {
        return Ok(());
    }
    match pidfd_send_signal(&process.pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(Failure::internal("The VMM cannot be killed", std::io::Error::from(errno))),
    }
}

/// Deletes everything that belongs to a VM, and its record last. Can be done again after a crash in between.
async fn erase(shared: &Shared, entry: &Entry) -> Result<(), Failure> {
    let record: VmRecord = entry.view().record().clone();
    if record.begun == Begun::Nothing {
        entry
            .change(&shared.store, Change::Note, |_, record| {
                record.begun = Begun::Deletion;
                record.running = false;
                Ok(())
            })
            .await?;
    }
    for volume in &record.made_volumes {
        shared.resources.delete_volume(volume).await?;
    }
    let files = Files::new(shared, entry);
    files.remove_run();
    shared.launcher.clean(&entry.id).await;
    files.remove_logs();
    let id = entry.id.clone();
    let created = record.begun != Begun::Creation;
    let deleted = shared.store.write(move |tx| {
        let gone = tx.delete::<VmRecord>(&id, None)?.record;
        if created {
            tx.event(NewEvent::info("vm.deleted", format!("VM {} was deleted", gone.name)).on(gone.resource()))?;
        }
        Ok(())
    });
    match deleted.await {
        Err(failure) if failure.kind() == FailureKind::NotFound => Ok(()),
        other => other,
    }
}
