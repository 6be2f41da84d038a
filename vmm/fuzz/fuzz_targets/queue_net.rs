//! A hostile driver on virtio-net with two queue pairs, its wire in our hands: frames come, frames leave.
#![no_main]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use libfuzzer_sys::fuzz_target;
use quantix_vmm::backend::tap::Tap;
use quantix_vmm::devices::net::Net;
use quantix_vmm_fuzz::{driver, operations};

fuzz_target!(|data: &[u8]| {
    let (tap, wires) = Tap::over_sockets(2).expect("socket pairs");
    let mut wires: Vec<_> = wires.into_iter().map(UnixStream::from).collect();
    for wire in &wires {
        wire.set_nonblocking(true).expect("a socket");
    }
    let mut device = Net::new("net0", Some([2, 0, 0, 0, 0, 1]), tap).expect("a timer");
    driver::drive(&mut device, operations(data), |bytes| {
        for wire in &mut wires {
            // A full or an empty wire is fine: the guest's traffic is what matters.
            let _ = wire.read(&mut [0; 2048]);
            let _ = wire.write(bytes);
        }
    });
});
