//! `VmService`: VMs, from making them to looking at their console. Async runtime. Handlers convert and call; what happens to a
//! VM is decided and done in `vm/`.

mod changes;
mod check;
mod check_devices;
mod console;
mod mask;
mod statistics;
#[cfg(test)]
mod tests;
mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use quantix_api::v1;
use quantix_api::v1::vm_service_server::VmService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::begin::Begin;
use super::{answer, duration};
use crate::console::tail;
use crate::daemon::Rooms;
use crate::model::vm::{Begun, VmRecord};
use crate::model::{Caller, Failure, FailureKind, Fingerprint, Name, Network, Page, Time};
use crate::reconcile::lifecycle::{Event, State};
use crate::storage::Storage;
use crate::store::{Record as _, Store, parse_etag};
use crate::tasks::Tasks;
use crate::telemetry::{Moment, Timeline};
use crate::vm::making::{NewVm, reserve, reserve_copy};
use crate::vm::{Change, Entry, View, Vms};

/// How much of a log an answer has when the request does not say, and at most, in bytes.
const LOG_BYTES: u32 = 64 << 10;
const LOG_BYTES_MAX: u32 = 1 << 20;
/// How often counters are sent when the request does not say, and at most.
const INTERVAL: Duration = Duration::from_secs(1);
const INTERVAL_MIN: Duration = Duration::from_millis(100);

/// The service.
#[derive(Clone)]
pub struct VmRpc {
    vms: Vms,
    store: Store,
    tasks: Tasks,
    storage: Storage,
}

