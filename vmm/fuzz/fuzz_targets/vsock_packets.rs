//! A guest that knows the socket device's protocol and breaks it: states, ports, credit, lengths.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm_fuzz::{driver, operations, vsock};

fuzz_target!(|data: &[u8]| {
    let (mut device, mut programs) = vsock::device();
    driver::drive(&mut device, vsock::driver_ops(operations(data)), |bytes| programs.play(bytes));
});
