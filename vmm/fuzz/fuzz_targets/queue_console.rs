//! A hostile driver on virtio-console; the host types, and changes the size of its window.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use quantix_vmm::devices::console::{Console, ConsoleSink, ConsoleSize};
use quantix_vmm_fuzz::{driver, operations};

struct Nowhere;

impl ConsoleSink for Nowhere {
    fn write(&self, _bytes: &[u8]) {}
}

fuzz_target!(|data: &[u8]| {
    let mut device = Console::new("console0", Arc::new(Nowhere)).expect("a console");
    let handle = device.handle();
    driver::drive(&mut device, operations(data), |bytes| {
        handle.input().push(bytes);
        handle.resize(ConsoleSize { columns: bytes.len() as u16, rows: 25 });
    });
});
