//! Facts of several hosts, and what is said of them.

use std::time::Duration;

use super::*;
use crate::kvm::probe::{CAPABILITIES, INSTRUCTIONS};

/// A server on which nothing is missing.
fn server() -> Host {
    Host {
        kernel: "6.12.0".into(),
        virtualization: Some("svm".into()),
        is_virtual: false,
        kvm_modules: vec!["kvm_amd".into()],
        tun: Access::Usable,
        vhost_net: Access::Usable,
        huge_pages: vec![super::super::HugePages { size_bytes: 2 << 20, total: 8, free: 3 }],
        transparent_huge_pages: Some("madvise".into()),
        transparent_huge_pages_shared: Some("advise".into()),
        io_uring: true,
        landlock_abi: 6,
        seccomp: true,
    }
}

/// A KVM that lacks the capabilities and gives up at the instructions that are named.
fn kvm(lacking: &[&str], gives_up_at: &[&str], speed: u64) -> Kvm {
    let capabilities = CAPABILITIES.iter().map(|one| (*one, !lacking.contains(&one.name))).collect();
    let outcome = |name| if gives_up_at.contains(&name) { Outcome::GaveUp } else { Outcome::Ran };
    Kvm::Open {
        offer: Offer {
            api_version: 12,
            capabilities,
            vcpus: (8, 1024),
            memory_slots: 32764,
            vendor: "AuthenticAMD".into(),
        },
        ring0: Ring0 {
            instructions: INSTRUCTIONS.iter().map(|one| (*one, outcome(one.name))).collect(),
            instructions_per_second: Some(speed),
            exit: Some(Duration::from_nanos(1500)),
        },
    }
}

#[test]
fn verdicts() {
    let bare = Host { virtualization: None, ..server() };
    let rented = Host { virtualization: None, is_virtual: true, ..server() };
    let unusable = Kvm::Unusable { because: "Cannot open /dev/kvm: busy".into() };
    for (kvm, host, runs, says) in [
        (kvm(&[], &[], 4_000_000_000), server(), true, "Ordinary kernels can run here."),
        (kvm(&["XSAVE2"], &[], 4_000_000_000), server(), true, "Ordinary kernels can run here."),
        (kvm(&["SPLIT_IRQCHIP"], &[], 4_000_000_000), server(), false, "this KVM lacks SPLIT_IRQCHIP. Use a newer"),
        (
            kvm(&[], &["int3", "xsave"], 2_000_000),
            rented.clone(),
            false,
            "fails at int3, xsave. Programs made for ring 3",
        ),
        (kvm(&[], &["int3"], 2_000_000), rented.clone(), false, "nested virtualisation"),
        (kvm(&[], &[], 2_000_000), rented, true, "very slowly"),
        (Kvm::Absent, server(), false, "load the module kvm_amd"),
        (Kvm::Absent, bare, false, "shows no hardware virtualisation"),
        (Kvm::Forbidden, server(), false, "join the group"),
        (unusable, server(), false, "Cannot open /dev/kvm: busy."),
    ] {
        let report = judge(&kvm, &host);
        assert_eq!(report.ordinary_kernels, runs, "{}", report.verdict);
        assert!(report.verdict.contains(says), "{:?} does not say {says:?}", report.verdict);
    }
}

#[test]
fn what_the_surroundings_lack_does_not_stop_guests() {
    let poor = Host {
        tun: Access::Absent,
        vhost_net: Access::Forbidden,
        huge_pages: vec![],
        transparent_huge_pages: None,
        io_uring: false,
        landlock_abi: 0,
        ..server()
    };
    let report = judge(&kvm(&[], &[], 4_000_000_000), &poor);
    assert!(report.ordinary_kernels);
    let limited = |name: &str| report.findings.iter().any(|one| one.name == name && one.state == State::Limited);
    for name in ["tun", "vhost-net", "hugepages", "thp", "io_uring", "landlock"] {
        assert!(limited(name), "{name}");
    }
}

#[test]
fn the_report_is_the_same_in_json() {
    let report = judge(&kvm(&[], &["int3"], 2_000_000), &server());
    let json: serde_json::Value = serde_json::to_value(&report).unwrap();
    assert_eq!(json["ordinary_kernels"], false);
    assert_eq!(json["ring0_instructions_per_second"], 2_000_000);
    assert_eq!(json["host"]["vhost_net"], "usable");
    let int3 = json["findings"].as_array().unwrap().iter().find(|one| one["name"] == "int3").unwrap();
    assert_eq!(int3["state"], "no");
}
