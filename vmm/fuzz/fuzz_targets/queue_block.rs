//! A hostile driver on virtio-blk with two queues, on a disk in memory or on a file, writable or not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm::backend::disk::open::DiskAccess;
use quantix_vmm::backend::disk::raw::Ways;
use quantix_vmm::devices::block::{Block, BlockOptions};
use quantix_vmm::virtio::rate_limit::RateLimit;
use quantix_vmm_fuzz::{disk, driver, operations};

fuzz_target!(|data: &[u8]| {
    let (&how, data) = data.split_first().unwrap_or((&0, data));
    let access = DiskAccess { read_only: how & 1 != 0, direct: how & 6 == 4 };
    let ways = [Ways::Both, Ways::RingOnly, Ways::InlineOnly, Ways::Both][usize::from(how >> 3 & 3)];
    let options = BlockOptions { id: "disk0".into(), serial: "S1".into(), queues: 2, limit: RateLimit::default() };
    let mut device = Block::new(disk::empty(how & 2 != 0, access, ways), options).expect("a disk");
    driver::drive(&mut device, operations(data), |_| {});
});
