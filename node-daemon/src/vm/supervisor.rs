//! One tokio task for each VM: the only one who moves that VM through its life. It looks each event up in the table of
//! `reconcile/lifecycle` and does what the row says. It never waits for a VMM: starts, calls and deletions are tasks beside
//! it that report back, so a VMM that hangs can still be switched off.

mod acts;
mod ends;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::entry::{Entry, LastBoot, Live, Request};
use super::exits::Heard;
use super::isolation::Expected;
use super::launch::{Exit, Launched};
use super::start::{self, Files, Started, Up};
use super::vsock;
use crate::model::{Failure, NewEvent};
use crate::reconcile::lifecycle::{self, Event, State};
use crate::reconcile::restart::Attempts;
use crate::telemetry::Timeline;

/// Messages that wait for a supervisor.
pub(super) const INBOX: usize = 64;
/// How long the guest has after the power button when the caller does not say.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// What comes to a supervisor.
#[derive(Debug)]
pub(super) enum Message {
    /// Somebody wants something.
    Request {
        /// What.
        request: Request,
        /// Who waits until it is done.
        reply: oneshot::Sender<Result<(), Failure>>,
    },
    /// Something happened in a run.
    News {
        /// Which run; news of an earlier one are stale.
        run: u64,
        /// What.
        news: News,
    },
}

/// What happens in a run.
#[derive(Debug)]
pub(super) enum News {
    /// The guest runs.
    Up(Box<Up>),
    /// It never did.
    NotUp(Failure),
    /// It ran, and was at its end before anybody could ask.
    Over(Exit),
    /// The guest stands still, or goes on.
    Saw(Event),
    /// The guest's kernel panicked.
    Panicked,
    /// The guest switched itself off.
    Shutdown,
    /// The process is gone.
    Ended(Exit),
    /// Everything of the VM is deleted, or not.
    Erased(Result<(), Failure>),
}

/// With what a supervisor begins.
#[derive(Debug)]
pub(super) enum Begin {
    /// In this state, for this reason.
    Rest(State, String),
    /// With a VMM of an earlier daemon; it may have to be stopped.
    Adopt {
        /// The process.
        launched: Box<Launched>,
        /// It should be off.
        stop: bool,
    },
    /// With the end of a run that nobody saw.
    Lost,
    /// With a deletion to be finished.
    Erase,
}

/// What somebody who waits wants to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goal {
    Up,
    Off,
    Deleted,
}

/// One run of the VMM, from the launch to the clean-up.
#[derive(Debug)]
struct Run {
    number: u64,
    /// Gives up a start that goes on.
    cancel: CancellationToken,
    live: Option<Live>,
    process: Option<Arc<Launched>>,
    heard: Heard,
    origin: Origin,
}

/// How a run came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Somebody asked for the start, and is told when it fails.
    Asked,
    /// The restart policy or the node's own start.
    Policy,
    /// An earlier daemon started it.
    Found,
}

