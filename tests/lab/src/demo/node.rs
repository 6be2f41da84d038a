//! `lab demo`: a node daemon, and on it a Debian server with cloud-init, made and looked at by `qx` as a user would. Runs on the
//! main thread.

use super::place;
use anyhow::{Context, Result};
use quantix_lab::guest::{TOOLS, prepare_host};
use quantix_lab::node::Programs;
use quantix_lab::{Cache, Disks, Images, Lab, Machine, Node, Server, Spec, Vmm};
use std::io::Write as _;
use std::time::{Duration, Instant};

/// A call, a task.
const PATIENCE: Duration = Duration::from_mins(4);
/// A server's way to its login prompt, with emulated CPUs below it.
const BOOT: Duration = Duration::from_mins(8);
const KEY: &str = "/dev/shm/node/key";

/// What the user types in the server's shell.
const SESSION: [&str; 5] = ["uname -a", "lsblk", "df -h /", "ip -brief address", "ping -c 3 -W 5 _gateway"];

/// Shows it; `forced` overrides the choice of where.
pub fn run(programs: &Programs, forced: Option<Machine>) -> Result<()> {
    let start = Instant::now();
    let step = |text: &str| eprintln!("\n[{:6.1} s] {text}", start.elapsed().as_secs_f32());
    let (machine, why) = Vmm::Quantix(programs.vmm.clone()).where_to_run()?;
    step(&format!("What `quantix-vmm check` says of this machine: {why}"));
    let machine = forced.unwrap_or(machine);
    step("A Debian server with its kernel, from Debian packages (the first time takes three minutes or so).");
    let cache = Cache::open()?;
    let (images, disks, server) = (Images::prepare(&cache)?, Disks::prepare(&cache)?, Server::prepare(&cache)?);
    step(place(machine));
    let mut spec = Spec { machine, memory_mib: 6144, ..Spec::new("demo", &images, &cache) };
    spec.live.push(quantix_lab::guest::target_directory()?);
    let lab = Lab::start(&spec)?;
    prepare_host(&lab, &disks)?;
    step("Starting quantix-node on that host …");
    let node = Node::open(&lab, programs.clone())?;
    let shown = Shown { node: &node, lab: &lab };
    shown.qx("host status", PATIENCE)?;
    step("An image: the server's disk, its kernel and its initramfs.");
    let (disk, kernel, initrd) = (server.disk.display(), server.kernel.display(), server.initrd.display());
    let boot = format!("--kernel {kernel} --initrd {initrd} --cmdline '{}'", Server::CMDLINE);
    shown.qx(&format!("image add debian {disk} {boot}"), PATIENCE)?;
    step("A VM from it, configured by cloud-init.");
    lab.script(&format!("rm -f {KEY}*; chroot {TOOLS} ssh-keygen -q -t ed25519 -N '' -f {KEY}"), PATIENCE)?;
    let create = format!(
        "vm create demo --image debian --size 2G --cpus 2 --memory 768M --network default --user you --ssh-key @{KEY}.pub --start"
    );
    shown.qx(&create, PATIENCE)?;
    shown.qx("vm ls", PATIENCE)?;
    step(
        "Its console, until it asks for a name (half a minute on hardware's KVM is seconds; here it is two minutes or so) …",
    );
    let console = node.console_says("demo", "demo login:", BOOT)?;
    print_console(&console);
    shown.qx("vm show demo", PATIENCE)?;
    step("A shell in it, over the network that it got its address from.");
    shell(&lab, &node)?;
    step("What the node knows of it.");
    for words in ["vm stats demo", "vm isolation demo", "vm boot-report demo", "net leases default", "events"] {
        shown.qx(words, PATIENCE)?;
    }
    step("The power button; then everything goes.");
    shown.qx("vm stop demo --timeout 3m", PATIENCE)?;
    shown.qx("vm delete demo --with-volumes", PATIENCE)?;
    node.stop().context("The daemon does not end")?;
    lab.down().context("The host does not end")?;
    step("Done.");
    Ok(())
}

/// A user's terminal.
struct Shown<'a> {
    node: &'a Node<'a>,
    lab: &'a Lab,
}

impl Shown<'_> {
    /// Prints a command as if it were typed, and what it says.
    fn qx(&self, words: &str, patience: Duration) -> Result<()> {
        println!("\n# qx {words}");
        let command = self.node.command(words);
        let process = self.lab.spawn(&["sh", "-euc", &command], patience)?.echoing();
        process.end_input()?;
        let outcome = process.wait()?;
        anyhow::ensure!(outcome.status == quantix_lab::Status::Exited(0), "qx {words} ended with {:?}", outcome.status);
        Ok(())
    }
}

/// The session, each command as it would look.
fn shell(lab: &Lab, node: &Node<'_>) -> Result<()> {
    let vm = node.json("vm show demo")?;
    let address = vm["status"]["nics"][0]["addresses"][0].as_str().context("The VM has no address")?;
    let ssh = format!(
        "chroot {TOOLS} ssh -i {KEY} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o ConnectTimeout=30"
    );
    let commands: Vec<String> =
        SESSION.iter().map(|command| format!("echo; echo 'you@demo:~$ {command}'; {command}")).collect();
    // sshd makes its keys while the console asks for a name already.
    let session = format!(
        "tries=0; until {ssh} you@{address} true 2>/dev/null; do tries=$((tries + 1)); [ $tries -lt 12 ]; sleep 5; done
         {ssh} you@{address} \"$0\""
    );
    println!("\n# ssh you@{address}");
    let process = lab.spawn(&["sh", "-euc", &session, &commands.join("; ")], BOOT)?.echoing();
    process.end_input()?;
    let outcome = process.wait()?;
    anyhow::ensure!(outcome.status == quantix_lab::Status::Exited(0), "The session ended with {:?}", outcome.status);
    Ok(())
}

/// The newest lines of the console.
fn print_console(console: &str) {
    const LINES: usize = 12;
    let lines: Vec<&str> = console.lines().collect();
    let newest = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    println!("\n# qx vm console demo\n…\n{}", newest.join("\n"));
    let _shown = std::io::stdout().flush();
}
