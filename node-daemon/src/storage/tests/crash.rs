//! The daemon dies at any moment: a child process that makes, copies, grows and deletes volumes is killed again and again, and each
//! time the next start has to find an inventory that fits the pool.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Stdio};
use std::time::Duration;

use super::*;
use crate::model::{Base, Pool, VolumePhase};

/// Where the child finds its directory; without it, it is no child.
const DIRECTORY: &str = "QUANTIX_STORAGE_CRASH_DIRECTORY";
const ROUNDS: u64 = 25;
const MIB: u64 = 1 << 20;

/// Not a test: what is killed. It says what it has made, and what it is about to delete.
#[tokio::test]
async fn child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else { return };
    let (store, storage) = open(Path::new(&directory)).await;
    let room = Room { storage, store, directory: tempfile::tempdir().unwrap() };
    let say = |word: &str, name: &str| {
        // Whole lines, at once: the parent must not read half of one.
        let line = format!("{word} {name}\n");
        std::io::stdout().write_all(line.as_bytes()).and_then(|()| std::io::stdout().flush()).unwrap();
    };
    say("\nready", "");
    loop {
        let name = format!("v{}", &Id::new().as_str()[24..]);
        let (linked, flat) = (format!("{name}-linked"), format!("{name}-flat"));
        room.create(from_image(&name, "debian", VolumeFormat::Raw, false)).await.unwrap();
        say("made", &name);
        room.create(from_image(&linked, "debian", VolumeFormat::Qcow2, true)).await.unwrap();
        say("made", &linked);
        room.clone_of(&linked, &flat, false).await.unwrap();
        say("made", &flat);
        for volume in [&name, &linked] {
            room.resize(volume, 64 * MIB).await.unwrap();
        }
        for volume in [&name, &flat] {
            say("deleting", volume);
            room.delete(volume).await.unwrap();
        }
    }
}

fn spawn(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "storage::tests::crash::child", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets the child work for so long after its start, kills it, and returns the names that must be there.
fn run_and_kill(directory: &Path, work: Duration) -> Vec<String> {
    let mut child = spawn(directory);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("ready")), "the child ended before it was ready");
    // The moment of the end is what is tested, so it is a time and no event.
    std::thread::sleep(work);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut there = Vec::new();
    for line in lines {
        match line.split_once(' ') {
            Some(("made", name)) => there.push(name.to_owned()),
            Some(("deleting", name)) => there.retain(|other| other != name),
            _ => {}
        }
    }
    there
}

#[tokio::test]
async fn killed_at_any_moment_nothing_is_lost_and_nothing_is_left() {
    let room = Room::new().await;
    let bytes = pattern(24 << 20, 1);
    room.image("debian", &bytes).await;
    let directory = room.close().await;
    let mut wanted: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let made = run_and_kill(directory.path(), Duration::from_millis(round * 37 % 170));
        wanted.extend(made);
        let (store, storage) = open(directory.path()).await;
        let room = Room { storage, store, directory: tempfile::tempdir().unwrap() };
        let volumes = room.volumes().await;
        for name in &wanted {
            assert!(volumes.iter().any(|volume| volume.name.as_str() == name), "round {round}: {name} is lost");
        }
        let pool = room.storage.pools().get(&volumes.first().map_or_else(Id::new, |v| v.pool.clone()));
        if let Ok(pool) = pool {
            let mut files: Vec<_> = pool.place().entries().unwrap().into_iter().map(|entry| entry.name).collect();
            files.retain(|name| name.contains('.'));
            assert_eq!(files.len(), volumes.len(), "round {round}: files and records differ");
            assert!(
                !pool
                    .place()
                    .shelf(place::Shelf::Volumes)
                    .read_dir()
                    .unwrap()
                    .any(|entry| { entry.unwrap().file_name().to_string_lossy().starts_with(".part-") })
            );
        }
        for volume in &volumes {
            assert_eq!(volume.phase, VolumePhase::Ready);
            let contents = room.contents(&volume.id).await;
            assert_eq!(contents.len() as u64, volume.size_bytes, "{}", volume.name);
            assert!(contents[..bytes.len()] == bytes, "round {round}: {} holds something else", volume.name);
        }
        assert!(room.events("pool.stray").await.is_empty() && room.events("pool.missing").await.is_empty());
        // Keeps the test short: what was seen to be whole makes room.
        for volume in volumes {
            room.delete(volume.name.as_str()).await.unwrap();
        }
        wanted.clear();
        drop(room.close().await);
    }
}

#[tokio::test]
async fn what_was_half_made_is_brought_to_an_end() {
    let room = Room::new().await;
    let keep = room.create(new_volume("keep", MIB, VolumeFormat::Qcow2)).await.unwrap();
    let grow = room.create(new_volume("grow", MIB, VolumeFormat::Qcow2)).await.unwrap();
    let mut half = grow.clone();
    half.phase = VolumePhase::Resizing { to: 2 * MIB };
    let like = |name: &str, phase| Volume {
        id: Id::new(),
        name: crate::model::Name::try_from(name).unwrap(),
        phase,
        ..grow.clone()
    };
    let (making, deleting) = (like("making", VolumePhase::Creating), like("deleting", VolumePhase::Deleting));
    for volume in [&making, &deleting] {
        std::fs::write(room.path_of(volume), b"half").unwrap();
    }
    let volumes = room.pool().join("volumes");
    std::fs::write(volumes.join(".part-x"), b"half").unwrap();
    std::fs::write(volumes.join("holiday.jpg"), b"mine").unwrap();
    room.store
        .write(move |tx| {
            tx.update(&half, None)?;
            tx.insert(&making)?;
            tx.insert(&deleting).map(drop)
        })
        .await
        .unwrap();
    let room = room.restart().await;
    let mut names: Vec<_> = room.volumes().await.into_iter().map(|v| (v.name.to_string(), v.size_bytes)).collect();
    names.sort();
    assert_eq!(names, [("grow".to_owned(), 2 * MIB), ("keep".to_owned(), MIB)]);
    let mut files = vec![format!("{}.qcow2", keep.id), format!("{}.qcow2", grow.id), "holiday.jpg".to_owned()];
    files.sort();
    assert_eq!(room.files(), files);
    assert!(room.events("pool.stray-files").await[0].contains("holiday.jpg"));
    // A file that is missing is told, and its record stays.
    std::fs::rename(room.path_of(&keep), room.directory.path().join("aside")).unwrap();
    let room = room.restart().await;
    assert!(room.events("pool.missing-files").await[0].contains(keep.id.as_str()));
    assert_eq!(room.volumes().await.len(), 2);
    assert_eq!(room.store.read(|tx| tx.all::<Pool>()).await.unwrap().len(), 1);
    let chain = room.store.read(move |tx| records::chain(tx, &Base::Volume(keep.id))).await.unwrap();
    assert_eq!(chain.len(), 1);
}
