//! The freestanding guest. It runs in ring 3 on one vCPU, polls, and never returns.
#![no_std]
#![no_main]

mod port;

use core::arch::global_asm;
use core::panic::PanicInfo;

global_asm!(include_str!("boot.s"));

const COM1: u16 = 0x3f8;

/// First code in ring 3. `protocol` is 0 for PVH, 1 for Linux; `info` is the address of that protocol's structure.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
extern "C" fn ring3_start(_protocol: u64, _info: u64) -> ! {
    // Every byte is an exit, so this line is as short as a JSON event can be.
    for byte in b"{\"event\":\"ready\"}\n" {
        port::outb(COM1, *byte);
    }
    port::outb(0x64, 0xfe);
    loop {
        core::hint::spin_loop();
    }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        core::hint::spin_loop();
    }
}
