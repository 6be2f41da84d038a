//! A hostile kernel on PCI configuration space, through ports and ECAM, of a bus with three devices.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm::devices::rng::Rng;
use quantix_vmm::virtio::Device;
use quantix_vmm_fuzz::bus;

fuzz_target!(|data: &[u8]| {
    let device = |slot| Box::new(Rng::new(format!("rng{slot}")).expect("an entropy device")) as Box<dyn Device>;
    bus::drive((1..4).map(device).collect(), data);
});
