//! What is refused, and that nothing is left of it.

use super::*;
use crate::model::FailureKind;

const MIB: u64 = 1 << 20;

#[tokio::test]
async fn wishes_that_cannot_be_are_refused_by_field() {
    let room = Room::new().await;
    room.image("debian", &pattern(2 << 20, 1)).await;
    let raw = |name: &str, size| new_volume(name, size, VolumeFormat::Raw);
    let linked = |format| NewVolume { linked: true, ..from_image("a", "debian", format, true) };
    let cases = [
        (raw("A b", MIB), "name"),
        (raw("", MIB), "name"),
        (raw("a", 0), "size_bytes"),
        (raw("a", 1000), "size_bytes"),
        (raw("a", 65 << 40), "size_bytes"),
        (NewVolume { linked: true, ..raw("a", MIB) }, "linked"),
        (linked(VolumeFormat::Raw), "format"),
        (NewVolume { size_bytes: MIB, ..linked(VolumeFormat::Qcow2) }, "size_bytes"),
        (NewVolume { labels: [(String::new(), String::new())].into(), ..raw("a", MIB) }, "labels."),
    ];
    for (new, field) in cases {
        let failure = room.create(new).await.unwrap_err();
        assert_eq!((failure.kind(), failure.fields()[0].field.as_str()), (FailureKind::InvalidArgument, field));
    }
    let kind = |new| async { room.create(new).await.unwrap_err().kind() };
    assert_eq!(kind(from_image("a", "nothing", VolumeFormat::Raw, false)).await, FailureKind::NotFound);
    assert_eq!(kind(NewVolume { pool: "nothing".into(), ..raw("a", MIB) }).await, FailureKind::NotFound);
    room.create(raw("a", MIB)).await.unwrap();
    assert_eq!(kind(raw("a", MIB)).await, FailureKind::AlreadyExists);
    assert!(room.resize("a", MIB - 512).await.unwrap_err().to_string().contains("only grow"));
    assert_eq!(room.volumes().await.len(), 1);
    assert_eq!(room.files().len(), 2);
}

#[tokio::test]
async fn what_others_stand_on_stays_as_it_is() {
    let room = Room::new().await;
    room.image("debian", &pattern(1 << 20, 2)).await;
    let base = room.create(from_image("base", "debian", VolumeFormat::Qcow2, true)).await.unwrap();
    room.clone_of("base", "top", true).await.unwrap();
    let refused = |failure: Failure| {
        assert_eq!(failure.kind(), FailureKind::FailedPrecondition, "{failure}");
        failure.to_string()
    };
    assert!(refused(room.delete("base").await.unwrap_err()).contains("linked to it (top)"));
    refused(room.resize("base", 2 * MIB).await.unwrap_err());
    refused(room.storage.open_disk(&base.id, false, false).await.unwrap_err());
    room.storage.open_disk(&base.id, true, false).await.unwrap();
    let image = room.store.write(|tx| reserve_image_deletion(tx, &NoUsers, "debian", None)).await;
    assert!(refused(image.unwrap_err()).contains("linked to it (base)"));
    room.delete("top").await.unwrap();
    room.delete("base").await.unwrap();
}

#[tokio::test]
async fn what_vms_have_is_not_deleted() {
    struct OneVm(Id, Id);
    impl DiskUsers for OneVm {
        fn uses(&self, _: &crate::store::ReadTx<'_>) -> Result<Uses, Failure> {
            let by = |id: &Id| [(id.clone(), vec![Id::new()])].into();
            Ok(Uses { volumes: by(&self.0), images: by(&self.1) })
        }
    }
    let room = Room::new().await;
    let image = room.image("debian", &pattern(1 << 20, 3)).await.record;
    let volume = room.create(new_volume("disk", MIB, VolumeFormat::Raw)).await.unwrap();
    let users = Arc::new(OneVm(volume.id, image.id));
    let (a, b, c) = (users.clone(), users.clone(), users);
    let volume = room.store.write(move |tx| reserve_deletion(tx, &*a, "disk", None)).await.unwrap_err();
    let image = room.store.write(move |tx| reserve_image_deletion(tx, &*b, "debian", None)).await.unwrap_err();
    let clone = NewClone { volume: "disk".into(), name: "copy".into(), linked: true, ..NewClone::default() };
    let clone = room.store.write(move |tx| reserve_clone(tx, &*c, &clone)).await.unwrap_err();
    for failure in [volume, image, clone] {
        assert!(failure.to_string().contains("VMs that have it"), "{failure}");
    }
}

