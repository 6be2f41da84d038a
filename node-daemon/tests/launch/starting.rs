//! Starting, finding again, ending; and what is left when a step fails.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use quantix_node::vm::launch::{Exit, Launcher, Step, exit_of};
use serde_json::json;

use crate::bench::{Bench, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_runs_in_its_jail_and_its_end_is_known() {
    let Some(bench) = Bench::new() else { return };
    let running = bench.start(&json!({})).await;
    let directory = bench.launcher.directory(&running.vm);
    assert!(running.launched.control.starts_with(&directory));
    rustix::process::pidfd_send_signal(running.launched.pidfd.as_fd(), rustix::process::Signal::KILL).unwrap();
    assert_eq!(exit_of(&running.launched.pidfd).await.unwrap(), Exit::Signal(9));
    bench.launcher.clean(&running.vm).await;
    assert!(!directory.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_starts_again_finds_its_vmms_and_sweeps_the_rest() {
    let Some(bench) = Bench::new() else { return };
    let (stays, goes) = (bench.start(&json!({})).await, bench.start(&json!({})).await);
    let again = Launcher::open(bench.settings.clone()).unwrap();
    let found = again.adopt(&stays.vm).expect("it runs");
    assert_eq!((found.pid, &found.record), (stays.launched.pid, &stays.launched.record));
    again.sweep(BTreeSet::from([stays.vm.clone()])).await;
    assert!(again.directory(&stays.vm).exists() && !again.directory(&goes.vm).exists());
    if goes.launched.record.cgroup.is_some() {
        assert_eq!(exit_of(&goes.launched.pidfd).await.unwrap(), Exit::Signal(9), "swept with its group");
    }
    bench.end(stays).await;
    assert!(again.adopt(&goes.vm).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_configuration_ends_with_its_status() {
    let Some(bench) = Bench::new() else { return };
    let (plan, _serial) = bench.plan(&json!({ "cpus": { "count": 0 } }));
    let vm = plan.vm.clone();
    let launched = bench.launcher.launch(plan).await.unwrap();
    assert_eq!(exit_of(&launched.pidfd).await.unwrap(), Exit::Status(2));
    let log = std::fs::read_to_string(bench.log()).unwrap();
    assert!(log.contains("quantix-vmm: "), "{log}");
    bench.launcher.clean(&vm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_launch_names_its_step_and_leaves_nothing() {
    let Some(bench) = Bench::new() else { return };
    let failing = Bench::with("/etc/passwd".into(), "/etc/passwd".into());
    let (plan, _serial) = failing.plan(&json!({}));
    let vm = plan.vm.clone();
    let error = failing.launcher.launch(plan).await.unwrap_err();
    assert_eq!(error.step, Step::Execute, "{error}");
    assert!(error.to_string().contains("could not execute the VMM program"), "{error}");
    assert!(!failing.launcher.directory(&vm).exists());
    drop(bench);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_died_is_replaced() {
    let Some(bench) = Bench::new() else { return };
    let stage = stage_of_this_process().expect("the stage runs");
    let stage_pid = rustix::process::Pid::from_raw(stage).unwrap();
    rustix::process::kill_process(stage_pid, rustix::process::Signal::KILL).unwrap();
    // An order that it dies over is lost, and told so; the next one after its end starts another.
    let deadline = Instant::now() + PATIENCE;
    while stage_of_this_process() == Some(stage) && Instant::now() < deadline {
        tokio::task::yield_now().await;
    }
    let running = bench.start(&json!({})).await;
    assert_ne!(stage_of_this_process(), Some(stage));
    bench.end(running).await;
}

/// The launcher stage among this process's children.
fn stage_of_this_process() -> Option<i32> {
    let own = std::process::id().to_string();
    let mut processes = std::fs::read_dir("/proc").ok()?.flatten();
    processes.find_map(|entry| {
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.to_owned();
        (line.contains("__launch") && parent == own).then(|| entry.file_name().to_str()?.parse().ok())?
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn starting_is_a_matter_of_milliseconds() {
    let Some(bench) = Bench::new() else { return };
    let mut times = Vec::new();
    for _ in 0..20 {
        let (plan, _serial) = bench.plan(&json!({}));
        let vm = plan.vm.clone();
        let start = Instant::now();
        let launched = bench.launcher.launch(plan).await.unwrap();
        times.push(start.elapsed());
        rustix::process::pidfd_send_signal(launched.pidfd.as_fd(), rustix::process::Signal::KILL).unwrap();
        exit_of(&launched.pidfd).await.unwrap();
        bench.launcher.clean(&vm).await;
    }
    times.sort();
    println!("launch: median {:?}, longest {:?}", times[times.len() / 2], times[times.len() - 1]);
    // The shortest: a busy machine makes any of them long, but not all.
    assert!(times[0] < Duration::from_millis(25), "{times:?}");
}
