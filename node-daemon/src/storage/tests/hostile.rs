//! Images that strangers made, uploads that break off, servers that misbehave.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use super::*;
use crate::model::{FailureKind, Sha256Hex};

/// A small qcow2 file with one field of its header changed.
fn tampered(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = qcow2_of(&pattern(1 << 20, 1), &[]);
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

#[tokio::test]
async fn qcow2_files_that_could_hurt_are_refused() {
    let room = Room::new().await;
    let good = qcow2_of(&pattern(1 << 20, 1), &[]);
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("base"), [1; 4096]).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", "-u", &path("backed"), "1M"]);
    let data = format!("data_file={}", path("data"));
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &data, &path("split"), "1M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", &path("zstd"), "1M"]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "extended_l2=on", &path("extended"), "1M"]);
    let read = |name: &str| std::fs::read(path(name)).unwrap();
    let cases = [
        ("cut in the header", good[..60].to_vec()),
        ("cut in the tables", good[..70_000].to_vec()),
        ("backing file", read("backed")),
        ("second file", read("split")),
        ("zstd", read("zstd")),
        ("extended entries", read("extended")),
        ("version", tampered(4, &9_u32.to_be_bytes())),
        ("tiny clusters", tampered(20, &3_u32.to_be_bytes())),
        ("vast clusters", tampered(20, &60_u32.to_be_bytes())),
        ("no size", tampered(24, &0_u64.to_be_bytes())),
        ("vast size", tampered(24, &u64::MAX.to_be_bytes())),
        ("larger than its table", tampered(24, &(1_u64 << 42).to_be_bytes())),
        ("encrypted", tampered(32, &2_u32.to_be_bytes())),
        ("vast table", tampered(36, &u32::MAX.to_be_bytes())),
        ("table outside", tampered(40, &(1_u64 << 40).to_be_bytes())),
        ("table unaligned", tampered(40, &3_u64.to_be_bytes())),
        ("table wraps", tampered(40, &(u64::MAX << 16).to_be_bytes())),
        ("refcounts outside", tampered(48, &(1_u64 << 40).to_be_bytes())),
        ("vast refcounts", tampered(56, &u32::MAX.to_be_bytes())),
        ("snapshots", tampered(60, &1_u32.to_be_bytes())),
        ("dirty", tampered(72, &1_u64.to_be_bytes())),
        ("unknown feature", tampered(72, &(1_u64 << 40).to_be_bytes())),
        ("wide refcounts", tampered(96, &40_u32.to_be_bytes())),
    ];
    for (name, bytes) in cases {
        let failure = room.upload(new_image("bad", ImageKind::Disk), &bytes).await.expect_err(name);
        assert_eq!(failure.kind(), FailureKind::InvalidArgument, "{name}: {failure}");
        assert!(room.files().is_empty(), "{name}");
    }
    room.upload(new_image("bad", ImageKind::Disk), &good).await.unwrap();
}

#[tokio::test]
async fn broken_tables_hurt_nobody() {
    let room = Room::new().await;
    let good = qcow2_of(&pattern(1 << 20, 1), &[]);
    let l1 = u64::from_be_bytes(good[40..48].try_into().unwrap()) as usize;
    let l2 = (u64::from_be_bytes(good[l1..l1 + 8].try_into().unwrap()) & 0x00ff_ffff_ffff_fe00) as usize;
    for (index, (at, value)) in [
        (l1, u64::MAX),
        (l1, (1 << 63) | (1 << 50)),
        (l1, (1 << 63) | 0x200),
        (l2, u64::MAX),
        (l2, (1 << 63) | ((1 << 55) - 512)),
        (l2, (1 << 62) | ((1 << 61) - 1)),
    ]
    .into_iter()
    .enumerate()
    {
        let mut bytes = good.clone();
        bytes[at..at + 8].copy_from_slice(&u64::to_be_bytes(value));
        let name = format!("bad-{index}");
        room.image(&name, &bytes).await;
        // A table that lies beyond the file's end reads as zeros, which is a disk, too.
        match room.create(from_image("disk", &name, VolumeFormat::Raw, false)).await {
            Err(failure) => assert_eq!(failure.kind(), FailureKind::InvalidArgument, "{index}: {failure}"),
            Ok(_) => room.delete("disk").await.unwrap(),
        }
        assert!(room.volumes().await.is_empty());
    }
}

