//! Crashes: of the daemon, of a VMM, of a guest's kernel.

use anyhow::{Context, Result, ensure};
use quantix_e2e::node::PATIENCE;
use quantix_e2e::{Bench, Case, case, with_node};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("fault::vms_outlive_the_daemon", vms_outlive_the_daemon),
        case("fault::a_killed_vmm_is_started_again", a_killed_vmm_is_started_again),
        case("fault::a_panic_is_told", a_panic_is_told),
    ]
}

/// The guest counts on its console, with a network: both go on over a crash and over an ordered restart.
fn vms_outlive_the_daemon(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm counts", "net stays"], |on| {
        on.node.qx("net create stays --nat 10.90.5.1/24", PATIENCE)?;
        let count = "n=0; while :; do echo LAB count=$n; n=$((n + 1)); $b sleep 1; done";
        on.start("counts", "--network stays", "lab.dhcp=1", count)?;
        let address = on.fact("counts", "address")?;
        let before = on.vm("counts")?["status"]["pid"].as_u64().context("No pid")?;
        for end in [quantix_lab::Node::crash, quantix_lab::Node::stop] {
            let count: u64 = on.fact("counts", "count")?.parse()?;
            end(&on.node)?;
            bench
                .lab
                .script(&format!("ping -c 2 -W 5 {address}"), PATIENCE)
                .context("The network went with the daemon")?;
            on.node.start()?;
            let vm = on.await_state("counts", "VM_STATE_RUNNING")?;
            ensure!(vm["status"]["pid"].as_u64() == Some(before), "It is another process: {}", vm["status"]);
            on.node.console_says("counts", &format!("LAB count={}", count + 3), PATIENCE)?;
        }
        on.node.qx("vm isolation counts", PATIENCE)?;
        Ok(())
    })
}

fn a_killed_vmm_is_started_again(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm victim"], |on| {
        on.start("victim", "--restart on-failure", "", "fact up yes")?;
        on.fact("victim", "up")?;
        let vm = on.vm("victim")?;
        let pid = vm["status"]["pid"].as_u64().context("No pid")?;
        bench.lab.script(&format!("kill -9 {pid}"), PATIENCE)?;
        let new = format!(
            "tries=0; while {} | grep -q '\"pid\": {pid},'; do tries=$((tries + 1)); [ $tries -lt 60 ]; sleep 0.5; done",
            on.node.command("vm show victim -o json")
        );
        bench.lab.script(&new, PATIENCE)?;
        let vm = on.await_state("victim", "VM_STATE_RUNNING")?;
        ensure!(vm["status"]["lastExit"]["cause"] == "EXIT_CAUSE_VMM_KILLED", "{}", vm["status"]);
        let event = on.event("vm.exited", vm["id"].as_str().unwrap_or_default())?;
        ensure!(event["message"].as_str().is_some_and(|m| m.contains('9') || m.contains("KILL")), "The event: {event}");
        Ok(())
    })
}

fn a_panic_is_told(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm panics"], |on| {
        on.start("panics", "--restart never", "", "fact up yes; echo c >/proc/sysrq-trigger")?;
        let vm = on.await_state("panics", "VM_STATE_FAILED")?;
        ensure!(vm["status"]["lastExit"]["cause"] == "EXIT_CAUSE_GUEST_PANIC", "{}", vm["status"]);
        ensure!(on.node.qx("vm logs panics", PATIENCE)?.contains("sysrq triggered crash"), "The log lacks the panic");
        Ok(())
    })
}
