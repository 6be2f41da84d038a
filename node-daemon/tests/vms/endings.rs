//! How runs end that nobody asked to end, and what the restart policy makes of it.

use quantix_node::model::vm::{ExitCause, RestartMode};
use quantix_node::reconcile::lifecycle::State;
use rustix::process::Signal;

use crate::bench::{Bench, hear, reach, signal, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_vmm_is_started_again_until_the_policy_gives_up() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node().await;
    let vm = node.create(bench.record("victim", "after=sleep")).await;
    node.start(&vm).await.expect("started");
    for attempt in 1..=2 {
        let pid = vm.view().status.pid;
        signal(&vm, Signal::KILL);
        let again =
            until(&vm, "another run", |view| view.status.state == State::Running && view.status.pid != pid).await;
        assert_eq!(again.status.restarts, attempt);
        let exit = again.record().last_exit.clone().expect("an exit");
        assert_eq!((exit.cause, exit.signal), (ExitCause::VmmKilled, Some(9)));
    }
    signal(&vm, Signal::KILL);
    let failed = reach(&vm, State::Failed).await;
    assert!(failed.status.reason.contains("2 attempts within ten minutes"), "{}", failed.status.reason);
    assert!(failed.record().failed.is_some());
    let events = node.events("vm.exited").await;
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(|event| event.details["cause"] == "vmm-killed" && event.details["signal"] == "9"));
    assert!(events[0].message.contains("SIGKILL"), "{}", events[0].message);
    node.finish(&vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_panics_fails_or_comes_back_and_one_that_switches_itself_off_stays_off() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node().await;
    let mut record = bench.record("panicky", "after=panic");
    record.spec.restart.mode = RestartMode::Never;
    let panicky = node.create(record).await;
    // It may be over before the start was even answered.
    let _ = node.start(&panicky).await;
    let failed = reach(&panicky, State::Failed).await;
    let exit = failed.record().last_exit.clone().expect("an exit");
    assert_eq!(exit.cause, ExitCause::GuestPanic, "{}", exit.message);

    let done = node.create(bench.record("done", "after=off")).await;
    let _ = node.start(&done).await;
    let stopped =
        until(&done, "its end", |view| view.record().last_exit.is_some() && view.status.state == State::Stopped).await;
    assert_eq!(stopped.record().last_exit.as_ref().map(|exit| exit.cause), Some(ExitCause::GuestShutdown));
    assert!(!stopped.record().running, "it shall be off now");
    hear(&done, "ready").await;
    node.finish(&panicky).await;
    node.finish(&done).await;
}
