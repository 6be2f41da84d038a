//! Tasks: their life, waiting, watching, cancelling, and what a dead daemon leaves.

use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::model::{Caller, NewTask};
use crate::store::EventFilter;

/// Long enough for a slow machine; nothing here waits for it.
const DEADLINE: Option<Duration> = Some(Duration::from_secs(30));

async fn tasks() -> (tempfile::TempDir, Tasks) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.db");
    let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.unwrap().unwrap();
    (directory, Tasks::new(store))
}

async fn recorded(tasks: &Tasks) -> Task {
    let resource = ResourceRef::new(ResourceKind::Volume, &Id::new(), "disk");
    let new = NewTask::new("CloneVolume", resource, &Caller::daemon());
    tasks.shared.store.write(move |tx| tx.task(new)).await.unwrap()
}

#[tokio::test]
async fn a_task_runs_to_its_end_and_an_event_tells() {
    let (_directory, tasks) = tasks().await;
    let task = recorded(&tasks).await;
    let (go, wait) = oneshot::channel::<()>();
    tasks.run(task.clone(), |context| async move {
        context.step("Copying");
        context.progress(1, 2, "bytes");
        wait.await.unwrap();
        Ok(())
    });
    let mut watch = tasks.watch(&task.id).await.unwrap();
    while watch.task().progress.is_none() {
        watch.next().await.unwrap().expect("the task goes on");
    }
    let seen = tasks.get(&task.id).await.unwrap();
    assert_eq!((seen.state, seen.step.as_str(), seen.progress.unwrap().done), (TaskState::Running, "Copying", 1));
    go.send(()).unwrap();
    let end = tasks.wait(&task.id, DEADLINE).await.unwrap();
    assert_eq!((end.state, &end.error), (TaskState::Succeeded, &None));
    assert!(end.start_time.is_some() && end.end_time.is_some());
    while watch.next().await.unwrap().is_some() {}
    assert_eq!(watch.task(), end);
    let (id, store) = (task.id.clone(), &tasks.shared.store);
    assert_eq!(store.read(move |tx| tx.get_task(&id)).await.unwrap(), end);
    let events = store.read(|tx| tx.events_after(0, &EventFilter::default(), 9)).await.unwrap();
    assert_eq!((events.len(), events[0].details["task"].as_str()), (1, task.id.as_str()));
    assert_eq!(tasks.settle(Duration::ZERO).await, 0);
}

#[tokio::test]
async fn cancelling_stops_the_work_and_then_says_so() {
    let (_directory, tasks) = tasks().await;
    let task = recorded(&tasks).await;
    let (tidied, tidy) = oneshot::channel();
    tasks.run(task.clone(), |context| async move {
        context.cancelled().cancelled().await;
        tidied.send(()).unwrap();
        context.check()
    });
    assert!(!tasks.cancel(&task.id).await.unwrap().state.is_over());
    let end = tasks.wait(&task.id, DEADLINE).await.unwrap();
    tidy.await.unwrap();
    assert_eq!((end.state, end.error.unwrap().code), (TaskState::Cancelled, 1));
    assert_eq!(tasks.cancel(&task.id).await.unwrap().state, TaskState::Cancelled);
}

#[tokio::test]
async fn a_failure_and_a_panic_are_failures_of_the_task() {
    let (_directory, tasks) = tasks().await;
    let (one, two) = (recorded(&tasks).await, recorded(&tasks).await);
    tasks.run(one.clone(), |_| async {
        Err(Failure::exhausted("The pool is full").caused_by(std::io::Error::other("no space")))
    });
    tasks.run(two.clone(), |_| async { panic!("on purpose") });
    let end = tasks.wait(&one.id, DEADLINE).await.unwrap();
    let error = end.error.unwrap();
    assert_eq!((end.state, error.code, error.message.as_str()), (TaskState::Failed, 8, "The pool is full: no space"));
    assert_eq!(tasks.wait(&two.id, DEADLINE).await.unwrap().error.unwrap().code, 13);
}

#[tokio::test]
async fn waiting_begins_before_the_work_and_ends_with_the_time() {
    let (_directory, tasks) = tasks().await;
    let task = recorded(&tasks).await;
    let waited = tasks.wait(&task.id, Some(Duration::from_millis(1))).await.unwrap();
    assert_eq!(waited.state, TaskState::Pending);
    let mut watch = tasks.watch(&task.id).await.unwrap();
    let follow = tokio::spawn(async move {
        while watch.next().await.unwrap().is_some() {}
        watch.task()
    });
    tasks.run(task.clone(), |_| async { Ok(()) });
    assert_eq!(follow.await.unwrap().state, TaskState::Succeeded);
    let unknown = tasks.wait(&Id::new(), DEADLINE).await.unwrap_err();
    assert_eq!(unknown.kind(), FailureKind::NotFound);
}

#[tokio::test]
async fn what_a_dead_daemon_left_is_ended_as_failed() {
    let (directory, tasks) = tasks().await;
    let (left, over) = (recorded(&tasks).await, recorded(&tasks).await);
    tasks.run(over.clone(), |_| async { Ok(()) });
    tasks.wait(&over.id, DEADLINE).await.unwrap();
    drop(tasks);
    let path = directory.path().join("node.db");
    let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.unwrap().unwrap();
    let tasks = Tasks::new(store);
    let recovered = tasks.recover().await.unwrap();
    assert_eq!(recovered.iter().map(|task| &task.id).collect::<Vec<_>>(), [&left.id]);
    assert_eq!(tasks.get(&left.id).await.unwrap().state, TaskState::Failed);
    assert_eq!(tasks.get(&over.id).await.unwrap().state, TaskState::Succeeded);
    assert!(tasks.recover().await.unwrap().is_empty());
}

#[tokio::test]
async fn progress_wakes_watchers_seldom_but_is_fresh_when_asked_for() {
    let (_directory, tasks) = tasks().await;
    let task = recorded(&tasks).await;
    let (go, wait) = oneshot::channel::<()>();
    let (told, hear) = oneshot::channel::<()>();
    tasks.run(task.clone(), |context| async move {
        wait.await.unwrap();
        for done in 0..100_000 {
            context.progress(done, 0, "bytes");
        }
        told.send(()).unwrap();
        context.cancelled().cancelled().await;
        context.check()
    });
    let mut watch = tasks.watch(&task.id).await.unwrap();
    let follow = tokio::spawn(async move {
        let mut changes = 0;
        while watch.next().await.unwrap().is_some() {
            changes += 1;
        }
        changes
    });
    go.send(()).unwrap();
    hear.await.unwrap();
    assert_eq!(tasks.get(&task.id).await.unwrap().progress.unwrap().done, 99_999);
    tasks.cancel(&task.id).await.unwrap();
    assert!(follow.await.unwrap() < 1000);
}

#[tokio::test]
async fn waiting_ends_with_the_daemon() {
    let (_directory, tasks) = tasks().await;
    let task = recorded(&tasks).await;
    tasks.run(task.clone(), |context| async move {
        context.cancelled().cancelled().await;
        context.check()
    });
    tasks.close();
    assert!(!tasks.wait(&task.id, DEADLINE).await.unwrap().state.is_over());
}
