//! Renderings, as they stand on the screen.

use super::*;
use crate::table::tests::view;
use prost_types::Timestamp;
use quantix_api::v1::{CpuSpec, IsolationFact, MemorySpec, VmExit};

fn ago(seconds: i64) -> Timestamp {
    Timestamp { seconds: 1_000_000 - seconds, nanos: 0 }
}

fn demo() -> Vm {
    let spec = VmSpec {
        cpus: Some(CpuSpec { count: 2, quota_percent: 150, ..CpuSpec::default() }),
        memory: Some(MemorySpec { size_bytes: 1 << 30, ..MemorySpec::default() }),
        disks: vec![DiskSpec {
            id: "disk0".into(),
            source: Some(disk_spec::Source::Volume("demo-disk0".into())),
            direct: true,
            ..DiskSpec::default()
        }],
        nics: vec![NicSpec {
            id: "net0".into(),
            network: "default".into(),
            rules: vec![FirewallRule {
                direction: Direction::In.into(),
                action: FirewallAction::Accept.into(),
                ports: "22".into(),
                ..FirewallRule::default()
            }],
            ..NicSpec::default()
        }],
        cloud_init: Some(CloudInit { hostname: "demo".into(), ssh_keys: vec!["k".into()], ..CloudInit::default() }),
        ..VmSpec::default()
    };
    let status = VmStatus {
        state: VmState::Running.into(),
        since: Some(ago(300)),
        pid: 4711,
        cid: 3,
        restart_needed: true,
        nics: vec![NicStatus {
            network: "default".into(),
            mac: "52:54:00:00:00:01".into(),
            addresses: vec!["10.80.0.7".into()],
            ..NicStatus::default()
        }],
        last_exit: Some(VmExit { cause: ExitCause::GuestPanic.into(), message: "panic".into(), ..VmExit::default() }),
        ..VmStatus::default()
    };
    Vm { name: "demo".into(), spec: Some(spec), status: Some(status), create_time: Some(ago(90_000)), ..Vm::default() }
}

#[test]
fn a_list_of_vms() {
    let off = Vm {
        name: "a-vm-that-is-off".into(),
        status: Some(VmStatus { state: VmState::Stopped.into(), ..VmStatus::default() }),
        ..Vm::default()
    };
    assert_eq!(
        SHEET.render(&[demo(), off], &view()),
        "NAME              STATE     CPUS  MEMORY  ADDRESSES  SINCE  AGE\n\
         demo              running*     2   1 GiB  10.80.0.7     5m   1d\n\
         a-vm-that-is-off  stopped      0     0 B\n"
    );
}

#[test]
fn one_vm_with_all_that_it_has() {
    let text = facts(&demo(), &view()).render(false);
    for line in [
        "State      running* for 5m",
        "Changes    some take effect at the next start",
        "Process    4711, vsock 3",
        "Last exit   guest-panic: panic",
        "CPUs       2, at most 150 %",
        "Memory     1 GiB",
        "\nDisks\n  DISK   SOURCE             OPTIONS\n  disk0  volume demo-disk0  direct\n",
        "  NIC   NETWORK  MAC                ADDRESSES  OPTIONS\n  net0  default  52:54:00:00:00:01  10.80.0.7\n",
        "  net0: in,accept,ports=22\n",
        "\ncloud-init\n  hostname demo, 1 SSH keys\n",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn a_receipt_marks_what_is_wrong() {
    let receipt = VmIsolation {
        pid: 4711,
        intact: false,
        facts: vec![
            IsolationFact { name: "seccomp".into(), expected: "filter".into(), measured: "filter".into(), ok: true },
            IsolationFact { name: "root".into(), expected: "empty".into(), measured: "/".into(), ok: false },
        ],
        fds: vec![
            OpenFd { number: 3, target: "/dev/kvm".into(), name: "kvm".into(), unexpected: false },
            OpenFd { number: 9, target: "/etc/shadow".into(), name: String::new(), unexpected: true },
        ],
        ..VmIsolation::default()
    };
    let text = isolation(&receipt, false, &view());
    assert!(text.starts_with("✗ NOT INTACT  process 4711"), "{text}");
    assert!(text.contains("✓  seccomp  filter    filter\n✗  root     /         empty\n"), "{text}");
    assert!(text.contains("2 open file descriptors, 1 of them unexpected\n"), "{text}");
    assert!(text.contains("/etc/shadow") && !text.contains("/dev/kvm"), "{text}");
    assert!(isolation(&receipt, true, &view()).contains("✓   3  kvm   /dev/kvm"), "{text}");
}
