//! Events: resuming without a gap or a double, filters, slow watchers, old tokens.

use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use tokio::time::timeout;

use super::*;
use crate::model::{Id, ResourceKind, ResourceRef};

async fn events() -> (tempfile::TempDir, Events) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.db");
    let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.unwrap().unwrap();
    (directory, Events::new(store))
}

async fn next(watch: &mut EventWatch) -> Event {
    timeout(Duration::from_secs(30), watch.next()).await.expect("an event in time").unwrap().expect("an event")
}

#[tokio::test]
async fn a_new_watch_sees_new_events_only() {
    let (_directory, events) = events().await;
    events.publish(NewEvent::info("vm.created", "old")).await.unwrap();
    let mut watch = events.watch(None, EventFilter::default()).await.unwrap();
    assert!(watch.next().now_or_never().is_none());
    events.publish(NewEvent::info("vm.deleted", "new")).await.unwrap();
    assert_eq!(next(&mut watch).await.message, "new");
}

#[tokio::test]
async fn filters_are_by_kind_and_resource() {
    let (_directory, events) = events().await;
    let vm = ResourceRef::new(ResourceKind::Vm, &Id::new(), "a");
    let filter = EventFilter { kinds: vec!["vm.".into()], resource_id: Some(vm.id.to_string()) };
    let mut live = events.watch(None, filter.clone()).await.unwrap();
    let first = events.publish(NewEvent::info("start", "no")).await.unwrap();
    events.publish(NewEvent::info("vm.state", "no resource")).await.unwrap();
    events.publish(NewEvent::info("volume.created", "other kind").on(vm.clone())).await.unwrap();
    events.publish(NewEvent::info("vm.state", "yes").on(vm)).await.unwrap();
    assert_eq!(next(&mut live).await.message, "yes");
    let mut resumed = events.watch(Some(first.resume_token()), filter).await.unwrap();
    assert_eq!(next(&mut resumed).await.message, "yes");
}

#[tokio::test]
async fn a_slow_watcher_loses_nothing() {
    let (_directory, events) = events().await;
    let mut watch = events.watch(None, EventFilter::default()).await.unwrap();
    // Far more than the broadcast holds.
    let burst = events.store.write(|tx| (0..5000).try_for_each(|_| tx.event(NewEvent::info("a", "b")).map(drop)));
    burst.await.unwrap();
    for sequence in 1..=5000 {
        assert_eq!(next(&mut watch).await.sequence, sequence);
    }
    assert!(watch.next().now_or_never().is_none());
}

#[tokio::test]
async fn tokens_that_fit_no_kept_event_are_refused() {
    let (_directory, events) = events().await;
    let old = events.publish(NewEvent::info("a", "b")).await.unwrap();
    let future = ResumeToken { sequence: 99, ..old.resume_token() };
    let foreign = ResumeToken { epoch: "another".into(), ..old.resume_token() };
    events.store.write(|tx| (0..20_600).try_for_each(|_| tx.event(NewEvent::info("a", "b")).map(drop))).await.unwrap();
    let future = ResumeToken { sequence: future.sequence + 99_999, ..future };
    for token in [old.resume_token(), future, foreign] {
        let failure = events.watch(Some(token), EventFilter::default()).await.err().unwrap();
        assert_eq!(failure.kind(), FailureKind::OutOfRange);
    }
}

#[tokio::test]
async fn a_watch_ends_with_the_daemon() {
    let (_directory, events) = events().await;
    let mut watch = events.watch(None, EventFilter::default()).await.unwrap();
    events.close();
    assert_eq!(watch.next().await.unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    /// Wherever a watch breaks and goes on, every event is seen once and in order.
    #[test]
    fn resuming_has_no_gap_and_no_double(bursts in prop::collection::vec(1usize..600, 1..5)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_directory, events) = events().await;
            let first = events.publish(NewEvent::info("a", "b")).await.unwrap();
            let (mut token, mut seen) = (first.resume_token(), first.sequence);
            for burst in bursts {
                let mut watch = events.watch(Some(token.clone()), EventFilter::default()).await.unwrap();
                let publish = events.store.write(move |tx| (0..burst).try_for_each(|_| tx.event(NewEvent::info("a", "b")).map(drop)));
                publish.await.unwrap();
                // Breaks off in the middle of the burst; the rest is for the next watch.
                for _ in 0..burst.div_ceil(2) {
                    let event = next(&mut watch).await;
                    assert_eq!(event.sequence, seen + 1);
                    seen = event.sequence;
                    token = event.resume_token();
                }
            }
        });
    }
}
