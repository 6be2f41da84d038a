//! The services of the foundation, called as the wire calls them: pages, filters, streams, refusals.

use std::time::Duration;

use futures_util::StreamExt as _;
use quantix_api::v1;
use quantix_api::v1::audit_service_server::AuditService as _;
use quantix_api::v1::event_service_server::EventService as _;
use quantix_api::v1::host_service_server::HostService as _;
use quantix_api::v1::task_service_server::TaskService as _;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use super::audit::AuditRpc;
use super::event::EventRpc;
use super::host::HostRpc;
use super::task::TaskRpc;
use crate::events::Events;
use crate::host::{Host, Roots};
use crate::model::{Caller, Id, NewAudit, NewEvent, NewTask, ResourceKind, ResourceRef, Task};
use crate::store::Store;
use crate::tasks::Tasks;
use crate::telemetry::{Telemetry, Timeline};

struct Node {
    directory: tempfile::TempDir,
    store: Store,
    tasks: Tasks,
    events: Events,
}

impl Node {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("node.db");
        let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.unwrap().unwrap();
        Self { directory, tasks: Tasks::new(store.clone()), events: Events::new(store.clone()), store }
    }

    fn task_rpc(&self) -> TaskRpc {
        TaskRpc { store: self.store.clone(), tasks: self.tasks.clone() }
    }

    fn event_rpc(&self) -> EventRpc {
        EventRpc { store: self.store.clone(), events: self.events.clone() }
    }

    async fn recorded(&self, resource: &ResourceRef) -> Task {
        let new = NewTask::new("CloneVolume", resource.clone(), &Caller::daemon());
        self.store.write(move |tx| tx.task(new)).await.unwrap()
    }
}

fn volume() -> ResourceRef {
    ResourceRef::new(ResourceKind::Volume, &Id::new(), "disk")
}

/// The fields that a refusal blames.
fn blamed(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    details.bad_request().unwrap().field_violations.iter().map(|violation| violation.field.clone()).collect()
}

#[tokio::test]
async fn tasks_are_followed_and_cancelled() {
    let node = Node::new().await;
    let rpc = node.task_rpc();
    let task = node.recorded(&volume()).await;
    node.tasks.run(task.clone(), |context| async move {
        context.step("Copying");
        context.cancelled().cancelled().await;
        context.check()
    });
    let id = task.id.to_string();
    let mut changes =
        rpc.watch_task(Request::new(v1::WatchTaskRequest { task: id.clone() })).await.unwrap().into_inner();
    while changes.next().await.unwrap().unwrap().step != "Copying" {}
    rpc.cancel_task(Request::new(v1::CancelTaskRequest { task: id.clone() })).await.unwrap();
    let mut last = None;
    while let Some(change) = changes.next().await {
        last = Some(change.unwrap());
    }
    let wait = v1::WaitTaskRequest { task: id, timeout: Some(prost_types::Duration { seconds: 30, nanos: 0 }) };
    let waited = rpc.wait_task(Request::new(wait)).await.unwrap().into_inner();
    assert_eq!((waited.state(), waited.error.as_ref().unwrap().code), (v1::TaskState::Cancelled, 1));
    assert_eq!(last.unwrap(), waited);
    assert_eq!((waited.kind.as_str(), waited.resource.unwrap().kind.as_str()), ("CloneVolume", "volume"));
}

#[tokio::test]
async fn tasks_are_listed_by_page_and_filter() {
    let node = Node::new().await;
    let (rpc, mine) = (node.task_rpc(), volume());
    for at in 0..5 {
        node.recorded(&if at == 2 { mine.clone() } else { volume() }).await;
    }
    let list = async |request| rpc.list_tasks(Request::new(request)).await.map(tonic::Response::into_inner);
    let first = list(v1::ListTasksRequest { page_size: 3, ..Default::default() }).await.unwrap();
    let token = first.next_page_token;
    let second = list(v1::ListTasksRequest { page_token: token.clone(), ..Default::default() }).await.unwrap();
    assert_eq!((first.tasks.len(), second.tasks.len(), second.next_page_token.as_str()), (3, 2, ""));
    let of = list(v1::ListTasksRequest { resource_id: mine.id.to_string(), ..Default::default() }).await.unwrap();
    assert_eq!(of.tasks.len(), 1);
    let other = v1::ListTasksRequest { page_token: token, active_only: true, ..Default::default() };
    assert_eq!(blamed(&list(other).await.unwrap_err()), ["page_token"]);
    let negative = v1::ListTasksRequest { page_size: -1, ..Default::default() };
    assert_eq!(blamed(&list(negative).await.unwrap_err()), ["page_size"]);
}

