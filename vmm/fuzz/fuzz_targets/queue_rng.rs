//! A hostile driver on virtio-rng.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm::devices::rng::Rng;
use quantix_vmm_fuzz::{driver, operations};

fuzz_target!(|data: &[u8]| {
    let mut device = Rng::new("rng0").expect("an entropy device");
    driver::drive(&mut device, operations(data), |_| {});
});
