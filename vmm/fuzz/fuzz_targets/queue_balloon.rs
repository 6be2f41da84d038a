//! A hostile driver on virtio-balloon, with small and with huge pages; the host sets targets and asks for statistics.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm::devices::balloon::{Balloon, BalloonOptions};
use quantix_vmm_fuzz::{driver, operations};

fuzz_target!(|data: &[u8]| {
    // As if the host had pages of 256 KiB: small enough that an input can fill one.
    let page_bytes = if data.len().is_multiple_of(2) { 4096 } else { 256 << 10 };
    let options = BalloonOptions { page_bytes, ..BalloonOptions::default() };
    let mut device = Balloon::new("balloon0", options).expect("a balloon");
    let handle = device.handle();
    driver::drive(&mut device, operations(data), |bytes| {
        handle.set_target_bytes(bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
        handle.request_statistics();
    });
});