#[tokio::test]
async fn kinds_that_do_not_fit_are_refused_with_advice() {
    let room = Room::new().await;
    let mut iso = vec![0; 40_000];
    iso[0x8001..0x8006].copy_from_slice(b"CD001");
    let mut elf = vec![0; 1000];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    let arm = {
        let mut arm = elf.clone();
        arm[18] = 0xb7;
        arm
    };
    elf[18] = 62;
    let cases: [(ImageKind, &[u8], &str); 12] = [
        (ImageKind::Disk, b"", "give its bytes"),
        (ImageKind::Disk, &[1; 100], "at least one sector"),
        (ImageKind::Disk, b"\x1f\x8b\x08 gz", "unpack it"),
        (ImageKind::Disk, b"\xfd7zXZ\0 xz", "unpack it"),
        (ImageKind::Disk, b"KDMV vmdk", "qemu-img convert"),
        (ImageKind::Disk, &iso, "kind ISO"),
        (ImageKind::Disk, &elf, "kind KERNEL"),
        (ImageKind::Kernel, b"\x1f\x8b\x08 gz", "bzImage"),
        (ImageKind::Kernel, &arm, "x86-64"),
        (ImageKind::Initrd, &elf, "cpio"),
        (ImageKind::Initrd, b"PK\x03\x04 zip", "cpio"),
        (ImageKind::Iso, &[0; 5_000], "ISO 9660"),
    ];
    for (kind, bytes, advice) in cases {
        let failure = room.upload(new_image("x", kind), bytes).await.unwrap_err();
        assert!(failure.to_string().contains(advice), "{failure}");
    }
    assert!(room.files().is_empty());
    for (name, kind, bytes) in [
        ("iso", ImageKind::Iso, iso.as_slice()),
        ("elf", ImageKind::Kernel, &elf),
        ("cpio", ImageKind::Initrd, b"070701 x"),
        ("zstd", ImageKind::Initrd, b"\x28\xb5\x2f\xfd x"),
    ] {
        room.upload(new_image(name, kind), bytes).await.unwrap();
    }
}

#[tokio::test]
async fn bytes_that_were_not_announced_are_thrown_away() {
    let room = Room::new().await;
    let bytes = pattern(300_000, 2);
    let sha = Sha256Hex::of(&<sha2::Sha256 as sha2::Digest>::digest(&bytes).into());
    let announced =
        |sha256: &str, size_bytes| NewImage { sha256: sha256.into(), size_bytes, ..new_image("x", ImageKind::Disk) };
    let wrong = "0".repeat(64);
    for (new, says) in [
        (announced("", 299_999), "More than"),
        (announced("", 300_001), "Only 300000"),
        (announced(&wrong, 0), "SHA-256"),
        (announced("", u64::MAX), "bytes left"),
    ] {
        let failure = room.upload(new, &bytes).await.unwrap_err();
        assert!(failure.to_string().contains(says), "{failure}");
        assert!(room.files().is_empty());
    }
    let stored = room.upload(announced(&sha.as_str().to_uppercase(), 300_000), &bytes).await.unwrap();
    assert_eq!(stored.record.sha256, sha);
    // Holes are kept, and the bytes are the same.
    assert!(std::fs::read(room.pool().join("images").join(stored.record.id.as_str())).unwrap() == bytes);
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let room = Room::new().await;
    let image = room.store.write(|tx| reserve_image(tx, &new_image("x", ImageKind::Disk))).await.unwrap();
    let broken = stream::iter([Ok(Bytes::from(vec![1; 100_000])), Err(Failure::cancelled("the line is cut"))]);
    let failure = room.storage.receive(image, broken, |_, _| Ok(())).await.unwrap_err();
    assert_eq!(failure.to_string(), "the line is cut");
    assert!(room.files().is_empty());
    // The caller goes away in the middle: its future is dropped.
    let image = room.store.write(|tx| reserve_image(tx, &new_image("x", ImageKind::Disk))).await.unwrap();
    let endless = stream::repeat_with(|| Ok(Bytes::from(vec![1; 1000])));
    let storage = room.storage.clone();
    let started = tokio::spawn(async move { storage.receive(image, endless, |_, _| Ok(())).await });
    until(|| !room.files().is_empty()).await;
    started.abort();
    until(|| room.files().is_empty()).await;
    while !room.store.read(|tx| Ok(tx.all::<Image>()?.is_empty())).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

/// Waits for something that happens in another thread; the test runner has the deadline.
pub(super) async fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// A web server for one connection after the other; `answer` gives what is sent, and whether the connection then hangs.
fn serve(answers: Vec<(Vec<u8>, bool)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/disk.img", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut hanging = Vec::new();
        for (answer, hang) in answers {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            drop(connection.read(&mut request));
            drop(connection.write_all(&answer));
            if hang {
                hanging.push(connection);
            }
        }
        // Keeps the hanging ones open until the process ends.
        std::mem::forget(hanging);
    });
    url
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n").as_bytes(), body].concat()
}

