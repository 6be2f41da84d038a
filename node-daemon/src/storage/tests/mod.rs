//! Tests of the room as a whole: a real inventory, real pools in directories, and `qemu-img` as the judge of what is in them.

mod crash;
mod hostile;
mod life;
mod model;
mod refusals;
mod space;

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use futures_util::stream;

use super::*;
use crate::model::{Failure, Id, Image, ImageKind, PoolSource, Volume, VolumeFormat};
use crate::store::Stored;

/// A room in a directory of its own.
struct Room {
    storage: Storage,
    store: Store,
    directory: tempfile::TempDir,
}

impl Room {
    async fn new() -> Self {
        Self::with(tempfile::tempdir().unwrap()).await
    }

    async fn with(directory: tempfile::TempDir) -> Self {
        let (store, storage) = open(directory.path()).await;
        Self { storage, store, directory }
    }

    /// The daemon ends and starts again.
    async fn restart(self) -> Self {
        Self::with(self.close().await).await
    }

    /// The daemon ends. Its pools are let go by another thread, so that is waited for.
    async fn close(self) -> tempfile::TempDir {
        let Self { storage, store, directory } = self;
        storage.shutdown().cancel();
        for pool in store.read(|tx| tx.all::<crate::model::Pool>()).await.unwrap() {
            let marker = storage.pools().get(&pool.record.id).map(|live| pool::Marker::path(live.place().root()));
            storage.abandon(&pool.record.id).await.unwrap();
            let free = |path: &Path| match std::fs::File::options().read(true).write(true).open(path) {
                Ok(file) => lock::try_lock(&file, lock::Sharing::Nobody).unwrap() == lock::Lock::Taken,
                Err(_) => true,
            };
            if let Ok(path) = marker {
                hostile::until(|| free(&path)).await;
            }
        }
        directory
    }

    fn pool(&self) -> PathBuf {
        self.directory.path().join("pools/default")
    }

    /// Another pool, in this directory.
    async fn add_pool(&self, name: &str, path: &Path) -> Result<(), Failure> {
        let source = PoolSource::directory(&path.to_string_lossy())?;
        let name = crate::model::Name::parse("name", name)?;
        let pool = self.store.write(move |tx| reserve_pool(tx, name, source)).await?;
        self.storage.make_pool(&pool).await
    }

    async fn upload(&self, new: NewImage, bytes: &[u8]) -> Result<Stored<Image>, Failure> {
        let image = self.store.write(move |tx| reserve_image(tx, &new)).await?;
        let pieces: Vec<_> = bytes.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        self.storage.receive(image, stream::iter(pieces), |_, _| Ok(())).await
    }

    async fn image(&self, name: &str, bytes: &[u8]) -> Stored<Image> {
        self.upload(new_image(name, ImageKind::Disk), bytes).await.unwrap()
    }

    async fn create(&self, new: NewVolume) -> Result<Volume, Failure> {
        Ok(self.storage.create_volume(new, &Meter::silent()).await?.record)
    }

    async fn clone_of(&self, volume: &str, name: &str, linked: bool) -> Result<Volume, Failure> {
        let new = NewClone { volume: volume.into(), name: name.into(), linked, ..NewClone::default() };
        let recipe = self.store.write(move |tx| reserve_clone(tx, &NoUsers, &new)).await?;
        Ok(self.storage.make_volume(recipe, &Meter::silent()).await?.record)
    }

    async fn resize(&self, volume: &str, to: u64) -> Result<(), Failure> {
        let asked = volume.to_owned();
        let volume = self.store.write(move |tx| reserve_resize(tx, &asked, to)).await?;
        self.storage.resize_volume(volume, &Meter::silent()).await
    }

    async fn delete(&self, volume: &str) -> Result<(), Failure> {
        let asked = volume.to_owned();
        let volume = self.store.write(move |tx| reserve_deletion(tx, &NoUsers, &asked, None)).await?;
        self.storage.delete_volume(volume).await
    }

    async fn volumes(&self) -> Vec<Volume> {
        let all = self.store.read(|tx| tx.all::<Volume>()).await.unwrap();
        all.into_iter().map(|stored| stored.record).collect()
    }

    fn path_of(&self, volume: &Volume) -> PathBuf {
        self.storage.pools().get(&volume.pool).unwrap().place().volume(&volume.id, volume.format)
    }

