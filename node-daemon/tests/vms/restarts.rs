//! The daemon comes and goes; VMs stay.

use std::time::Duration;

use quantix_node::model::vm::{Begun, ExitCause};
use quantix_node::reconcile::lifecycle::State;
use rustix::process::Signal;

use crate::bench::{Bench, hear, reach, signal, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_daemon_takes_over_what_runs() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node().await;
    let vm = node.create(bench.record("stays", "after=button")).await;
    node.start(&vm).await.expect("started");
    hear(&vm, "ready").await;
    let pid = vm.view().status.pid;
    drop(vm);
    node.end().await;

    let node = bench.node().await;
    let vm = node.vms.find("stays").expect("known");
    let view = reach(&vm, State::Running).await;
    assert_eq!(view.status.pid, pid, "the same process");
    assert!(node.vms.promises().vcpus == 1 && !view.status.restart_needed);
    hear(&vm, "ready").await;
    vm.console.type_in("xyz".into()).await.expect("typed");
    hear(&vm, "xyz").await;
    node.stop(&vm, Duration::from_mins(1)).await.expect("stopped by its button");
    let exit = vm.view().record().last_exit.clone().expect("an exit");
    assert_eq!(exit.cause, ExitCause::Stopped, "{}", exit.message);
    let (log, _) = node.vms.logs(&vm);
    let text = String::from_utf8_lossy(&std::fs::read(log).expect("a log")).into_owned();
    assert_eq!(text.matches("ready").count(), 1, "{text}");
    node.finish(&vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_lost_meanwhile_is_started_again_and_one_that_should_be_off_is_stopped() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node().await;
    let lost = node.create(bench.record("lost", "after=sleep")).await;
    let unwanted = node.create(bench.record("unwanted", "after=sleep")).await;
    node.start(&lost).await.expect("started");
    node.start(&unwanted).await.expect("started");
    let (lost_pid, store) = (lost.view().status.pid, node.store.clone());
    // The daemon dies between the wish that it be off and doing anything about it.
    unwanted
        .change(&store, quantix_node::vm::Change::Note, |_, record| {
            record.running = false;
            Ok(())
        })
        .await
        .expect("noted");
    node.end().await;
    signal(&lost, Signal::KILL);
    drop((lost, unwanted, store));

    let node = bench.node().await;
    let lost = node.vms.find("lost").expect("known");
    let again =
        until(&lost, "another run", |view| view.status.state == State::Running && view.status.pid != lost_pid).await;
    assert_eq!(again.record().last_exit.as_ref().map(|exit| exit.cause), Some(ExitCause::Lost));
    let unwanted = node.vms.find("unwanted").expect("known");
    reach(&unwanted, State::Stopping).await;
    node.stop(&unwanted, Duration::ZERO).await.expect("stopped");
    node.finish(&lost).await;
    node.finish(&unwanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_half_made_is_gone_and_what_was_to_run_runs() {
    let Some(bench) = Bench::new() else { return };
    let node = bench.node().await;
    let mut half = bench.record("half", "after=sleep");
    half.begun = Begun::Creation;
    let mut going = bench.record("going", "after=sleep");
    going.begun = Begun::Deletion;
    let mut wanted = bench.record("wanted", "after=sleep");
    wanted.running = true;
    node.store
        .write(move |tx| {
            for record in [&half, &going, &wanted] {
                tx.insert(record)?;
            }
            Ok(())
        })
        .await
        .expect("inserted");
    node.end().await;

    let node = bench.node().await;
    let wanted = node.vms.find("wanted").expect("known");
    reach(&wanted, State::Running).await;
    for name in ["half", "going"] {
        if let Ok(vm) = node.vms.find(name) {
            let gone = tokio::time::timeout(crate::bench::PATIENCE, async {
                let mut watch = vm.watch();
                while node.vms.find(name).is_ok() {
                    // The last change of a VM is that it is forgotten; it is seen at the next look.
                    let _ = tokio::time::timeout(Duration::from_millis(20), watch.changed()).await;
                }
            });
            gone.await.expect("gone");
        }
    }
    assert_eq!(bench.disks(), 1);
    node.finish(&wanted).await;
}
