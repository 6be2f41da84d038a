//! Device registers in memory, by guest-physical address. Plain `mov` only: some KVMs emulate few other forms.

use core::arch::asm;

macro_rules! accessors {
    ($read:ident, $write:ident, $type:ty, $class:ident, $modifier:literal) => {
        /// Reads one register.
        pub fn $read(address: u64) -> $type {
            let value;
            // SAFETY: callers pass addresses of device registers, mapped by `paging`; they alias no Rust object.
            unsafe {
                asm!(concat!("mov {value", $modifier, "}, [{address}]"), address = in(reg) address,
                    value = out($class) value, options(nostack, preserves_flags));
            }
            value
        }

        /// Writes one register.
        pub fn $write(address: u64, value: $type) {
            // SAFETY: callers pass addresses of device registers, mapped by `paging`; they alias no Rust object.
            unsafe {
                asm!(concat!("mov [{address}], {value", $modifier, "}"), address = in(reg) address,
                    value = in($class) value, options(nostack, preserves_flags));
            }
        }
    };
}

accessors!(read8, write8, u8, reg_byte, "");
accessors!(read16, write16, u16, reg, ":x");
accessors!(read32, write32, u32, reg, ":e");
accessors!(read64, write64, u64, reg, ":r");