#[tokio::test]
async fn wrong_ids_and_times_are_blamed() {
    let node = Node::new().await;
    let rpc = node.task_rpc();
    let get = |task: &str| rpc.get_task(Request::new(v1::GetTaskRequest { task: task.into() }));
    assert_eq!(blamed(&get("nonsense").await.unwrap_err()), ["task"]);
    assert_eq!(get(Id::new().as_str()).await.unwrap_err().code(), Code::NotFound);
    for seconds in [-1, 3601, i64::MAX] {
        let timeout = Some(prost_types::Duration { seconds, nanos: 0 });
        let wait = v1::WaitTaskRequest { task: Id::new().to_string(), timeout };
        assert_eq!(blamed(&rpc.wait_task(Request::new(wait)).await.unwrap_err()), ["timeout"]);
    }
}

#[tokio::test]
async fn events_are_resumed_from_what_a_list_gave() {
    let node = Node::new().await;
    let rpc = node.event_rpc();
    for at in 0..3 {
        node.events.publish(NewEvent::info("vm.state", format!("{at}")).with("at", at)).await.unwrap();
    }
    let list = v1::ListEventsRequest { page_size: 1, kinds: vec!["vm.".into()], ..Default::default() };
    let listed = rpc.list_events(Request::new(list)).await.unwrap().into_inner();
    assert_eq!((listed.events.len(), listed.next_page_token.is_empty()), (1, false));
    let resume_token = listed.events[0].resume_token.clone();
    let watch = v1::WatchEventsRequest { resume_token, ..Default::default() };
    let mut events = rpc.watch_events(Request::new(watch)).await.unwrap().into_inner();
    node.events.publish(NewEvent::alarm("host.alarm", "3")).await.unwrap();
    for expected in ["1", "2", "3"] {
        assert_eq!(events.next().await.unwrap().unwrap().message, expected);
    }
    let wrong = v1::WatchEventsRequest { resume_token: "?".into(), ..Default::default() };
    assert_eq!(blamed(&rpc.watch_events(Request::new(wrong)).await.err().unwrap()), ["resume_token"]);
    let many = v1::WatchEventsRequest { kinds: vec![String::new(); 65], ..Default::default() };
    assert_eq!(blamed(&rpc.watch_events(Request::new(many)).await.err().unwrap()), ["kinds"]);
}

#[tokio::test]
async fn the_audit_log_is_read_newest_first() {
    let node = Node::new().await;
    let rpc = AuditRpc { store: node.store.clone() };
    for (user, code) in [("anna", 0), ("bert", 7), ("anna", 7)] {
        let entry = NewAudit {
            user: user.into(),
            token_id: None,
            peer: "unix".into(),
            method: "quantix.node.v1.VmService/DeleteVm".into(),
            resource: Some(volume()),
            code,
            message: String::new(),
        };
        node.store.write(move |tx| tx.audit(&entry)).await.unwrap();
    }
    let request = v1::ListAuditEntriesRequest { user: "anna".into(), ..Default::default() };
    let entries = rpc.list_audit_entries(Request::new(request)).await.unwrap().into_inner().entries;
    assert_eq!(entries.iter().map(|e| (e.sequence, e.code)).collect::<Vec<_>>(), [(3, 7), (1, 0)]);
    assert_eq!(entries[0].resource.as_ref().unwrap().kind, "volume");
}

#[tokio::test]
async fn the_host_says_what_it_is() {
    let node = Node::new().await;
    let timeline = Timeline::begin();
    timeline.span("Start").end();
    let host = Host::new(&node.store, Roots::default(), timeline).await.unwrap();
    let telemetry = Telemetry::new(host.clone(), node.events.clone(), node.directory.path().to_owned());
    telemetry.alarms().raise("test", "Something is wrong").await;
    let rpc = HostRpc { host, telemetry };
    let host = rpc.get_host(Request::new(v1::GetHostRequest {})).await.unwrap().into_inner();
    assert_eq!((host.alarms.as_slice(), host.kvm_ready), (["Something is wrong".to_owned()].as_slice(), false));
    assert!(host.capacity.unwrap().cpus > 0);
    let hardware = rpc.get_hardware(Request::new(v1::GetHardwareRequest {})).await.unwrap().into_inner();
    assert!(hardware.threads > 0);
    let report = rpc.get_host_boot_report(Request::new(v1::GetHostBootReportRequest {})).await.unwrap().into_inner();
    assert_eq!(report.spans[0].name, "Start");
    let metrics = async |request| rpc.get_metrics(Request::new(request)).await.map(tonic::Response::into_inner);
    assert_eq!(metrics(v1::GetMetricsRequest::default()).await.unwrap().series.len(), 11);
    let unknown = v1::GetMetricsRequest { series: vec!["x".into()], ..Default::default() };
    assert_eq!(blamed(&metrics(unknown).await.unwrap_err()), ["series[0]"]);
    for window in [Duration::ZERO, Duration::from_secs(86_401)] {
        let window = Some(window.try_into().unwrap());
        let request = v1::GetMetricsRequest { window, ..Default::default() };
        assert_eq!(blamed(&metrics(request).await.unwrap_err()), ["window"]);
    }
    let vm = v1::GetMetricsRequest { vm: "demo".into(), ..Default::default() };
    assert_eq!(metrics(vm).await.unwrap_err().code(), Code::NotFound);
}
