//! The probe on this host's own KVM: whatever that is, a loop and exits work, and the answers fit together.

use super::*;

#[test]
fn a_loop_runs_and_exits_on_any_kvm() {
    let probe = Probe::open().unwrap();
    let ring0 = probe.ring0().unwrap();
    // Slower than the slowest emulator known by a factor of ten, faster than any processor by as much.
    let speed = ring0.instructions_per_second.unwrap();
    assert!((100_000..100_000_000_000).contains(&speed), "{speed}");
    assert!(ring0.exit.unwrap() < Duration::from_millis(10));
}

#[test]
fn a_guest_that_faults_is_told_from_one_that_runs() {
    let probe = Probe::open().unwrap();
    // `nop` and `ud2`: every KVM runs the one, and the other ends in a triple fault, for there is no handler.
    assert_eq!(Guest::new(&probe, &[&[0x90][..], &SAY_SO].concat()).unwrap().outcome(), Outcome::Ran);
    assert_eq!(Guest::new(&probe, &[0x0f, 0x0b]).unwrap().outcome(), Outcome::Faulted);
}

#[test]
fn the_handler_of_int3_is_where_the_gate_says() {
    // `int 3` in two bytes goes through the same gate, and is emulated where int3 is not.
    let probe = Probe::open().unwrap();
    let outcome = Guest::new(&probe, &[&[0xcd, 0x03][..], &SAY_SO].concat()).unwrap().outcome();
    assert!(matches!(outcome, Outcome::Ran | Outcome::GaveUp), "{outcome:?}");
}

#[test]
fn the_offer_names_a_vendor_and_what_every_kvm_has() {
    let offer = Probe::open().unwrap().offer();
    assert_eq!(offer.api_version, 12);
    assert_eq!(offer.vendor.len(), 12, "{:?}", offer.vendor);
    assert!(offer.vcpus.0 >= 1 && offer.vcpus.1 >= offer.vcpus.0);
    assert!(offer.capabilities.iter().any(|(capability, there)| capability.name == "USER_MEMORY" && *there));
}
