//! Pools and volumes where real file systems and a real NFS server are.

use anyhow::{Context, Result, ensure};
use quantix_e2e::node::PATIENCE;
use quantix_e2e::{Bench, Case, case, with_node};
use quantix_lab::Status;
use quantix_lab::guest::{TOOLS, tool};
use std::time::{Duration, Instant};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("pool::nfs_is_mounted_and_watched", nfs_is_mounted_and_watched),
        case("pool::a_full_disk_leaves_nothing_half_made", a_full_disk_leaves_nothing_half_made),
    ]
}

/// An NFS server in L1 itself, by the programs of the guests' Debian; its export is in memory.
const SERVE: &str = "mkdir -p /var/lib/nfs/v4recovery /var/lib/nfs/rpc_pipefs /run/export
    touch /var/lib/nfs/etab /var/lib/nfs/rmtab
    mountpoint -q /run/export || mount -t tmpfs export /run/export
    mkdir -p /run/export/pool
    mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
    exportfs -o rw,no_root_squash,fsid=0,insecure,no_subtree_check 127.0.0.1:/run/export
    pidof rpc.mountd >/dev/null || rpc.mountd --no-nfs-version 3
    rpc.nfsd --no-nfs-version 3 --grace-time 10 --lease-time 10 2";

fn nfs_is_mounted_and_watched(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm stores", "pool shared"], |on| {
        bench.lab.script("modprobe -a nfsd nfs nfsv4", PATIENCE)?;
        serve(bench, SERVE)?;
        on.node.qx("pool create shared --nfs 127.0.0.1:/pool --nfs-options vers=4.2", PATIENCE)?;
        let write = "await /dev/vda; echo kept-on-nfs | $b dd of=/dev/vda conv=fsync 2>/dev/null; fact wrote $?";
        on.start("stores", "--disk size=8M,pool=shared", "", write)?;
        ensure!(on.fact("stores", "wrote")? == "0", "The guest could not write to a volume on NFS");
        let kept = bench.lab.script(&format!("grep -rlaF kept-on-nfs {TOOLS}/run/export/pool | wc -l"), PATIENCE)?;
        ensure!(kept.trim() == "1", "The export holds the guest's words {} times", kept.trim());
        on.node.qx("vm delete stores --force --with-volumes", PATIENCE)?;
        // The server goes; the pool says so, and everything else goes on.
        serve(bench, "rpc.nfsd 0")?;
        await_pool(on, "POOL_STATE_UNAVAILABLE")?;
        let start = Instant::now();
        on.node.qx("vm ls", Duration::from_secs(20)).context("A dead NFS server blocks the list of VMs")?;
        on.node.qx("pool ls", Duration::from_secs(20)).context("A dead NFS server blocks the list of pools")?;
        ensure!(start.elapsed() < Duration::from_secs(30), "The API was slow beside a dead NFS server");
        serve(bench, "rpc.nfsd --no-nfs-version 3 2")?;
        await_pool(on, "POOL_STATE_READY")
    })
}

/// Runs a script where the NFS server's programs are.
fn serve(bench: &Bench, script: &str) -> Result<()> {
    let outcome = bench.lab.run(&tool(&["sh", "-euc", script]), PATIENCE)?;
    ensure!(outcome.status == Status::Exited(0), "The NFS server: {}", outcome.errors());
    Ok(())
}

fn await_pool(on: &quantix_e2e::NodeBench<'_>, state: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pool = on.node.json("pool show shared")?;
        if pool["state"] == state {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "The pool is not {state}: {pool}");
    }
}

/// Too little room for an upload and for a full copy: one clear line each, and the pool is as before.
fn a_full_disk_leaves_nothing_half_made(bench: &Bench) -> Result<()> {
    with_node(bench, &["volume big", "volume big-copy", "pool small"], |on| {
        bench.lab.script(
            "umount /run/small 2>/dev/null || true; mkdir -p /run/small; mount -t tmpfs -o size=24m small /run/small
             mkdir /run/small/pool; head -c 20000000 /dev/urandom >/dev/shm/random",
            PATIENCE,
        )?;
        on.node.qx("pool create small --path /run/small/pool", PATIENCE)?;
        on.node.qx("image add fits /dev/shm/random --pool small", PATIENCE)?;
        let before = bench.lab.script("ls -R /run/small/pool", PATIENCE)?;
        for refused in [
            "image add too-much /dev/shm/random --pool small",
            "volume create big --image fits --format raw --pool small",
        ] {
            let outcome = on.node.try_qx(refused, PATIENCE)?;
            let words = outcome.errors();
            ensure!(outcome.status != Status::Exited(0), "{refused}: there is no room for that");
            ensure!(words.contains("space") || words.contains("full") || words.contains("room"), "{refused}: {words}");
        }
        let after = bench.lab.script("ls -R /run/small/pool", PATIENCE)?;
        ensure!(before == after, "Something was left:\n{before}\n---\n{after}");
        on.node.qx("image delete fits", PATIENCE)?;
        Ok(())
    })
}