async fn import(room: &Room, url: &str, meter: &Meter) -> Result<Image, Failure> {
    let new = NewImage { url: url.into(), ..new_image("x", ImageKind::Disk) };
    let image = room.store.write(move |tx| reserve_image(tx, &new)).await.unwrap();
    Ok(room.storage.import(image, meter).await?.record)
}

#[tokio::test]
async fn images_are_fetched_from_a_server() {
    let room = Room::new().await;
    let bytes = pattern(600_000, 3);
    let whole = (answer("200 OK\r\nContent-Length: 600000", &bytes), false);
    let short = (answer("200 OK\r\nContent-Length: 600000", &bytes[..1000]), false);
    let gone = (answer("404 Not Found\r\nContent-Length: 0", b""), false);
    let broken = (answer("503 Busy\r\nContent-Length: 0", b""), false);
    let round = (answer("302 Found\r\nLocation: /disk.img\r\nContent-Length: 0", b""), false);
    let mut answers = vec![short, gone, broken];
    answers.extend(vec![round; 6]);
    answers.push(whole);
    let url = serve(answers);
    for (kind, says) in [
        (FailureKind::Unavailable, "stopped sending"),
        (FailureKind::FailedPrecondition, "404"),
        (FailureKind::Unavailable, "503"),
        (FailureKind::FailedPrecondition, "redirects more than"),
    ] {
        let failure = import(&room, &url, &Meter::silent()).await.unwrap_err();
        assert_eq!(failure.kind(), kind, "{failure}");
        assert!(failure.to_string().contains(says), "{failure}");
        assert!(room.files().is_empty());
    }
    let image = import(&room, &url, &Meter::silent()).await.unwrap();
    assert_eq!((image.file_size_bytes, image.url), (600_000, url));
}

#[tokio::test]
async fn a_fetch_stops_when_somebody_asks_for_it() {
    let room = Room::new().await;
    // An answer without a length that goes on until nobody reads it.
    let url = serve(vec![(answer("200 OK", &vec![1; 32 << 20]), true)]);
    let stop = CancellationToken::new();
    let once = stop.clone();
    let meter = Meter::new(stop, move |done, _| {
        if done > 3 << 20 {
            once.cancel();
        }
    });
    let failure = import(&room, &url, &meter).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Cancelled);
    assert!(room.files().is_empty());
}

#[test]
fn only_plain_urls_are_fetched() {
    for url in
        ["", "disk.img", "file:///etc/shadow", "ftp://host/x", "http://", "http://user:secret@host/x", "http://a b/"]
    {
        assert!(check_url("url", url).is_err(), "{url}");
    }
    for url in ["http://host/x", "https://cloud.debian.org/images/disk.qcow2?x=1", "http://[::1]:8080/x"] {
        check_url("url", url).unwrap();
    }
}
