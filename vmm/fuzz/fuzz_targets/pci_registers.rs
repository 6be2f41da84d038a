//! A hostile kernel on the registers of virtio devices: set-up, queues, MSI-X, moved BARs, with workers running.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm::devices::balloon::{Balloon, BalloonOptions};
use quantix_vmm::devices::rng::Rng;
use quantix_vmm_fuzz::bus;

fuzz_target!(|data: &[u8]| {
    let rng = Rng::new("rng0").expect("an entropy device");
    let balloon = Balloon::new("balloon0", BalloonOptions::default()).expect("a balloon");
    bus::drive(vec![Box::new(rng), Box::new(balloon)], data);
});
