//! A hostile driver on virtio-vsock; the host's programs connect, and the broker answers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm_fuzz::{driver, operations, vsock};

fuzz_target!(|data: &[u8]| {
    let (mut device, mut programs) = vsock::device();
    driver::drive(&mut device, operations(data), |bytes| programs.play(bytes));
});
