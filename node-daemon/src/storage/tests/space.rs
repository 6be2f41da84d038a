//! File systems of their own: a full one, and one whose copies share blocks. Mounting needs root; what could not be mounted is said.

use super::copy::{CopyWay, copy_file};
use super::*;
use crate::model::FailureKind;

/// Something mounted, for as long as this lives. Taken away lazily: a marker is closed by a thread that nobody waits for.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(done.is_ok_and(|status| status.success()) || std::thread::panicking(), "the mount stays");
    }
}

fn mount(at: PathBuf, arguments: &[&str]) -> Option<Mounted> {
    std::fs::create_dir_all(&at).unwrap();
    let output = Command::new("mount").args(arguments).arg(&at).output().unwrap();
    if output.status.success() {
        return Some(Mounted(at));
    }
    eprintln!("not run, because this could not be mounted: {}", String::from_utf8_lossy(&output.stderr));
    None
}

fn into(pool: &str, new: NewVolume) -> NewVolume {
    NewVolume { pool: pool.into(), ..new }
}

#[tokio::test]
async fn a_full_pool_says_so_and_keeps_nothing_half_made() {
    let room = Room::new().await;
    let small = room.directory.path().join("small");
    let Some(_mounted) = mount(small.clone(), &["-t", "tmpfs", "-o", "size=4m", "tmpfs"]) else { return };
    room.add_pool("small", &small).await.unwrap();
    let bytes = pattern(12 << 20, 1);
    room.image("debian", &bytes).await;
    let full = |failure: Failure| {
        assert_eq!(failure.kind(), FailureKind::ResourceExhausted, "{}", failure.chain());
        assert!(failure.to_string().contains("pool is full"), "{failure}");
        for shelf in ["volumes", "images"] {
            assert!(std::fs::read_dir(small.join(shelf)).unwrap().next().is_none());
        }
    };
    // Copied, converted, uploaded.
    for format in [VolumeFormat::Raw, VolumeFormat::Qcow2] {
        full(room.create(into("small", from_image("disk", "debian", format, false))).await.unwrap_err());
    }
    let upload = NewImage { pool: "small".into(), ..new_image("more", ImageKind::Disk) };
    full(room.upload(upload, &bytes).await.unwrap_err());
    assert!(room.volumes().await.is_empty());
    // What needs no room works, across pools.
    let linked = room.create(into("small", from_image("disk", "debian", VolumeFormat::Qcow2, true))).await.unwrap();
    assert!(room.contents(&linked.id).await == bytes);
    room.delete("disk").await.unwrap();
    room.storage.abandon(&linked.pool).await.unwrap();
}

#[tokio::test]
async fn copies_share_blocks_where_the_file_system_can() {
    let room = Room::new().await;
    let (disk, at) = (room.directory.path().join("disk"), room.directory.path().join("btrfs"));
    std::fs::File::create(&disk).unwrap().set_len(128 << 20).unwrap();
    let made =
        Command::new("mkfs.btrfs").arg("-q").arg(&disk).status().expect("mkfs.btrfs is there (package btrfs-progs)");
    assert!(made.success());
    let Some(_mounted) = mount(at.clone(), &["-o", "loop", disk.to_str().unwrap()]) else { return };
    room.add_pool("fast", &at).await.unwrap();
    let bytes = pattern(20 << 20, 2);
    let image = NewImage { pool: "fast".into(), ..new_image("debian", ImageKind::Disk) };
    room.upload(image, &bytes).await.unwrap();
    let copy = room.create(into("fast", from_image("copy", "debian", VolumeFormat::Raw, false))).await.unwrap();
    let live = room.storage.live_pool(&copy.pool).unwrap();
    assert!(live.reflink());
    assert!(room.contents(&copy.id).await == bytes);
    // Six copies of 20 MiB would not fit into 128 MiB.
    for index in 0..6 {
        room.clone_of("copy", &format!("copy-{index}"), false).await.unwrap();
    }
    let (from, to) = (std::fs::File::open(room.path_of(&copy)).unwrap(), at.join("to"));
    let target = std::fs::File::create(&to).unwrap();
    assert_eq!(copy_file(&from, &target, &to, &Meter::silent()).unwrap(), CopyWay::Reflink);
    room.storage.abandon(&copy.pool).await.unwrap();
    drop((from, target));
}

#[tokio::test]
async fn a_copy_stops_when_somebody_asks_for_it() {
    let room = Room::new().await;
    room.image("debian", &pattern(32 << 20, 3)).await;
    for (name, format) in [("copied", VolumeFormat::Raw), ("converted", VolumeFormat::Qcow2)] {
        let stop = CancellationToken::new();
        let reached = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (once, seen) = (stop.clone(), reached.clone());
        let meter = Meter::new(stop, move |done, total| {
            assert_eq!(total, 32 << 20);
            seen.store(done, std::sync::atomic::Ordering::Relaxed);
            if done > 4 << 20 {
                once.cancel();
            }
        });
        let failure = room.storage.create_volume(from_image(name, "debian", format, false), &meter).await.unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Cancelled);
        // On a file system with reflink, the first step is the last one.
        assert!(reached.load(std::sync::atomic::Ordering::Relaxed) <= 32 << 20);
        assert!(room.volumes().await.is_empty());
        assert_eq!(room.files().len(), 1);
    }
}
