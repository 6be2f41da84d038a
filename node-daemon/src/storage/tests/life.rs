//! Volumes and images from their beginning to their end, as they should go.

use super::*;

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn empty_volumes_are_what_was_asked_for() {
    let room = Room::new().await;
    let raw = room.create(new_volume("raw", 64 * MIB, VolumeFormat::Raw)).await.unwrap();
    let qcow2 = room.create(new_volume("qcow2", 64 * MIB, VolumeFormat::Qcow2)).await.unwrap();
    assert_eq!(std::fs::metadata(room.path_of(&raw)).unwrap().len(), 64 * MIB);
    check(&room.path_of(&qcow2));
    let info: serde_json::Value =
        serde_json::from_str(&qemu_img(&["info", "--output=json", room.path_of(&qcow2).to_str().unwrap()])).unwrap();
    assert_eq!((&info["format"], &info["virtual-size"]), (&"qcow2".into(), &(64 * MIB).into()));
    assert!(room.contents(&qcow2.id).await.iter().all(|byte| *byte == 0));
    assert_eq!(room.files().len(), 2);
}

#[tokio::test]
async fn an_image_becomes_volumes_of_each_format_linked_and_copied() {
    let room = Room::new().await;
    let bytes = pattern(3 << 20, 1);
    let raw = room.image("raw", &bytes).await.record;
    assert_eq!((raw.format, raw.virtual_size_bytes), (crate::model::ImageFormat::Raw, 3 * MIB));
    let compressed = room.image("compressed", &qcow2_of(&bytes, &["-c"])).await.record;
    assert_eq!((compressed.format, compressed.virtual_size_bytes), (crate::model::ImageFormat::Qcow2, 3 * MIB));
    for image in ["raw", "compressed"] {
        for (format, linked) in [(VolumeFormat::Raw, false), (VolumeFormat::Qcow2, false), (VolumeFormat::Qcow2, true)]
        {
            let name = format!("{image}-{}-{linked}", format.as_str());
            let mut new = from_image(&name, image, format, linked);
            new.size_bytes = 5 * MIB;
            let volume = room.create(new).await.unwrap();
            let contents = room.contents(&volume.id).await;
            assert!(contents[..bytes.len()] == bytes && contents[bytes.len()..].iter().all(|b| *b == 0), "{name}");
            assert_eq!(contents.len() as u64, 5 * MIB);
            if format == VolumeFormat::Qcow2 {
                check(&room.path_of(&volume));
            }
        }
    }
}

#[tokio::test]
async fn a_header_names_its_base_for_tools() {
    let room = Room::new().await;
    let bytes = pattern(1 << 20, 2);
    room.image("debian", &qcow2_of(&bytes, &[])).await;
    let volume = room.create(from_image("disk", "debian", VolumeFormat::Qcow2, true)).await.unwrap();
    let (path, flat) = (room.path_of(&volume), room.directory.path().join("flat"));
    qemu_img(&["convert", "-f", "qcow2", "-O", "raw", path.to_str().unwrap(), flat.to_str().unwrap()]);
    assert!(std::fs::read(flat).unwrap() == bytes);
}

#[tokio::test]
async fn clones_hold_what_the_origin_held_and_go_their_own_way() {
    let room = Room::new().await;
    room.image("debian", &pattern(2 << 20, 3)).await;
    let origin = room.create(from_image("origin", "debian", VolumeFormat::Qcow2, true)).await.unwrap();
    room.write(&origin, &vec![7; 70_000], 123_456).await.unwrap();
    let before = room.contents(&origin.id).await;
    let full = room.clone_of("origin", "full", false).await.unwrap();
    assert_eq!((full.base.as_ref(), full.image.as_ref()), (None, origin.image.as_ref()));
    let linked = room.clone_of("origin", "linked", true).await.unwrap();
    room.write(&linked, &[9; 10], 0).await.unwrap();
    assert!(room.contents(&full.id).await == before);
    assert!(room.contents(&origin.id).await == before);
    let after = room.contents(&linked.id).await;
    assert!(after[..10] == [9; 10] && after[10..] == before[10..]);
    check(&room.path_of(&full));
    check(&room.path_of(&linked));
}

#[tokio::test]
async fn volumes_grow_and_keep_what_they_hold() {
    let room = Room::new().await;
    for format in [VolumeFormat::Raw, VolumeFormat::Qcow2] {
        let name = format.as_str();
        let volume = room.create(new_volume(name, MIB, format)).await.unwrap();
        room.write(&volume, &[5; 4096], MIB - 4096).await.unwrap();
        room.resize(name, 3 * MIB).await.unwrap();
        let contents = room.contents(&volume.id).await;
        assert_eq!(contents.len() as u64, 3 * MIB);
        assert!(
            contents[(MIB - 4096) as usize..MIB as usize] == [5; 4096]
                && contents[MIB as usize..].iter().all(|b| *b == 0)
        );
        let recorded = room.volumes().await.into_iter().find(|v| v.id == volume.id).unwrap();
        assert_eq!((recorded.size_bytes, recorded.phase), (3 * MIB, crate::model::VolumePhase::Ready));
    }
    // Beyond the room that the first table has.
    let large = room.create(new_volume("large", MIB, VolumeFormat::Qcow2)).await.unwrap();
    room.resize("large", 9 << 40).await.unwrap();
    check(&room.path_of(&large));
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_its_room_too() {
    let room = Room::new().await;
    room.image("debian", &pattern(1 << 20, 4)).await;
    room.create(from_image("disk", "debian", VolumeFormat::Raw, false)).await.unwrap();
    let pool = room.volumes().await[0].pool.clone();
    let live = room.storage.live_pool(&pool).unwrap();
    assert!(live.usage().await.total_bytes > MIB);
    room.delete("disk").await.unwrap();
    let image = room.store.write(|tx| reserve_image_deletion(tx, &NoUsers, "debian", None)).await.unwrap();
    room.storage.delete_image(image).await.unwrap();
    assert!(room.files().is_empty());
    assert_eq!(live.usage().await.total_bytes, 0);
    assert_eq!(room.events("volume.deleted").await, ["Volume disk was deleted"]);
}

#[tokio::test]
async fn a_disk_leaves_with_all_its_layers_locked() {
    let room = Room::new().await;
    room.image("debian", &pattern(1 << 20, 5)).await;
    let volume = room.create(from_image("disk", "debian", VolumeFormat::Qcow2, true)).await.unwrap();
    let disk = room.storage.open_disk(&volume.id, false, false).await.unwrap();
    let (top, below) = (format!("disk-{}", volume.id), format!("disk-{}-1", volume.id));
    assert_eq!(disk.path, format!("fd:{top}+{below}"));
    assert_eq!(disk.fds.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), [top, below]);
    let again = room.storage.open_disk(&volume.id, false, false).await.unwrap_err();
    assert!(again.to_string().contains("Volume disk is in use"), "{again}");
    assert!(room.delete("disk").await.unwrap_err().to_string().contains("in use"));
    // It is as it was, and a second disk may stand on the same image.
    room.create(from_image("other", "debian", VolumeFormat::Qcow2, true)).await.unwrap();
    drop(disk);
    room.delete("disk").await.unwrap();
}
