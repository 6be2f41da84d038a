//! The store: transactions, documents, pages, requests, events, and what a crash, a full disk or damage leaves.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use super::*;
use crate::model::{
    Caller, FailureKind, Fingerprint, Id, NewAudit, NewEvent, NewTask, Page, ResourceKind, ResourceRef, TaskState,
};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Thing {
    id: Id,
    name: String,
    size: u64,
}

impl Record for Thing {
    const TABLE: &'static str = "things";
    const KIND: ResourceKind = ResourceKind::Volume;

    fn id(&self) -> &Id {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

fn thing(name: &str) -> Thing {
    Thing { id: Id::new(), name: name.into(), size: 1 }
}

fn open(directory: &TempDir) -> Store {
    Store::open(&directory.path().join("node.db")).unwrap()
}

async fn with_things() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = tokio::task::block_in_place(|| open(&directory));
    store.write(|tx| Ok(tx.tx.execute_batch(&migrations::documents("things"))?)).await.unwrap();
    (directory, store)
}

fn new_task() -> NewTask {
    NewTask::new("CreateThing", ResourceRef::new(ResourceKind::Volume, &Id::new(), "a"), &Caller::daemon())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_found_by_id_and_name_and_changes_its_revision() {
    let (_directory, store) = with_things().await;
    let first = thing("a");
    let id = first.id.clone();
    let made = store.write(move |tx| tx.insert(&first)).await.unwrap();
    let changed = Thing { size: 2, ..made.record.clone() };
    let expected = made.revision;
    let updated = store.write(move |tx| tx.update(&changed, Some(expected))).await.unwrap();
    assert!(updated.revision > made.revision);
    let stale = made.record.clone();
    let failure = store.write(move |tx| tx.update(&stale, Some(expected))).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Aborted);
    let by_name = store.read(|tx| tx.find::<Thing>("a")).await.unwrap();
    let by_id = store.read(move |tx| tx.find::<Thing>(id.as_str())).await.unwrap();
    assert_eq!((by_name.record.size, &by_name), (2, &by_id));
    let noted = Thing { size: 3, ..by_id.record.clone() };
    store.write(move |tx| tx.note(&noted)).await.unwrap();
    let after = store.read(|tx| tx.find::<Thing>("a")).await.unwrap();
    assert_eq!((after.record.size, after.revision, after.update_time), (3, by_id.revision, by_id.update_time));
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_unique_and_an_etag_does_not_fit_a_successor() {
    let (_directory, store) = with_things().await;
    let (one, two) = (thing("a"), thing("a"));
    let made = store.write(move |tx| tx.insert(&one)).await.unwrap();
    let again = two.clone();
    let failure = store.write(move |tx| tx.insert(&again)).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::AlreadyExists);
    let (id, etag) = (made.record.id.clone(), made.etag());
    store.write(move |tx| tx.delete::<Thing>(&id, None)).await.unwrap();
    let successor = store.write(move |tx| tx.insert(&two)).await.unwrap();
    assert_ne!(successor.etag(), etag);
    assert_eq!(parse_etag("x").unwrap_err().kind(), FailureKind::Aborted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_or_a_panic_rolls_back_and_the_store_goes_on() {
    let (_directory, store) = with_things().await;
    let mut heard = store.subscribe();
    let failed = store.write(|tx| {
        tx.insert(&thing("a"))?;
        tx.event(NewEvent::info("thing.created", "a"))?;
        Err::<(), _>(Failure::precondition("not today"))
    });
    assert_eq!(failed.await.unwrap_err().kind(), FailureKind::FailedPrecondition);
    let panicked = store.write::<(), _>(|tx| {
        tx.insert(&thing("b"))?;
        panic!("on purpose")
    });
    assert_eq!(panicked.await.unwrap_err().kind(), FailureKind::Internal);
    assert!(store.read(|tx| tx.all::<Thing>()).await.unwrap().is_empty());
    assert!(heard.try_recv().is_err(), "an event of a rolled-back transaction was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_keep_their_order_while_others_add_and_delete() {
    let (_directory, store) = with_things().await;
    let things: Vec<Thing> = (0..10).map(|at| thing(&format!("t{at}"))).collect();
    let copy = things.clone();
    store.write(move |tx| copy.iter().try_for_each(|t| tx.insert(t).map(drop))).await.unwrap();
    let page = Page::parse(4, "", "things").unwrap();
    let first = store.read(move |tx| tx.list::<Thing>(&page, |_| true)).await.unwrap();
    let gone = things[3].id.clone();
    store.write(move |tx| tx.delete::<Thing>(&gone, None).and(tx.insert(&thing("late")))).await.unwrap();
    let (mut names, mut token): (Vec<String>, _) =
        (first.items.iter().map(|t| t.record.name.clone()).collect(), first.next);
    while !token.is_empty() {
        let page = Page::parse(4, &token, "things").unwrap();
        let next = store.read(move |tx| tx.list::<Thing>(&page, |t| t.name != "t5")).await.unwrap();
        names.extend(next.items.iter().map(|t| t.record.name.clone()));
        token = next.next;
    }
    assert_eq!(names, ["t0", "t1", "t2", "t3", "t4", "t6", "t7", "t8", "t9", "late"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_is_answered_by_the_same_task() {
    let (_directory, store) = with_things().await;
    let make = |caller: &str, request_id: &str, content: &[u8]| {
        let caller = Caller { name: caller.into(), ..Caller::daemon() };
        let (request_id, print) = (request_id.to_owned(), Fingerprint::of_bytes(content));
        store.write(move |tx| match tx.request(&caller, "CreateThing", &request_id, print)? {
            Idempotency::Again(id) => Ok(id),
            Idempotency::First => Ok(tx.task(new_task())?.id),
        })
    };
    let first = make("anna", "r1", b"x").await.unwrap();
    assert_eq!(make("anna", "r1", b"x").await.unwrap(), first);
    assert_ne!(make("bert", "r1", b"x").await.unwrap(), first);
    assert_ne!(make("anna", "", b"x").await.unwrap(), make("anna", "", b"x").await.unwrap());
    let failure = make("anna", "r1", b"y").await.unwrap_err();
    assert_eq!((failure.kind(), failure.fields()[0].field.as_str()), (FailureKind::InvalidArgument, "request_id"));
    assert!(make("anna", &"r".repeat(300), b"x").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_transaction_failed_is_a_first_one_again() {
    let (_directory, store) = with_things().await;
    for _ in 0..2 {
        let failed = store.write(|tx| {
            let answer = tx.request(&Caller::daemon(), "CreateThing", "r", Fingerprint::of_bytes(b""))?;
            assert_eq!(answer, Idempotency::First);
            tx.task(new_task())?;
            Err::<(), _>(Failure::precondition("no"))
        });
        assert_eq!(failed.await.unwrap_err().kind(), FailureKind::FailedPrecondition);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sequence_and_the_epoch_continue_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let publish = async |store: &Store| store.write(|tx| tx.event(NewEvent::info("a", "b"))).await.unwrap();
    let store = tokio::task::block_in_place(|| open(&directory));
    let before = publish(&store).await;
    store.close().await;
    let store = tokio::task::block_in_place(|| open(&directory));
    let after = publish(&store).await;
    assert_eq!((after.sequence, &after.epoch), (before.sequence + 1, &before.epoch));
    assert!(store.kept_aside().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn old_events_go_and_the_range_says_so() {
    let (_directory, store) = with_things().await;
    // More than is kept, without thousands of commits.
    store
        .write(|tx| {
            for _ in 0..20_600 {
                tx.event(NewEvent::info("a", "b"))?;
            }
            Ok(())
        })
        .await
        .unwrap();
    let (first, last) = store.read(|tx| tx.event_range()).await.unwrap();
    assert_eq!(last, 20_600);
    assert!(last - first >= 20_000 && last - first < 20_512, "{first}..{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_changes_the_audit_log() {
    let (_directory, store) = with_things().await;
    let entry = NewAudit {
        user: "anna".into(),
        token_id: Some(Id::new()),
        peer: "unix".into(),
        method: "quantix.node.v1.VmService/CreateVm".into(),
        resource: None,
        code: 0,
        message: String::new(),
    };
    let copy = entry.clone();
    store.write(move |tx| tx.audit(&copy).and(tx.audit(&copy))).await.unwrap();
    for sql in ["DELETE FROM audit", "UPDATE audit SET user = 'bert'"] {
        let failure = store.write(move |tx| Ok(tx.tx.execute(sql, [])?)).await.unwrap_err();
        assert!(failure.chain().contains("only ever added to"), "{}", failure.chain());
    }
    let page = Page::parse(1, "", "audit").unwrap();
    let listed = store.read(move |tx| tx.list_audit(&page, Some("anna"))).await.unwrap();
    assert_eq!((listed.items[0].sequence, &listed.items[0].entry), (2, &entry));
    assert!(!listed.next.is_empty());
    let page = Page::first(10);
    assert!(store.read(move |tx| tx.list_audit(&page, Some("bert"))).await.unwrap().items.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_leaves_nothing_half_written() {
    let (_directory, store) = with_things().await;
    store
        .write(|tx| {
            let pages: u32 = tx.tx.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            Ok(tx.tx.pragma_update(None, "max_page_count", pages + 20)?)
        })
        .await
        .unwrap();
    let failure = store
        .write(|tx| (0..10_000).try_for_each(|at| tx.insert(&thing(&format!("t{at}"))).map(drop)))
        .await
        .unwrap_err();
    assert_eq!(failure.kind(), FailureKind::ResourceExhausted);
    assert!(store.read(|tx| tx.all::<Thing>()).await.unwrap().is_empty());
    store.write(|tx| tx.insert(&thing("small"))).await.unwrap();
}

/// Opens a database of these bytes.
fn open_bytes(directory: &TempDir, bytes: &[u8]) -> Store {
    std::fs::write(directory.path().join("node.db"), bytes).unwrap();
    open(directory)
}

#[test]
fn a_damaged_database_is_kept_aside_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let garbage = vec![0x5a; 8192];
    let store = open_bytes(&directory, &garbage);
    let aside = store.kept_aside().unwrap().clone();
    assert_eq!(std::fs::read(&aside.path).unwrap(), garbage);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let events = runtime.block_on(store.read(|tx| tx.events_after(0, &EventFilter::default(), 10))).unwrap();
    assert_eq!((events[0].kind.as_str(), events[0].severity), ("store.kept-aside", crate::model::Severity::Alarm));
    assert_eq!(events[0].details["path"], aside.path.display().to_string());
    runtime.block_on(store.close());
    // A second one within the same second has a name of its own.
    let store = open_bytes(&directory, b"short garbage");
    assert_ne!(store.kept_aside().unwrap().path, aside.path);
    assert_eq!(std::fs::read(&aside.path).unwrap(), garbage);
}

#[test]
fn a_database_with_a_broken_page_is_kept_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.db");
    close(open(&directory));
    let mut bytes = std::fs::read(path).unwrap();
    // Every page but the first.
    bytes[4096..].fill(0xff);
    let store = open_bytes(&directory, &bytes);
    assert!(store.kept_aside().is_some());
}

/// Waits until the journal is in the database and both are closed.
fn close(store: Store) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(store.close());
}

#[test]
fn a_newer_database_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.db");
    close(open(&directory));
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute("INSERT INTO migrations VALUES (99, 'later', 0)", []).unwrap();
    drop(connection);
    let failure = Store::open(&path).err().unwrap();
    assert_eq!(failure.kind(), FailureKind::FailedPrecondition);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().filter(|e| is_aside(e.as_ref().unwrap())).count(), 0);
}

fn is_aside(entry: &std::fs::DirEntry) -> bool {
    entry.file_name().to_string_lossy().contains("damaged")
}

const CHILD: &str = "QUANTIX_TEST_STORE";

/// Runs in a process of its own, which the next test kills while the transaction is open.
#[test]
#[ignore = "is the child of a_kill_in_a_transaction_leaves_the_state_before"]
fn the_child_that_is_killed() {
    let Ok(directory) = std::env::var(CHILD) else { return };
    let store = Store::open(&Path::new(&directory).join("node.db")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(store.write(|tx| tx.event(NewEvent::info("before", "committed")))).unwrap();
    runtime
        .block_on(store.write(|tx| {
            // Enough to spill pages to the journal before the commit.
            for _ in 0..50_000 {
                tx.event(NewEvent::info("within", "x".repeat(200)))?;
            }
            println!("\nready");
            loop {
                std::thread::park();
            }
            #[allow(unreachable_code)]
            Ok(())
        }))
        .unwrap();
}

#[test]
fn a_kill_in_a_transaction_leaves_the_state_before() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["store::tests::the_child_that_is_killed", "--exact", "--ignored", "--nocapture"])
        .env(CHILD, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "ready"), "the child ended before its transaction");
    child.kill().unwrap();
    child.wait().unwrap();
    let store = open(&directory);
    assert!(store.kept_aside().is_none());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let events = runtime.block_on(store.read(|tx| tx.events_after(0, &EventFilter::default(), 1000))).unwrap();
    assert_eq!(events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), ["before"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_newest_first_and_filtered() {
    let (_directory, store) = with_things().await;
    let resource = Id::new();
    let of = ResourceRef::new(ResourceKind::Volume, &resource, "a");
    let mut ids = Vec::new();
    for at in 0..5 {
        let mut new = new_task();
        if at % 2 == 0 {
            new.resource = Some(of.clone());
        }
        ids.push(store.write(move |tx| tx.task(new)).await.unwrap());
    }
    let mut over = ids[4].clone();
    over.state = TaskState::Succeeded;
    store.write(move |tx| tx.set_task(&over)).await.unwrap();
    let list = async |filter: TaskFilter, size, token: &str| {
        let page = Page::parse(size, token, "tasks").unwrap();
        let found = store.read(move |tx| tx.list_tasks(&page, &filter)).await.unwrap();
        (found.items.into_iter().map(|task| task.id).collect::<Vec<_>>(), found.next)
    };
    let id = |at: usize| ids[at].id.clone();
    let (first, token) = list(TaskFilter::default(), 3, "").await;
    assert_eq!(first, [id(4), id(3), id(2)]);
    assert_eq!(list(TaskFilter::default(), 3, &token).await.0, [id(1), id(0)]);
    let mine = TaskFilter { resource_id: Some(resource.to_string()), active_only: true };
    assert_eq!(list(mine, 0, "").await.0, [id(2), id(0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_one_moment_fail_and_succeed_each_for_itself() {
    let (_directory, store) = with_things().await;
    // The thread is held up until all are queued, so that they make groups.
    let (release, held) = mpsc::channel::<()>();
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.read(move |_| held.recv().map_err(|error| Failure::internal("held", error))).await }
    });
    let writes: Vec<_> = (0..200)
        .map(|at| {
            let change = store.submit_write(move |tx| {
                tx.insert(&thing(&format!("t{at}")))?;
                match at % 4 {
                    1 => Err(Failure::precondition("no")),
                    2 => panic!("on purpose"),
                    _ => Ok(at),
                }
            });
            change.unwrap()
        })
        .collect();
    release.send(()).unwrap();
    first.await.unwrap().unwrap();
    for (at, write) in writes.into_iter().enumerate() {
        let kind = write.await.unwrap().map_err(|failure| failure.kind());
        match at % 4 {
            1 => assert_eq!(kind, Err(FailureKind::FailedPrecondition)),
            2 => assert_eq!(kind, Err(FailureKind::Internal)),
            _ => assert_eq!(kind, Ok(at)),
        }
    }
    let there = store.read(|tx| tx.all::<Thing>()).await.unwrap();
    assert_eq!(there.len(), 100);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    /// Whatever succeeds is there, whatever fails is not.
    #[test]
    fn the_store_has_what_committed(changes in prop::collection::vec(("[a-d]", any::<bool>(), any::<bool>()), 1..20)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        runtime.block_on(async {
            let (_directory, store) = with_things().await;
            let mut model = std::collections::BTreeSet::new();
            for (name, add, fail) in changes {
                let key = name.clone();
                let done = store.write(move |tx| {
                    if add {
                        tx.insert(&thing(&key))?;
                    } else {
                        let id = tx.find::<Thing>(&key)?.record.id;
                        tx.delete::<Thing>(&id, None)?;
                    }
                    if fail { Err(Failure::precondition("no")) } else { Ok(()) }
                }).await;
                match (done, add) {
                    (Ok(()), true) => assert!(model.insert(name)),
                    (Ok(()), false) => assert!(model.remove(&name)),
                    (Err(failure), true) => assert!(fail || failure.kind() == FailureKind::AlreadyExists),
                    (Err(failure), false) => assert!(fail || failure.kind() == FailureKind::NotFound),
                }
            }
            let there = store.read(|tx| tx.all::<Thing>()).await.unwrap();
            let names: std::collections::BTreeSet<String> = there.into_iter().map(|t| t.record.name).collect();
            assert_eq!(names, model);
        });
    }
}
