//! Disks, network, vsock and balloon, each driven by Debian's own drivers and programs.

use anyhow::{Context, Result, ensure};
use quantix_e2e::{Bench, Case, Expect, case};
use quantix_lab::guest::{HOST_ADDRESS, VSOCK_SOCKET, tool};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("disk::root_on_raw_ext4", root_on_raw_ext4),
        case("disk::root_on_qcow2_with_backing_file", root_on_qcow2_with_backing_file),
        case("disk::fio_verifies_raw", |bench| fio_verifies(bench, "raw")),
        case("disk::fio_verifies_qcow2", |bench| fio_verifies(bench, "qcow2")),
        case("net::tcp_both_ways", |bench| tcp_both_ways(bench, "off")),
        case("net::tcp_both_ways_by_vhost", |bench| tcp_both_ways(bench, "on")),
        case("net::vhost_lives_through_pause_and_reset", vhost_lives_through_pause_and_reset),
        case("vsock::guest_calls_host", guest_calls_host),
        case("vsock::host_calls_guest", host_calls_guest),
        case("balloon::gives_memory_back", balloon_gives_memory_back),
    ]
}

fn root_on_raw_ext4(bench: &Bench) -> Result<()> {
    let report = bench.run(&bench.guest().root(&bench.disks).test("disks,root"))?;
    report.powered_off()?.told("vda.readonly", "1")?.told("vda.mounted", "/mnt (ext4)")?.told_debian()
}

/// Two boots: what the first one writes, the second one finds, and the backing file stays as it was.
fn root_on_qcow2_with_backing_file(bench: &Bench) -> Result<()> {
    let overlay = "/dev/shm/qcow2/root.qcow2";
    // A backing file has to be beside its overlay; this one is, without a copy.
    let make = format!(
        "rm -f {overlay}; mkdir -p /dev/shm/qcow2; cd /dev/shm/qcow2
         [ -s root.raw ] || {{ touch root.raw; mount --bind {} root.raw; }}
         qemu-img create -q -f qcow2 -F raw -b root.raw root.qcow2",
        bench.disks.raw.display()
    );
    bench.lab.script(&make, PATIENCE)?;
    let guest = bench.guest().disk(overlay, "qcow2", false).mount_first_disk().test("root");
    let write = "$b mount -o remount,rw /mnt && echo kept > /mnt/note && $b umount -r /mnt; $b sync; fact wrote $?";
    bench.run(&guest.clone().script(write))?.powered_off()?.told("wrote", "0")?.told_debian()?;
    let read = "fact note \"$($b cat /mnt/note)\"";
    bench.run(&guest.script(read))?.powered_off()?.told("note", "kept")?;
    bench.lab.script(&format!("qemu-img check -q {overlay}"), PATIENCE)?;
    Ok(())
}

fn fio_verifies(bench: &Bench, format: &'static str) -> Result<()> {
    let disk = format!("/dev/shm/scratch.{format}");
    bench.lab.script(&format!("rm -f {disk}; qemu-img create -q -f {format} {disk} 64M"), PATIENCE)?;
    let fio = "for rw in randwrite write; do
                   inside fio --name=verify --filename=/dev/vdb --rw=$rw --bs=4k --size=16m --direct=1 --iodepth=16 \
                       --ioengine=libaio --verify=crc32c --verify_fatal=1 --do_verify=1 --fsync=64
                   fact fio.$rw $?
               done";
    let guest = bench.guest().root(&bench.disks).disk(&disk, format, false).script(fio);
    bench.run(&guest)?.powered_off()?.told("fio.randwrite", "0")?.told("fio.write", "0")?;
    Ok(())
}

fn tcp_both_ways(bench: &Bench, vhost: &'static str) -> Result<()> {
    let mut server = bench.lab.spawn(&tool(&["iperf3", "--server", "--forceflush"]), Duration::from_mins(5))?;
    ensure!(server.wait_for("listening", 1, PATIENCE)?, "iperf3 does not listen in L1");
    let streams = format!(
        "inside iperf3 -c {HOST_ADDRESS} -t 3; fact to_host $?
         inside iperf3 -c {HOST_ADDRESS} -t 3 -R; fact to_guest $?"
    );
    let guest = bench.guest().root(&bench.disks).net().vhost(vhost).test("ping").script(&streams);
    let report = bench.run(&guest)?.powered_off()?;
    report.told("ping", "answered")?.told("to_host", "0")?.told("to_guest", "0")?;
    Ok(())
}

