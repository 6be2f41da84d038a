//! Port I/O from ring 3; the TSS's bitmap allows every port.

use core::arch::asm;

/// Writes a byte. What it does is up to the device behind `port`; no port changes the program's own state.
pub fn outb(port: u16, value: u8) {
    // SAFETY: the TSS of boot.s allows every port to ring 3, and `out` touches neither memory nor flags.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes two bytes.
pub fn outw(port: u16, value: u16) {
    // SAFETY: as for `outb`.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags)) }
}

/// Writes four bytes.
pub fn outl(port: u16, value: u32) {
    // SAFETY: as for `outb`.
    unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags)) }
}

/// Reads a byte.
pub fn inb(port: u16) -> u8 {
    let value;
    // SAFETY: as for `outb`; `in` writes only its register.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) }
    value
}

/// Reads four bytes.
pub fn inl(port: u16) -> u32 {
    let value;
    // SAFETY: as for `inb`.
    unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags)) }
    value
}
