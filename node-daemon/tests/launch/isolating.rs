//! The isolation receipt of VMMs that really run: whole, and weakened in each way that must not go unnoticed.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use quantix_node::events::{EventWatch, Events};
use quantix_node::model::{Event, ResourceKind, ResourceRef};
use quantix_node::store::{EventFilter, Store};
use quantix_node::vm::isolation::{Expected, IsolationWatch, Neighbours, Receipt, measure};
use quantix_vmm_api::client::Client;
use quantix_vmm_api::v1::{AddFd, GetInfo, TakeFd};
use serde_json::json;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::bench::{Bench, PATIENCE, Running};

/// Between two measurements.
const INTERVAL: Duration = Duration::from_millis(500);

fn client(running: &Running) -> Client {
    Client::connect(&running.launched.control).expect("the control socket")
}

async fn expected(running: &Running) -> Expected {
    let info = client(running).call(GetInfo {}, PATIENCE).await.expect("it answers");
    let landlock_reported = info.sandbox.map(|sandbox| sandbox.landlock);
    Expected { record: running.launched.record.clone(), landlock_reported }
}

async fn receipt(running: &Running) -> Receipt {
    measure(running.launched.pid, &expected(running).await, &Neighbours::default()).expect("a receipt")
}

fn resource(running: &Running) -> ResourceRef {
    ResourceRef::new(ResourceKind::Vm, &running.vm, "demo")
}

struct Watching {
    _directory: tempfile::TempDir,
    watch: IsolationWatch,
    events: EventWatch,
}

async fn watching() -> Watching {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("node.db");
    let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.expect("no panic").expect("a store");
    let events = Events::new(store);
    let heard = events.watch(None, EventFilter::default()).await.expect("events");
    let watch = IsolationWatch::start(events, INTERVAL, CancellationToken::new());
    Watching { _directory: directory, watch, events: heard }
}

impl Watching {
    /// The next event, which must come within one interval and the time that a busy machine takes.
    async fn next(&mut self) -> Event {
        timeout(INTERVAL + PATIENCE, self.events.next()).await.expect("in time").expect("no failure").expect("an event")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_in_its_jail_is_intact_and_all_its_files_are_known() {
    let Some(bench) = Bench::new() else { return };
    let (one, other) = (bench.start(&json!({})).await, bench.start(&json!({})).await);
    let (first, second) = (receipt(&one).await, receipt(&other).await);
    assert!(first.intact(), "{:#?}", first.broken());
    assert!(first.fds.iter().any(|fd| fd.name == "control") && first.fds.iter().any(|fd| fd.target.contains("kvm-vm")));
    for ((kind, link), (_, others)) in first.namespaces.iter().zip(second.namespaces.iter()) {
        assert_ne!(link, others, "{kind}");
    }
    for fact in &first.facts {
        println!("{:<20} {:<45} {}", fact.name, fact.expected, fact.measured);
    }
    bench.end(one).await;
    bench.end(other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vmm_without_its_sandbox_shows() {
    let Some(bench) = Bench::new() else { return };
    let mut watching = watching().await;
    let running = bench.start(&json!({ "sandbox": false })).await;
    watching.watch.add(resource(&running), expected(&running).await);
    let event = watching.next().await;
    assert_eq!(event.kind, "vm.isolation-drift");
    for fact in ["seccomp: 0 filters", "seccomp_threads: 0 of", "landlock", "dumpable: yes"] {
        assert!(event.message.contains(fact), "{fact}: {}", event.message);
    }
    // What the launcher does holds whatever the VMM does.
    for fact in ["capabilities", "no_new_privs", "root", "uid", "namespace"] {
        assert!(!event.message.contains(&format!("{fact}:")), "{fact}: {}", event.message);
    }
    bench.end(running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_file_shows_within_an_interval_and_its_end_too() {
    let Some(bench) = Bench::new() else { return };
    let mut watching = watching().await;
    let running = bench.start(&json!({})).await;
    watching.watch.add(resource(&running), expected(&running).await);
    assert!(watching.watch.measure(&resource(&running)).await.unwrap().intact());
    let client = client(&running);
    let file = OwnedFd::from(std::fs::File::open("/etc/passwd").unwrap());
    client.call_with_fds(AddFd { name: "leak".to_owned() }, &[file.as_fd()], PATIENCE).await.unwrap();
    let event = watching.next().await;
    assert_eq!(event.kind, "vm.isolation-drift");
    assert!(event.message.contains("fds: 1 strange: /etc/passwd"), "{}", event.message);
    drop(client.call_with_fds(TakeFd { name: "leak".to_owned() }, &[], PATIENCE).await.unwrap());
    assert_eq!(watching.next().await.kind, "vm.isolation-restored");
    bench.end(running).await;
    let failure = watching.watch.measure(&gone()).await.unwrap_err();
    assert!(failure.message().contains("does not run"), "{failure}");
}

fn gone() -> ResourceRef {
    ResourceRef::new(ResourceKind::Vm, &quantix_node::model::Id::new(), "gone")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moved_control_group_shows_within_an_interval() {
    let Some(bench) = Bench::new() else { return };
    let mut watching = watching().await;
    let running = bench.start(&json!({})).await;
    let Some(group) = running.launched.record.cgroup.clone() else {
        return bench.end(running).await;
    };
    watching.watch.add(resource(&running), expected(&running).await);
    assert!(watching.watch.measure(&resource(&running)).await.unwrap().intact());
    let mount = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .into_iter()
        .find(|mount| std::path::Path::new(&format!("{mount}{group}")).exists())
        .expect("the group");
    std::fs::write(format!("{mount}/cgroup.procs"), running.launched.pid.to_string()).unwrap();
    let event = watching.next().await;
    assert_eq!(event.kind, "vm.isolation-drift");
    assert!(event.message.contains("cgroup: / instead of"), "{}", event.message);
    std::fs::write(format!("{mount}{group}/cgroup.procs"), running.launched.pid.to_string()).unwrap();
    assert_eq!(watching.next().await.kind, "vm.isolation-restored");
    bench.end(running).await;
}
