//! `lab demo-vmm`: an unmodified Debian kernel in `quantix-vmm`, with a disk, a network and vsock, shown on the terminal. It says
//! what it does and where, and ends by itself. Runs on the main thread.

use super::place;
use anyhow::{Context, Result, bail, ensure};
use quantix_lab::guest::{self, HOST_ADDRESS, VSOCK_SOCKET, target_directory, tool};
use quantix_lab::{Cache, Disks, Guest, Images, Lab, Machine, Report, Spec, Status, Vmm};
use std::time::{Duration, Instant};

const VSOCK_PORT: u32 = 5252;
const PATIENCE: Duration = Duration::from_mins(1);
const TIMEOUT: Duration = Duration::from_mins(4);

/// What the guest shows, as a session of its shell. `shows` prints a command as if it were typed, then runs it.
const SESSION: &str = r#"
shows() { echo; echo "root@guest:~# $*"; inside sh -c "$*"; }
shows uname -a
shows cat /etc/debian_version
shows nproc
shows lsblk
shows df -h /
shows ping -c 3 "$(argument lab.gw)"
shows "echo hello host, I am \$(uname -n) with Linux \$(uname -r) | socat -t 10 - VSOCK-CONNECT:2:5252"
echo
"#;

/// Shows it; `forced` overrides the choice of where.
pub fn run(vmm: &Vmm, forced: Option<Machine>) -> Result<()> {
    let start = Instant::now();
    let step = |text: &str| eprintln!("\n[{:6.1} s] {text}", start.elapsed().as_secs_f32());
    let (machine, why) = vmm.where_to_run()?;
    step(&format!("What `quantix-vmm check` says of this machine: {why}"));
    let machine = forced.unwrap_or(machine);
    step("The kernel, the initramfs and the disk, from Debian packages (the first time takes a minute or two).");
    let cache = Cache::open()?;
    let (images, disks) = (Images::prepare(&cache)?, Disks::prepare(&cache)?);
    step(place(machine));
    let mut spec = Spec { machine, ..Spec::new("demo", &images, &cache) };
    spec.live.push(target_directory()?);
    let lab = Lab::start(&spec)?;
    guest::prepare_host(&lab, &disks)?;
    let host = lab.script("uname -r; ls -l /dev/kvm", PATIENCE)?;
    step(&format!("The host is up: Linux {}.", host.trim().replace('\n', ", ")));
    step(&format!("On the host: tap0 has {HOST_ADDRESS}; a socket waits for the guest's vsock port {VSOCK_PORT}."));
    let listener = format!("UNIX-LISTEN:{VSOCK_SOCKET}_{VSOCK_PORT},unlink-early");
    let answer = "SYSTEM:read words; echo \"the host heard: $words. And it greets back.\"; echo \"heard: $words\" >&2";
    let mut greeter = lab.spawn(&tool(&["socat", &listener, answer]), TIMEOUT)?;
    let guest = Guest::new(&images).memory_mib(512).root(&disks).net().vsock().script(SESSION).timeout(TIMEOUT);
    step(&format!("Starting the guest:\n{}\n", guest.shown(vmm)));
    let report = guest.start(&lab, vmm)?.echoing().end()?;
    let heard = greeter.wait_for("heard:", 1, PATIENCE)?;
    drop(greeter);
    step(&summary(&report, heard)?);
    lab.down().context("The host does not end")
}

fn summary(report: &Report, heard: bool) -> Result<String> {
    if report.status() != Status::Exited(0) {
        bail!("quantix-vmm ended with {:?} instead of a clean power-off", report.status());
    }
    let serial = report.serial();
    ensure!(serial.contains(" 0% packet loss"), "The ping was not answered");
    ensure!(serial.contains("greets back"), "The guest did not hear the host over vsock");
    ensure!(heard, "The host did not hear the guest over vsock");
    Ok("Done: a disk, an answered ping, a greeting over vsock both ways, and a clean power-off (status 0).".into())
}
