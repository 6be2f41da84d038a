//! What callers write, checked field by field; and that a spec comes back as it was.

use quantix_api::v1;

use super::*;

fn spec() -> v1::VmSpec {
    v1::VmSpec {
        cpus: Some(v1::CpuSpec { count: 2, ..Default::default() }),
        memory: Some(v1::MemorySpec { size_bytes: 512 << 20, ..Default::default() }),
        ..Default::default()
    }
}

fn violations(spec: &v1::VmSpec) -> Vec<String> {
    match check::draft(Some(spec), "spec") {
        Ok(_) => Vec::new(),
        Err(failure) => failure.fields().iter().map(|violation| violation.field.clone()).collect(),
    }
}

#[test]
fn defaults_are_applied() {
    let draft = check::draft(Some(&spec()), "spec").expect("valid");
    assert_eq!((draft.cpus.weight, draft.restart.max_attempts), (100, 5));
    assert_eq!(draft.restart.backoff, Duration::from_secs(1));
    assert!(draft.rng && draft.balloon && draft.vsock && !draft.autostart.enabled);
    let mut spec = spec();
    spec.disks = vec![v1::DiskSpec { source: Some(v1::disk_spec::Source::Volume("a".into())), ..Default::default() }];
    spec.nics = vec![v1::NicSpec { network: "default".into(), ..Default::default() }];
    let draft = check::draft(Some(&spec), "spec").expect("valid");
    assert_eq!((draft.disks[0].id.as_str(), draft.disks[0].queues), ("disk0", 1));
    assert_eq!((draft.nics[0].id.as_str(), draft.nics[0].queues, draft.nics[0].mac), ("net0", 1, None));
}

#[test]
fn every_field_at_fault_is_named() {
    assert_eq!(violations(&v1::VmSpec::default()), ["spec.cpus.count", "spec.memory.size_bytes"]);
    let source = |name: &str| Some(v1::disk_spec::Source::Volume(name.into()));
    let rule =
        v1::FirewallRule { direction: 1, action: 1, protocol: "icmp".into(), ports: "22".into(), ..Default::default() };
    let wrong = v1::VmSpec {
        cpus: Some(v1::CpuSpec { count: 4, sockets: 3, weight: 20_000, pinning: "0-1".into(), ..Default::default() }),
        memory: Some(v1::MemorySpec { size_bytes: (512 << 20) + 4096, huge_pages: 1, prefault: false }),
        boot: Some(v1::BootSpec { initrd: "i".into(), cmdline: "a\nb".into(), ..Default::default() }),
        disks: vec![
            v1::DiskSpec { id: "Disk".into(), source: source("v"), queues: 17, ..Default::default() },
            v1::DiskSpec { id: "cidata".into(), source: source("v"), ..Default::default() },
            v1::DiskSpec::default(),
        ],
        nics: vec![v1::NicSpec {
            mac: "01:00:00:00:00:00".into(),
            address: "x".into(),
            rules: vec![rule],
            ..Default::default()
        }],
        cloud_init: Some(v1::CloudInit {
            user: "Root".into(),
            ssh_keys: vec!["x".into()],
            password_hash: "secret".into(),
            ..Default::default()
        }),
        restart: Some(v1::RestartPolicy { mode: 99, ..Default::default() }),
        autostart: Some(v1::Autostart {
            delay: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let found = violations(&wrong);
    for field in [
        "cpus.sockets",
        "cpus.weight",
        "cpus.pinning",
        "memory.size_bytes",
        "boot.cmdline",
        "boot.initrd",
        "disks[0].id",
        "disks[0].queues",
        "disks[1].id",
        "disks[1].volume",
        "disks[2].source",
        "nics[0].network",
        "nics[0].mac",
        "nics[0].address",
        "nics[0].rules[0].ports",
        "cloud_init.user",
        "cloud_init.ssh_keys[0]",
        "cloud_init.password_hash",
        "restart.mode",
        "autostart.delay",
    ] {
        assert!(found.contains(&format!("spec.{field}")), "{field} in {found:?}");
    }
    let text = check::draft(Some(&wrong), "spec").unwrap_err().chain();
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn too_many_devices_and_long_words_are_refused() {
    let mut many = spec();
    many.disks = (0..30)
        .map(|n| v1::DiskSpec { source: Some(v1::disk_spec::Source::Volume(format!("v{n}"))), ..Default::default() })
        .collect();
    assert_eq!(violations(&many), ["spec.disks"]);
    let labels = [("Ä".to_owned(), "x".to_owned())].into();
    assert!(check::words(&"x".repeat(5000), &labels).is_err_and(|failure| failure.fields().len() == 2));
}