    /// What a guest would read, as the VMM would open it.
    async fn contents(&self, volume: &Id) -> Vec<u8> {
        let base = crate::model::Base::Volume(volume.clone());
        let sources = self.storage.open_sources(&base).await.unwrap();
        let disk = qcow2::open_chain(&sources, Path::new("a test")).unwrap();
        let mut bytes = vec![0; disk.size() as usize];
        disk.read(bytes.as_mut_slice(), 0).unwrap();
        bytes
    }

    /// Writes as a guest would.
    async fn write(&self, volume: &Volume, bytes: &[u8], at: u64) -> Result<(), Failure> {
        let opened = self.storage.open_disk(&volume.id, false, false).await?;
        let base = crate::model::Base::Volume(volume.id.clone());
        let layers = self.store.read(move |tx| records::chain(tx, &base)).await?;
        let mut files: Vec<_> = opened.fds.into_iter().map(|(_, fd)| std::fs::File::from(fd)).collect();
        if volume.format == VolumeFormat::Raw {
            files[0].write_all_at(bytes, at).unwrap();
            return Ok(());
        }
        let below: Vec<_> = files.drain(1..).zip(layers[1..].iter().map(|layer| layer.format)).collect();
        let disk = qcow2::open_over(&files[0], &below, Path::new("a test"))?;
        disk.write(bytes, at).unwrap();
        disk.flush().unwrap();
        Ok(())
    }

    /// Names of all files in a pool but its marker, sorted.
    fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        for shelf in ["volumes", "images"] {
            for entry in std::fs::read_dir(self.pool().join(shelf)).unwrap() {
                found.push(entry.unwrap().file_name().into_string().unwrap());
            }
        }
        found.sort();
        found
    }

    async fn events(&self, kind: &str) -> Vec<String> {
        let filter = crate::store::EventFilter { kinds: vec![kind.to_owned()], resource_id: None };
        let events = self.store.read(move |tx| tx.events_after(0, &filter, 1000)).await.unwrap();
        events.into_iter().map(|event| event.message).collect()
    }
}

async fn open(directory: &Path) -> (Store, Storage) {
    let store = Store::open(&directory.join("node.db")).unwrap();
    let storage = Storage::start(StorageParts {
        store: store.clone(),
        events: Events::new(store.clone()),
        state_dir: directory.to_owned(),
        run_dir: directory.join("run"),
        users: Arc::new(NoUsers),
        shutdown: CancellationToken::new(),
    })
    .await
    .unwrap();
    (store, storage)
}

fn new_image(name: &str, kind: ImageKind) -> NewImage {
    NewImage {
        name: name.into(),
        kind,
        pool: String::new(),
        sha256: String::new(),
        size_bytes: 0,
        boot: None,
        labels: std::collections::BTreeMap::default(),
        url: String::new(),
    }
}

fn new_volume(name: &str, size_bytes: u64, format: VolumeFormat) -> NewVolume {
    NewVolume { name: name.into(), size_bytes, format: Some(format), ..NewVolume::default() }
}

fn from_image(name: &str, image: &str, format: VolumeFormat, linked: bool) -> NewVolume {
    NewVolume { name: name.into(), image: image.into(), format: Some(format), linked, ..NewVolume::default() }
}

/// Bytes that differ everywhere, with a hole in the middle.
fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes: Vec<u8> = (0..length)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    bytes[length / 3..length / 2].fill(0);
    bytes
}

fn qemu_img(args: &[&str]) -> String {
    let output = Command::new("qemu-img").args(args).output().expect("qemu-img is there (package qemu-utils)");
    let told = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {args:?}: {told}");
    told
}

/// `qemu-img check` finds nothing wrong, not even a leak.
fn check(path: &Path) {
    qemu_img(&["check", "-f", "qcow2", path.to_str().unwrap()]);
}

/// A qcow2 file as `qemu-img` makes it of these bytes.
fn qcow2_of(bytes: &[u8], options: &[&str]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    std::fs::write(&from, bytes).unwrap();
    let mut args = vec!["convert", "-f", "raw", "-O", "qcow2"];
    args.extend(options);
    args.extend([from.to_str().unwrap(), to.to_str().unwrap()]);
    qemu_img(&args);
    std::fs::read(to).unwrap()
}