impl VmRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self {
            vms: rooms.vms.clone(),
            store: rooms.store.clone(),
            tasks: rooms.tasks.clone(),
            storage: rooms.storage.clone(),
        }
    }

    /// VMs with what others know of them.
    async fn shown(&self, views: &[Arc<View>]) -> Result<Vec<v1::Vm>, Failure> {
        let mut around = wire::Surroundings::default();
        if views.iter().any(|view| !view.record().spec.nics.is_empty()) {
            let networks = self.store.read(|tx| tx.all::<Network>()).await?;
            around.networks =
                networks.into_iter().map(|stored| (stored.record.id, stored.record.name.to_string())).collect();
        }
        for nic in views.iter().flat_map(|view| &view.record().spec.nics) {
            if let Some(mac) = nic.mac {
                let addresses = self.vms.resources().addresses(mac).await;
                around.addresses.insert(mac, addresses.iter().map(ToString::to_string).collect());
            }
        }
        Ok(views.iter().map(|view| wire::vm(view, &around)).collect())
    }

    async fn one(&self, entry: &Entry) -> Result<v1::Vm, Failure> {
        let mut shown = self.shown(&[entry.view()]).await?;
        shown.pop().ok_or_else(|| Failure::bug("A VM is not shown"))
    }

    async fn list(&self, request: v1::ListVmsRequest) -> Result<v1::ListVmsResponse, Failure> {
        let labels = request.labels;
        let page = Page::parse(request.page_size, &request.page_token, format!("vms?{labels:?}"))?;
        let fits = |view: &View| labels.iter().all(|(key, value)| view.record().labels.get(key) == Some(value));
        let mut count = 0;
        let mut found = self.vms.after(page.after(), |view| {
            count += usize::from(fits(view));
            count <= page.size()
        });
        found.retain(|view| fits(view));
        let cut = page.cut(found, |view| view.record().name.to_string());
        Ok(v1::ListVmsResponse { vms: self.shown(&cut.items).await?, next_page_token: cut.next })
    }

    async fn create(&self, mut request: v1::CreateVmRequest, caller: Caller) -> Result<v1::Task, Failure> {
        let timeline = Timeline::begin();
        let span = timeline.span("validate");
        duration("wait", request.wait)?;
        let (wait, request_id) = (request.wait.take(), std::mem::take(&mut request.request_id));
        let fingerprint = Fingerprint::of(&request);
        let new = new_vm(&request)?;
        span.end();
        if request.validate_only {
            return self.validate(new, &caller).await;
        }
        let start = request.start.then(|| timeline.clone());
        let span = timeline.span("store");
        let begin = self.begin(caller, "CreateVm", request_id, fingerprint);
        let (vms, storage) = (self.vms.clone(), self.storage.clone());
        let task = begin
            .run(
                move |tx| {
                    let reserved = reserve(tx, new)?;
                    Ok((reserved.record().resource(), reserved))
                },
                move |reserved, context| vms.make(storage, reserved, start, context),
            )
            .await?;
        span.end();
        answer(&self.tasks, &task, wait).await
    }

    /// Checks everything in a transaction that is taken back.
    async fn validate(&self, new: NewVm, caller: &Caller) -> Result<v1::Task, Failure> {
        let valid = || Failure::cancelled("valid");
        let result = self.store.write(move |tx| reserve(tx, new).and_then(|_| Err::<(), _>(valid()))).await;
        match result {
            Err(failure) if failure.kind() == FailureKind::Cancelled => Ok(v1::Task {
                kind: "CreateVm".to_owned(),
                state: v1::TaskState::Succeeded.into(),
                step: "Everything is valid; nothing was changed".to_owned(),
                user: caller.name.clone(),
                create_time: Some(Time::now().into()),
                ..v1::Task::default()
            }),
            Err(failure) => Err(failure),
            Ok(()) => Err(Failure::bug("A check has changed something")),
        }
    }

    fn begin(&self, caller: Caller, method: &'static str, request_id: String, fingerprint: Fingerprint) -> Begin<'_> {
        Begin { store: &self.store, tasks: &self.tasks, caller, method, request_id, fingerprint }
    }

    async fn start(&self, mut request: v1::StartVmRequest, caller: Caller) -> Result<v1::Task, Failure> {
        let timeline = Timeline::begin();
        let span = timeline.span("validate");
        duration("wait", request.wait)?;
        let entry = self.vms.find(&request.vm)?;
        let (wait, request_id) = (request.wait.take(), std::mem::take(&mut request.request_id));
        let fingerprint = Fingerprint::of(&request);
        entry.allows(Event::Start)?;
        span.end();
        let span = timeline.span("store");
        let (vms, started) = (self.vms.clone(), entry.clone());
        let wish = |record: &mut VmRecord| (record.running, record.failed) = (true, None);
        let task = self
            .wish(&entry, caller, "StartVm", request_id, fingerprint, wish, move |context| async move {
                vms.start_vm(&started, timeline, &context).await
            })
            .await?;
        span.end();
        answer(&self.tasks, &task, wait).await
    }

    async fn stop(&self, mut request: v1::StopVmRequest, caller: Caller) -> Result<v1::Task, Failure> {
        duration("wait", request.wait)?;
        let timeout = duration("timeout", request.timeout)?;
        let entry = self.vms.find(&request.vm)?;
        let (wait, request_id) = (request.wait.take(), std::mem::take(&mut request.request_id));
        let fingerprint = Fingerprint::of(&request);
        let event = if timeout == Some(Duration::ZERO) { Event::Kill } else { Event::Stop };
        entry.allows(event)?;
        let stopped = entry.clone();
        let wish = |record: &mut VmRecord| (record.running, record.failed) = (false, None);
        let task = self
            .wish(&entry, caller, "StopVm", request_id, fingerprint, wish, move |_| async move {
                stopped.ask(crate::vm::Request { timeout, ..crate::vm::Request::new(event) }).await
            })
            .await?;
        answer(&self.tasks, &task, wait).await
    }

    /// A call that a running VMM carries out.
    async fn press(
        &self,
        (vm, wait): (&str, Option<prost_types::Duration>),
        event: Event,
        method: &'static str,
        caller: Caller,
    ) -> Result<v1::Task, Failure> {
        duration("wait", wait)?;
        let entry = self.vms.find(vm)?;
        entry.allows(event)?;
        let pressed = entry.clone();
        let begin = self.begin(caller, method, String::new(), Fingerprint::of_bytes(&[]));
        let resource = entry.view().record().resource();
        let task = begin
            .run(
                move |_| Ok((resource, ())),
                move |(), _| async move { pressed.ask(crate::vm::Request::new(event)).await },
            )
            .await?;
        answer(&self.tasks, &task, wait).await
    }

    async fn delete(&self, mut request: v1::DeleteVmRequest, caller: Caller) -> Result<v1::Task, Failure> {
        duration("wait", request.wait)?;
        let wait = request.wait.take();
        let expected = parse_etag(&request.etag)?;
        let entry = self.vms.find(&request.vm)?;
        let runs = entry.view().status.state.has_process();
        if !(request.force && runs) {
            entry.allows(Event::Delete)?;
        }
        if expected.is_some_and(|expected| expected != entry.view().stored.revision) {
            let message = "It was changed by somebody else meanwhile (etag): read it again and retry";
            return Err(Failure::new(FailureKind::Aborted, message));
        }
        let keep = !request.delete_volumes;
        let wish = move |record: &mut VmRecord| {
            (record.begun, record.running) = (Begun::Deletion, false);
            if keep {
                record.made_volumes.clear();
            }
        };
        let deleted = entry.clone();
        let work = move |_| async move {
            if deleted.view().status.state.has_process() {
                deleted.ask(crate::vm::Request::new(Event::Kill)).await?;
            }
            deleted.ask(crate::vm::Request::new(Event::Delete)).await
        };
        let fingerprint = Fingerprint::of_bytes(&[]);
        let task = self.wish(&entry, caller, "DeleteVm", String::new(), fingerprint, wish, work).await?;
        answer(&self.tasks, &task, wait).await
    }

    async fn copy(&self, mut request: v1::CloneVmRequest, caller: Caller) -> Result<v1::Task, Failure> {
        let timeline = Timeline::begin();
        duration("wait", request.wait)?;
        let name = Name::parse("name", &request.name)?;
        let entry = self.vms.find(&request.vm)?;
        let view = entry.view();
        if !matches!(view.status.state, State::Stopped | State::Failed) {
            let (name, word) = (&view.record().name, view.status.state.word());
            return Err(Failure::precondition(format!(
                "VM {name} is {word}: only a VM that is off is copied; stop it first"
            )));
        }
        let (wait, request_id) = (request.wait.take(), std::mem::take(&mut request.request_id));
        let fingerprint = Fingerprint::of(&request);
        let start = request.start.then_some(timeline);
        let (vms, storage, origin) = (self.vms.clone(), self.storage.clone(), entry.id.clone());
        let task = self
            .begin(caller, "CloneVm", request_id, fingerprint)
            .run(
                move |tx| {
                    let reserved = reserve_copy(tx, &origin, name)?;
                    Ok((reserved.record().resource(), reserved))
                },
                move |reserved, context| vms.make(storage, reserved, start, context),
            )
            .await?;
        answer(&self.tasks, &task, wait).await
    }

    async fn log(&self, request: v1::GetVmLogRequest) -> Result<v1::GetVmLogResponse, Failure> {
        if request.max_bytes > LOG_BYTES_MAX {
            return Err(Failure::invalid("max_bytes", request.max_bytes, "is too much: at most 1048576"));
        }
        let entry = self.vms.find(&request.vm)?;
        let most = if request.max_bytes == 0 { LOG_BYTES } else { request.max_bytes };
        let (console, vmm) = self.vms.logs(&entry);
        let path = if request.vmm { vmm } else { console };
        let read = tokio::task::spawn_blocking(move || tail(&path, most as usize));
        let found = read.await.map_err(|error| Failure::internal("Reading the log panicked", error))?;
        let found = found.map_err(|error| Failure::internal("The log cannot be read", error))?;
        Ok(v1::GetVmLogResponse { data: found.data, truncated: found.truncated })
    }

    async fn isolation(&self, vm: &str) -> Result<v1::VmIsolation, Failure> {
        let resource = self.vms.find(vm)?.view().record().resource();
        let receipt = self.vms.isolation().measure(&resource).await?;
        let intact = receipt.intact();
        let fact = |fact: crate::vm::isolation::Fact| v1::IsolationFact {
            name: fact.name,
            expected: fact.expected,
            measured: fact.measured,
            ok: fact.ok,
        };
        let fd = |fd: crate::vm::isolation::FdFact| v1::OpenFd {
            number: fd.number,
            target: fd.target,
            name: fd.name,
            unexpected: fd.unexpected,
        };
        Ok(v1::VmIsolation {
            time: Some(Time::now().into()),
            pid: receipt.pid,
            intact,
            facts: receipt.facts.into_iter().map(fact).collect(),
            fds: receipt.fds.into_iter().map(fd).collect(),
        })
    }

    async fn boot_report(&self, vm: &str) -> Result<v1::BootReport, Failure> {
        let entry = self.vms.find(vm)?;
        if let Ok(live) = entry.live()
            && let Ok(told) = live.client.boot_timeline().await
        {
            // The guest may have written its first byte since.
            entry.set_marks(told.marks);
        }
        let missing = || {
            let view = entry.view();
            let name = &view.record().name;
            let message = format!("VM {name} was not started since this daemon was: there is no report of its start");
            Failure::precondition(message)
        };
        let boot = entry.boot().ok_or_else(missing)?;
        let timeline = boot.timeline.snapshot();
        for pair in boot.marks.windows(2) {
            if let [before, reached] = pair {
                let name: String = format!("vmm: {}", reached.name.chars().take(40).collect::<String>());
                timeline.record(name, Moment::from_nanos(before.time_ns), Moment::from_nanos(reached.time_ns));
            }
        }
        Ok(timeline.report().into())
    }
}