/// The task's own state.
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    entry: Arc<Entry>,
    inbox: mpsc::Receiver<Message>,
    news: mpsc::Sender<Message>,
    state: State,
    run: Option<Run>,
    runs: u64,
    timer: Option<(Instant, Event)>,
    stop_patience: Duration,
    attempts: Attempts,
    waiting: Vec<(Goal, oneshot::Sender<Result<(), Failure>>)>,
    timeline: Option<Timeline>,
    /// Who asked for the next launch.
    origin: Origin,
    /// The wait before the next attempt, for `ArmBackoff`.
    backoff: Duration,
    over: bool,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        entry: Arc<Entry>,
        inbox: mpsc::Receiver<Message>,
        news: mpsc::Sender<Message>,
    ) -> Self {
        let state = entry.view().status.state;
        Self {
            shared,
            entry,
            inbox,
            news,
            state,
            run: None,
            runs: 0,
            timer: None,
            stop_patience: STOP_PATIENCE,
            attempts: Attempts::default(),
            waiting: Vec::new(),
            timeline: None,
            origin: Origin::Policy,
            backoff: Duration::ZERO,
            over: false,
        }
    }

    /// Runs until the VM is forgotten or the daemon ends.
    pub(super) async fn run(mut self, begin: Begin) {
        self.begin(begin).await;
        while !self.over {
            let timer = self.timer.map(|(at, _)| at);
            let fires = async {
                match timer {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.inbox.recv() => match message {
                    Some(Message::Request { request, reply }) => self.asked(request, reply).await,
                    Some(Message::News { run, news }) => self.hear(run, news).await,
                    None => return,
                },
                () = fires => {
                    if let Some((_, event)) = self.timer.take() {
                        self.happened(event, None, String::new()).await;
                    }
                }
                () = self.shared.shutdown.cancelled() => return,
            }
        }
    }

    async fn begin(&mut self, begin: Begin) {
        match begin {
            Begin::Rest(state, reason) => self.enter(state, reason),
            Begin::Adopt { launched, stop } => {
                self.enter(State::Starting, "Its VMM is being found again".to_owned());
                let record = Arc::new(self.entry.view().record().clone());
                let run = self.new_run(Origin::Found);
                let (shared, entry, cancel) = (self.shared.clone(), self.entry.clone(), run.cancel.clone());
                let number = run.number;
                self.run = Some(run);
                if stop {
                    // Whatever is heard of it now, it was asked for.
                    self.note_stop();
                }
                let adopt = async move { start::adopt(shared, entry, record, *launched, cancel).await };
                self.report(number, async { up_or_not(adopt.await) });
            }
            Begin::Lost => {
                self.enter(State::Starting, String::new());
                self.run = Some(self.new_run(Origin::Found));
                self.lost().await;
            }
            Begin::Erase => {
                self.enter(State::Stopped, String::new());
                self.happened(Event::Delete, None, String::new()).await;
            }
        }
    }

    /// A run with the next number.
    fn new_run(&mut self, origin: Origin) -> Run {
        self.runs += 1;
        let (number, cancel) = (self.runs, CancellationToken::new());
        Run { number, cancel, live: None, process: None, heard: Heard::default(), origin }
    }

    /// Does some work beside the supervisor, and reports what came of it.
    fn report(&self, run: u64, work: impl Future<Output = News> + Send + 'static) {
        let news = self.news.clone();
        tokio::spawn(async move {
            let told = work.await;
            // The supervisor may have ended with the daemon.
            let _ = news.send(Message::News { run, news: told }).await;
        });
    }

    async fn asked(&mut self, request: Request, reply: oneshot::Sender<Result<(), Failure>>) {
        if let Err(refusal) = lifecycle::request(self.state, request.event) {
            // `Made` and `NotMade` come by this way too, and only once.
            let name = self.entry.view().record().name.clone();
            let _ = reply.send(Err(Failure::precondition(format!("VM {name}: {refusal}"))));
            return;
        }
        if request.event == Event::Start && !self.state.has_process() {
            self.attempts = Attempts::default();
            self.timeline = request.timeline;
            self.origin = if request.for_node { Origin::Policy } else { Origin::Asked };
        }
        self.stop_patience = request.timeout.unwrap_or(STOP_PATIENCE);
        let goal = match request.event {
            Event::Start => Some(Goal::Up),
            Event::Stop | Event::Kill => Some(Goal::Off),
            Event::Delete => Some(Goal::Deleted),
            _ => None,
        };
        if matches!(request.event, Event::Stop | Event::Kill) {
            self.note_stop();
        }
        match goal {
            Some(goal) => {
                self.waiting.push((goal, reply));
                self.happened(request.event, None, String::new()).await;
            }
            None => self.happened(request.event, Some(reply), String::new()).await,
        }
    }

    async fn hear(&mut self, number: u64, news: News) {
        if self.run.as_ref().is_none_or(|run| run.number != number) && !matches!(news, News::Erased(_)) {
            return;
        }
        match news {
            News::Up(up) => self.up(*up).await,
            News::NotUp(failure) => self.not_up(failure).await,
            News::Saw(event) => self.happened(event, None, String::new()).await,
            News::Panicked => self.heard(|heard| heard.panicked = true),
            News::Shutdown => self.heard(|heard| heard.shutdown = true),
            News::Over(exit) | News::Ended(exit) => self.ended(exit).await,
            News::Erased(Ok(())) => self.happened(Event::Deleted, None, String::new()).await,
            News::Erased(Err(failure)) => self.happened(Event::NotDeleted, None, failure.chain()).await,
        }
    }

    fn heard(&mut self, note: impl FnOnce(&mut Heard)) {
        if let Some(run) = &mut self.run {
            note(&mut run.heard);
        }
    }

    fn note_stop(&mut self) {
        self.heard(|heard| heard.stop_asked = true);
    }

    /// The guest runs: takes the VMM over.
    async fn up(&mut self, up: Up) {
        let Some(run) = &mut self.run else { return };
        let Up { launched, client, events, paused, taps, started_with, broker, landlock, granted } = up;
        let live = Live {
            client: client.clone(),
            pid: launched.pid,
            launch: Arc::new(launched.record.clone()),
            started_with: started_with.clone(),
        };
        let process = Arc::new(launched);
        run.live = Some(live.clone());
        run.process = Some(process.clone());
        let (number, stop, cancel) = (run.number, run.heard.stop_asked, run.cancel.clone());
        let pid = live.pid;
        self.entry.set_live(Some(live));
        self.shared.promise(&self.entry.id, &started_with.spec);
        let mut record = process.record.clone();
        record.grants.extend(granted);
        let resource = self.entry.view().record().resource();
        self.shared.isolation.add(resource, Expected { record, landlock_reported: landlock });
        if let Some(broker) = broker {
            tokio::spawn(serve_vsock(broker, Files::new(&self.shared, &self.entry).directory().to_owned(), cancel));
        }
        if let Some(timeline) = self.timeline.take() {
            let marks = client.boot_timeline().await.map(|told| told.marks).unwrap_or_default();
            self.entry.set_boot(LastBoot { timeline, marks });
        }
        let record = self.entry.view();
        let restart_needed = !record.record().spec.same_run(&started_with.spec);
        self.entry.set_status(|status| {
            status.pid = Some(pid);
            status.taps = taps;
            status.restart_needed = restart_needed;
        });
        tokio::spawn(ends::watch(number, events, process, self.news.clone()));
        self.happened(if paused { Event::Paused } else { Event::Up }, None, String::new()).await;
        if stop && matches!(self.state, State::Running | State::Paused) {
            self.happened(Event::Stop, None, String::new()).await;
        }
    }

    /// Moves along the table. `reply`: who waits for the call to the VMM that a row may bring.
    async fn happened(
        &mut self,
        event: Event,
        mut reply: Option<oneshot::Sender<Result<(), Failure>>>,
        reason: String,
    ) {
        let Some(row) = lifecycle::transition(self.state, event) else {
            tracing::debug!(vm = %self.entry.id, "{event:?} means nothing while {}", self.state.word());
            return;
        };
        tracing::debug!(vm = %self.entry.id, "{event:?}: {:?} → {:?}", row.from, row.to);
        let changed = row.to != self.state;
        self.state = row.to;
        let mut calls = Vec::new();
        for action in row.actions {
            self.act(*action, &mut calls).await;
        }
        if changed {
            self.enter(row.to, reason.clone());
        }
        if !calls.is_empty() {
            self.call(calls, reply.take());
        }
        if let Some(reply) = reply {
            // The row asks nothing of the VMM: it is done.
            let _ = reply.send(Ok(()));
        }
        self.settle(&reason);
    }

    /// Shows the state and tells about it.
    fn enter(&mut self, state: State, reason: String) {
        self.state = state;
        let restarts = self.attempts.total();
        let told = reason.clone();
        self.entry.set_status(|status| {
            status.state = state;
            status.reason = reason;
            status.since = crate::model::Time::now();
            status.restarts = restarts;
            if state != State::Backoff {
                status.next_restart = None;
            }
            if !state.has_process() {
                status.pid = None;
                status.taps = Vec::new();
                status.restart_needed = false;
            }
        });
        let view = self.entry.view();
        let record = view.record();
        let sentence = |verb: &str| {
            let end = if told.is_empty() { String::new() } else { format!(": {told}") };
            format!("VM {} {verb}{end}", record.name)
        };
        let event = match state {
            State::Running => NewEvent::info("vm.state", sentence("runs")),
            State::Paused => NewEvent::info("vm.state", sentence("is paused")),
            State::Stopped => NewEvent::info("vm.state", sentence("is stopped")),
            State::Backoff => NewEvent::warning("vm.state", sentence("will be started again")),
            State::Failed => NewEvent::alarm("vm.state", sentence("has failed")),
            // These pass in moments, and each event is a write to disk.
            State::Creating | State::Starting | State::Stopping | State::Deleting => return,
        };
        self.shared.tell(event.on(record.resource()).with("state", format!("{state:?}").to_lowercase()));
    }

    /// Answers those whose wish has come true, or cannot any more.
    fn settle(&mut self, reason: &str) {
        let state = self.state;
        let name = self.entry.view().record().name.clone();
        let over = self.over;
        let outcome = |goal: Goal| -> Option<Result<(), Failure>> {
            let refuse = |what: &str| {
                let end = if reason.is_empty() { String::new() } else { format!(": {reason}") };
                Some(Err(Failure::precondition(format!("VM {name} {what}{end}"))))
            };
            match (goal, state) {
                (Goal::Deleted, State::Deleting) if over => Some(Ok(())),
                (Goal::Deleted, State::Failed) => refuse("was not deleted"),
                (Goal::Up, State::Running | State::Paused) | (Goal::Off, State::Stopped | State::Failed) => {
                    Some(Ok(()))
                }
                (Goal::Up, State::Starting) | (Goal::Off, State::Stopping) | (Goal::Deleted, _) => None,
                (Goal::Up, _) => refuse("was not started"),
                (Goal::Off, _) => refuse("was not stopped"),
            }
        };
        for (goal, reply) in std::mem::take(&mut self.waiting) {
            match outcome(goal) {
                // Who waited may have gone.
                Some(result) => drop(reply.send(result)),
                None => self.waiting.push((goal, reply)),
            }
        }
    }
}

/// Connects for the guest, until its VMM ends.
async fn serve_vsock(broker: OwnedFd, directory: PathBuf, over: CancellationToken) {
    let ports = vsock::Ports::new();
    tokio::select! {
        served = vsock::serve(broker, &directory, &ports) => if let Err(error) = served {
            tracing::warn!("A guest can start no connections any more: {error}");
        },
        () = over.cancelled() => {}
    }
}

/// The outcome of a start.
fn up_or_not(result: Result<Started, Failure>) -> News {
    match result {
        Ok(Started::Up(up)) => News::Up(up),
        Ok(Started::Over(exit)) => News::Over(exit),
        Err(failure) => News::NotUp(failure),
    }
}