#[tokio::test]
async fn chains_end_where_the_vmm_ends() {
    let room = Room::new().await;
    room.create(new_volume("v0", MIB, VolumeFormat::Qcow2)).await.unwrap();
    for depth in 1..32 {
        room.clone_of(&format!("v{}", depth - 1), &format!("v{depth}"), true).await.unwrap();
    }
    assert!(room.clone_of("v31", "v32", true).await.unwrap_err().to_string().contains("full copy"));
    room.clone_of("v31", "v32", false).await.unwrap();
}

#[tokio::test]
async fn boots_name_images_that_are_there_and_of_the_right_kind() {
    let room = Room::new().await;
    let mut kernel = vec![0; 70_000];
    kernel[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    kernel[0x202..0x206].copy_from_slice(b"HdrS");
    room.upload(new_image("kernel", ImageKind::Kernel), &kernel).await.unwrap();
    room.upload(new_image("initrd", ImageKind::Initrd), b"\x1f\x8b rest").await.unwrap();
    let disk = |kernel: &str, initrd: &str, cmdline: &str| NewImage {
        boot: Some((kernel.into(), initrd.into(), cmdline.into())),
        ..new_image("disk", ImageKind::Disk)
    };
    for (new, field) in [
        (disk("", "", ""), "boot.kernel"),
        (disk("initrd", "", ""), "boot.kernel"),
        (disk("kernel", "kernel", ""), "boot.initrd"),
        (disk("kernel", "", "a\nb"), "boot.cmdline"),
    ] {
        let failure = room.upload(new, &[1; 512]).await.unwrap_err();
        assert_eq!(failure.fields()[0].field, field);
    }
    room.upload(disk("kernel", "initrd", "root=/dev/vda1"), &[1; 512]).await.unwrap();
    let refused = room.store.write(|tx| reserve_image_deletion(tx, &NoUsers, "initrd", None)).await.unwrap_err();
    assert!(refused.to_string().contains("boot by it (disk)"), "{refused}");
}

#[tokio::test]
async fn pools_do_not_overlap_and_are_not_made_of_anything() {
    let room = Room::new().await;
    let other = room.directory.path().join("other");
    let refused = |result: Result<(), Failure>| result.unwrap_err().to_string();
    assert!(refused(room.add_pool("other", &other).await).contains("make the directory first"));
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("holiday.jpg"), b"x").unwrap();
    assert!(refused(room.add_pool("other", &other).await).contains("not empty"));
    std::fs::remove_file(other.join("holiday.jpg")).unwrap();
    room.add_pool("other", &other).await.unwrap();
    assert!(refused(room.add_pool("again", &other.join("volumes")).await).contains("Pool other is there"));
    assert!(refused(room.add_pool("again", &room.pool()).await).contains("Pool default is there"));
    // Forgotten with what is in it, it can be added again.
    let volume =
        room.create(NewVolume { pool: "other".into(), ..new_volume("a", MIB, VolumeFormat::Raw) }).await.unwrap();
    let forget = |name: &'static str| room.store.write(move |tx| forget_pool(tx, name, None));
    assert!(forget("other").await.unwrap_err().to_string().contains("1 volumes"));
    room.delete("a").await.unwrap();
    assert!(!room.path_of(&volume).exists());
    let pool = forget("other").await.unwrap();
    room.storage.leave_pool(&pool.id).await.unwrap();
    room.add_pool("other", &other).await.unwrap();
}

#[tokio::test]
async fn a_pool_whose_disk_is_gone_says_so_and_comes_back() {
    let room = Room::new().await;
    let (pool, aside) = (room.pool(), room.directory.path().join("aside"));
    room.create(new_volume("a", MIB, VolumeFormat::Raw)).await.unwrap();
    std::fs::rename(&pool, &aside).unwrap();
    std::fs::create_dir(&pool).unwrap();
    let room = room.restart().await;
    let failure = room.create(new_volume("b", MIB, VolumeFormat::Raw)).await.unwrap_err();
    assert_eq!(failure.kind(), FailureKind::Unavailable);
    assert!(failure.to_string().contains("not mounted there"), "{failure}");
    assert!(std::fs::read_dir(&pool).unwrap().next().is_none());
    std::fs::remove_dir(&pool).unwrap();
    std::fs::rename(&aside, &pool).unwrap();
    let room = room.restart().await;
    room.create(new_volume("b", MIB, VolumeFormat::Raw)).await.unwrap();
}
