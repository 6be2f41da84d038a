//! Any bytes as a kernel image and initrd.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm_fuzz::image;

fuzz_target!(|data: &[u8]| image::boot(data));
