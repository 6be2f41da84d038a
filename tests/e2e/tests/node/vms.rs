//! The life of a VM: from an image with cloud-init to its end.

use anyhow::{Context, Result, ensure};
use quantix_e2e::node::PATIENCE;
use quantix_e2e::{Bench, Case, case, with_node};
use quantix_lab::guest::TOOLS;
use quantix_lab::{Cache, Server, Status};
use std::time::Duration;

/// A Debian server's way from its start to its login prompt, with emulated CPUs below it.
const SERVER_BOOT: Duration = Duration::from_mins(7);

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("vm::debian_configures_itself_by_cloud_init", debian_configures_itself_by_cloud_init),
        case("vm::button_pause_reset", button_pause_reset),
        case("vm::limits_are_the_kernels", limits_are_the_kernels),
        case("vm::a_clone_is_another_vm", a_clone_is_another_vm),
    ]
}

/// What a user does first: an image, a VM with a key, its console, its address, a shell in it.
fn debian_configures_itself_by_cloud_init(bench: &Bench) -> Result<()> {
    let server = Server::prepare(&Cache::open()?)?;
    with_node(bench, &["vm debian"], |on| {
        let (kernel, initrd) = (server.kernel.display(), server.initrd.display());
        let boot = format!("--kernel {kernel} --initrd {initrd} --cmdline '{}'", Server::CMDLINE);
        on.node.image("debian", &format!("{} {boot}", server.disk.display()))?;
        let key = "/dev/shm/node/key";
        bench.lab.script(&format!("rm -f {key}*; chroot {TOOLS} ssh-keygen -q -t ed25519 -N '' -f {key}"), PATIENCE)?;
        let create = format!(
            "vm create debian --image debian --size 2G --cpus 2 --memory 768M --network default --user someone \
             --ssh-key @{key}.pub --start"
        );
        on.node.qx(&create, PATIENCE)?;
        on.node.console_says("debian", "debian login:", SERVER_BOOT)?;
        let vm = on.vm("debian")?;
        let address = vm["status"]["nics"][0]["addresses"][0].as_str().context("No address is known")?.to_owned();
        let shell = format!(
            "tries=0; until chroot {TOOLS} ssh -i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ConnectTimeout=30 \
             -o LogLevel=ERROR someone@{address} 'echo \"$(whoami) on $(hostname), $(df -BM --output=size / | tail -1)\"'; \
             do tries=$((tries + 1)); [ $tries -lt 12 ] || exit 1; sleep 5; done"
        );
        let words = bench.lab.script(&shell, SERVER_BOOT)?;
        // The file system has grown to its volume: more than the image's 900 MB.
        let size = words.trim().rsplit(' ').next().and_then(|size| size.trim_end_matches('M').parse::<u32>().ok());
        ensure!(words.contains("someone on debian"), "The shell says {words:?}");
        ensure!(size.is_some_and(|size| size > 1500), "The root was not grown: {words:?}");
        let stats = on.node.json("vm stats debian")?;
        ensure!(stats["vcpus"].as_array().is_some_and(|vcpus| vcpus.len() == 2), "Two vCPUs have no counters: {stats}");
        on.node.qx("vm isolation debian", PATIENCE)?;
        on.node.qx("vm boot-report debian", PATIENCE)?;
        on.node.qx("vm stop debian --timeout 3m", Duration::from_mins(4))?;
        let exit = on.await_state("debian", "VM_STATE_STOPPED")?["status"]["lastExit"]["cause"].clone();
        ensure!(exit == "EXIT_CAUSE_GUEST_SHUTDOWN" || exit == "EXIT_CAUSE_STOPPED", "It ended by {exit}");
        Ok(())
    })
}

fn button_pause_reset(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm life"], |on| {
        let wait =
            "await /dev/input/event0; fact waits yes; $b head -c 24 /dev/input/event0 >/dev/null; $b poweroff -f";
        on.start("life", "", "", wait)?;
        on.fact("life", "waits")?;
        on.node.qx("vm pause life", PATIENCE)?;
        on.await_state("life", "VM_STATE_PAUSED")?;
        on.node.qx("vm resume life", PATIENCE)?;
        on.node.qx("vm reset life", PATIENCE)?;
        on.node.console_says("life", "LAB-INIT", PATIENCE)?;
        on.await_state("life", "VM_STATE_RUNNING")?;
        let twice = "tries=0; until [ $(QX | grep -ac 'LAB waits') -ge 2 ]; do tries=$((tries+1)); [ $tries -lt 90 ]; sleep 1; done";
        bench.lab.script(&twice.replace("QX", &on.node.command("vm logs life")), PATIENCE * 2)?;
        on.node.qx("vm stop life --timeout 90s", PATIENCE)?;
        let vm = on.await_state("life", "VM_STATE_STOPPED")?;
        // The button was enough: nobody had to pull the plug.
        ensure!(vm["status"]["lastExit"]["message"].as_str().is_some_and(|m| !m.contains("plug")), "{}", vm["status"]);
        on.node.qx("vm start life", PATIENCE)?;
        on.await_state("life", "VM_STATE_RUNNING")?;
        Ok(())
    })
}

/// Limits that the daemon promises are in the VM's own cgroup.
fn limits_are_the_kernels(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm bounded"], |on| {
        on.start("bounded", "--cpu-weight 250 --cpu-quota 50 --pin 1", "", "fact up yes")?;
        on.fact("bounded", "up")?;
        let pid = on.vm("bounded")?["status"]["pid"].as_u64().context("No pid")?;
        let read = format!(
            "cd /sys/fs/cgroup$(cut -d: -f3- /proc/{pid}/cgroup); cat cpu.weight cpu.max cpuset.cpus; \
             [ $(cat memory.max) -ge 268435456 ] && [ $(cat memory.max) -lt 536870912 ]; cat pids.max >/dev/null"
        );
        let limits = bench.lab.script(&read, PATIENCE)?;
        ensure!(limits.lines().collect::<Vec<_>>() == ["250", "50000 100000", "1"], "The cgroup says {limits:?}");
        on.node.qx("vm isolation bounded --fds", PATIENCE)?;
        Ok(())
    })
}

fn a_clone_is_another_vm(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm copy", "vm golden"], |on| {
        let write = "await /dev/vda; echo from-the-golden-one | $b dd of=/dev/vda conv=fsync 2>/dev/null; fact wrote $?; $b poweroff -f";
        on.start("golden", "--disk size=8M --network default --restart never", "", write)?;
        ensure!(on.fact("golden", "wrote")? == "0", "The golden VM could not write");
        on.await_state("golden", "VM_STATE_STOPPED")?;
        on.node.qx("vm clone golden copy --full-copy", PATIENCE)?;
        let (golden, copy) = (on.vm("golden")?, on.vm("copy")?);
        ensure!(golden["spec"]["nics"][0]["mac"] != copy["spec"]["nics"][0]["mac"], "The clone has the same MAC");
        ensure!(
            golden["spec"]["disks"][0]["volume"] != copy["spec"]["disks"][0]["volume"],
            "The clone has the same volume"
        );
        let refused = on.node.try_qx("vm clone golden copy", PATIENCE)?;
        ensure!(refused.status != Status::Exited(0), "A second VM of the same name was made");
        Ok(())
    })
}