/// The host's kernel moves the frames. Not one is lost by a pause, the driver's interrupts come by MSI-X, and a driver that
/// resets the device finds it working again.
fn vhost_lives_through_pause_and_reset(bench: &Bench) -> Result<()> {
    let pings = format!(
        "ping() {{ $b ping -c 1 -W 20 {HOST_ADDRESS} >/dev/null; }}
         lost=0; n=0; while [ $n -lt 40 ]; do ping && echo PONG $n || lost=$((lost+1)); n=$((n+1)); $b usleep 50000; done
         fact lost $lost
         fact interrupts $($b awk '/virtio.*-input/ {{ print $2 + $3 }}' /proc/interrupts)
         device=$($b basename $($b readlink -f /sys/class/net/eth0/device))
         echo $device >/sys/bus/virtio/drivers/virtio_net/unbind; echo $device >/sys/bus/virtio/drivers/virtio_net/bind
         start_net \"$(argument lab.ip)\"; ping; fact rebound $?"
    );
    let mut guest = bench.start(&bench.guest().cpus(2).net().vhost("on").script(&pings))?;
    guest.wait_for("PONG 5", PATIENCE)?;
    guest.ctl(&["pause"])?;
    ensure!(!guest.says_more(Duration::from_secs(2))?, "The guest went on while it was paused");
    guest.ctl(&["resume"])?;
    guest.wait_for("PONG 20", PATIENCE)?;
    let stats = guest.ctl(&["-o", "json", "stats"])?;
    let stats: serde_json::Value = serde_json::from_str(&stats)?;
    let queues = &stats["devices"][0]["queues"];
    let counted = |queue: usize| queues[queue]["operations"].as_u64().is_some_and(|frames| frames > 0);
    ensure!(counted(0) && counted(1), "Frames were not counted: {stats}");
    let report = bench.end(guest)?.powered_off()?;
    report.told("lost", "0")?.told("rebound", "0")?.told_number("interrupts", |count| count > 10)?;
    Ok(())
}

fn guest_calls_host(bench: &Bench) -> Result<()> {
    let listener = format!("UNIX-LISTEN:{VSOCK_SOCKET}_5252,unlink-early");
    let answer = "SYSTEM:read word; echo \"the host heard: $word\"";
    let server = bench.lab.spawn(&tool(&["socat", &listener, answer]), Duration::from_mins(5))?;
    let guest = bench.guest().root(&bench.disks).vsock().test("vsock");
    let report = bench.run(&guest)?.powered_off()?;
    let expected = format!("the host heard: hello from the guest, kernel {}", bench.images.kernel.version);
    report.told("vsock", &expected)?;
    drop(server);
    Ok(())
}

fn host_calls_guest(bench: &Bench) -> Result<()> {
    let listen = "echo LISTENING; inside socat -T 60 VSOCK-LISTEN:7000 EXEC:/bin/cat; fact served $?";
    let mut guest = bench.start(&bench.guest().root(&bench.disks).vsock().script(listen))?;
    guest.wait_for("LISTENING", PATIENCE)?;
    let call = format!("for i in 1 2 3 4 5 6 7 8 9; do
            answer=$({{ echo CONNECT 7000; sleep 1; echo is anybody there; }} | socat -t 20 - UNIX-CONNECT:{VSOCK_SOCKET})
            case $answer in OK*there) echo \"$answer\"; exit 0 ;; esac
        done; echo \"no: $answer\"; exit 1");
    let answer = bench.lab.run(&tool(&["sh", "-c", &call]), PATIENCE)?.text();
    ensure!(answer.starts_with("OK ") && answer.ends_with("\nis anybody there\n"), "The guest answered {answer:?}");
    bench.end(guest)?.powered_off()?.told("served", "0")?;
    Ok(())
}

/// 200 of 512 MiB go to the balloon and come back.
fn balloon_gives_memory_back(bench: &Bench) -> Result<()> {
    let watch = "free() { $b awk '/MemFree/{print $2}' /proc/meminfo; }
                 before=$(free); echo MEASURED; tries=0
                 while [ $(free) -gt $((before - 190000)) ] && [ $tries -lt 300 ]; do $b usleep 100000; tries=$((tries+1)); done
                 fact taken_kib $((before - $(free))); echo TAKEN; tries=0
                 while [ $(free) -lt $((before - 30000)) ] && [ $tries -lt 300 ]; do $b usleep 100000; tries=$((tries+1)); done
                 missing=$((before - $(free))); fact missing_kib $((missing > 0 ? missing : 0))";
    let mut guest = bench.start(&bench.guest().balloon().script(watch))?;
    guest.wait_for("MEASURED", PATIENCE)?;
    guest.ctl(&["balloon", "200M"]).context("The balloon was not set")?;
    guest.wait_for("TAKEN", PATIENCE)?;
    guest.ctl(&["balloon", "0"])?;
    let report = bench.end(guest)?.powered_off()?;
    report.told_number("taken_kib", |kib| kib >= 190_000)?.told_number("missing_kib", |kib| kib < 30_000)?;
    Ok(())
}

trait ToldDebian {
    fn told_debian(self) -> Result<()>;
}

impl ToldDebian for quantix_lab::Report {
    fn told_debian(self) -> Result<()> {
        let version = self.fact("debian").unwrap_or_default();
        ensure!(version.starts_with("12."), "The root is not Debian 12: {version:?}\n{}", self.serial());
        Ok(())
    }
}