/// What a request asks for.
fn new_vm(request: &v1::CreateVmRequest) -> Result<NewVm, Failure> {
    let name = Name::parse("name", &request.name)?;
    check::words(&request.description, &request.labels)?;
    let draft = check::draft(request.spec.as_ref(), "spec")?;
    Ok(NewVm { name, description: request.description.clone(), labels: request.labels.clone(), draft })
}

impl VmRpc {
    /// Notes a wish in a VM's record and begins a task for it, in one transaction. The same request again does neither.
    // What a task is begun with has a name each; a struct for two callers would only move them.
    #[allow(clippy::too_many_arguments)]
    async fn wish<W, F>(
        &self,
        entry: &Entry,
        caller: Caller,
        method: &'static str,
        request_id: String,
        fingerprint: Fingerprint,
        wish: impl FnOnce(&mut VmRecord) + Send + 'static,
        work: W,
    ) -> Result<crate::model::Id, Failure>
    where
        W: FnOnce(crate::tasks::TaskContext) -> F + Send + 'static,
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        use crate::model::NewTask;
        use crate::store::Idempotency;
        let recorded = entry.change(&self.store, Change::Note, move |tx, record| {
            if let Idempotency::Again(task) = tx.request(&caller, method, &request_id, fingerprint)? {
                return Ok((task, None));
            }
            wish(record);
            let task = tx.task(NewTask::new(method, record.reference(), &caller))?;
            Ok((task.id.clone(), Some(task)))
        });
        let (id, first) = recorded.await?;
        if let Some(task) = first {
            self.tasks.run(task, work);
        }
        Ok(id)
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl VmService for VmRpc {
    type ConsoleVmStream = Out<v1::ConsoleOutput>;
    type WatchVmStatisticsStream = Out<v1::VmStatistics>;

    async fn list_vms(&self, request: Request<v1::ListVmsRequest>) -> Answer<v1::ListVmsResponse> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn get_vm(&self, request: Request<v1::GetVmRequest>) -> Answer<v1::Vm> {
        let entry = self.vms.find(&request.into_inner().vm)?;
        Ok(Response::new(self.one(&entry).await?))
    }

    async fn create_vm(&self, request: Request<v1::CreateVmRequest>) -> Answer<v1::Task> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.create(request.into_inner(), caller).await?))
    }

    async fn update_vm(&self, request: Request<v1::UpdateVmRequest>) -> Answer<v1::Vm> {
        let entry = changes::update(&self.vms, request.into_inner()).await?;
        Ok(Response::new(self.one(&entry).await?))
    }

    async fn delete_vm(&self, request: Request<v1::DeleteVmRequest>) -> Answer<v1::Task> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.delete(request.into_inner(), caller).await?))
    }

    async fn start_vm(&self, request: Request<v1::StartVmRequest>) -> Answer<v1::Task> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.start(request.into_inner(), caller).await?))
    }

    async fn stop_vm(&self, request: Request<v1::StopVmRequest>) -> Answer<v1::Task> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.stop(request.into_inner(), caller).await?))
    }

    async fn reset_vm(&self, request: Request<v1::ResetVmRequest>) -> Answer<v1::Task> {
        let caller = Caller::of(&request)?;
        let v1::ResetVmRequest { vm, wait } = request.into_inner();
        Ok(Response::new(self.press((&vm, wait), Event::Reset, "ResetVm", caller).await?))
    }

    async fn pause_vm(&self, request: Request<v1::PauseVmRequest>) -> Answer<v1::Task> {
        let caller = Caller::of(&request)?;
        let v1::PauseVmRequest { vm, wait } = request.into_inner();
        Ok(Response::new(self.press((&vm, wait), Event::Pause, "PauseVm", caller).await?))
    }

    async fn resume_vm(&self, request: Request<v1::ResumeVmRequest>) -> Answer<v1::Task> {
        let caller = Caller::of(&request)?;
        let v1::ResumeVmRequest { vm, wait } = request.into_inner();
        Ok(Response::new(self.press((&vm, wait), Event::Resume, "ResumeVm", caller).await?))
    }

    async fn clone_vm(&self, request: Request<v1::CloneVmRequest>) -> Answer<v1::Task> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.copy(request.into_inner(), caller).await?))
    }

    async fn console_vm(&self, request: Request<Streaming<v1::ConsoleInput>>) -> Answer<Self::ConsoleVmStream> {
        Ok(Response::new(console::serve(&self.vms, request.into_inner()).await?))
    }

    async fn get_vm_log(&self, request: Request<v1::GetVmLogRequest>) -> Answer<v1::GetVmLogResponse> {
        Ok(Response::new(self.log(request.into_inner()).await?))
    }

    async fn get_vm_statistics(&self, request: Request<v1::GetVmStatisticsRequest>) -> Answer<v1::VmStatistics> {
        let live = self.vms.find(&request.into_inner().vm)?.live()?;
        Ok(Response::new(statistics::read(&live).await?))
    }

    async fn watch_vm_statistics(
        &self,
        request: Request<v1::WatchVmStatisticsRequest>,
    ) -> Answer<Self::WatchVmStatisticsStream> {
        let request = request.into_inner();
        let interval = duration("interval", request.interval)?.unwrap_or(INTERVAL);
        if !(INTERVAL_MIN..=Duration::from_hours(1)).contains(&interval) {
            let value = format!("{} ms", interval.as_millis());
            return Err(Failure::invalid("interval", value, "is not from 100 ms to an hour").into());
        }
        let entry = self.vms.find(&request.vm)?;
        entry.live()?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                ticks.tick().await;
                let counted = match entry.live() {
                    Ok(live) => statistics::read(&live).await,
                    Err(failure) => Err(failure),
                };
                let over = counted.is_err();
                if sender.send(counted.map_err(Into::into)).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_vm_isolation(&self, request: Request<v1::GetVmIsolationRequest>) -> Answer<v1::VmIsolation> {
        Ok(Response::new(self.isolation(&request.into_inner().vm).await?))
    }

    async fn get_vm_boot_report(&self, request: Request<v1::GetVmBootReportRequest>) -> Answer<v1::BootReport> {
        Ok(Response::new(self.boot_report(&request.into_inner().vm).await?))
    }
}
