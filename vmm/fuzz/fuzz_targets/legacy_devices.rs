//! A hostile kernel on serial port, RTC, i8042, power registers, pvpanic and I/O APIC.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm_fuzz::legacy;

fuzz_target!(|data: &[u8]| legacy::drive(data));
