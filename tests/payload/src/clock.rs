//! Time, by the TSC.

use core::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc};

use payload_logic::options::Options;

use crate::dma::Buffer;
use crate::ring0;

/// The TSC and its frequency.
#[derive(Clone, Copy)]
pub struct Clock {
    kilohertz: u64,
}

/// The TSC now, after everything before it.
pub fn ticks() -> u64 {
    // SAFETY: both instructions exist on every 64-bit CPU, and CR4.TSD is clear.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

impl Clock {
    /// Learns the frequency: from `tsc_khz=`, from CPUID, from kvmclock.
    pub fn new(options: &Options<'_>) -> Self {
        let kilohertz = options.number("tsc_khz").or_else(from_cpuid).or_else(from_kvmclock);
        Self { kilohertz: kilohertz.filter(|kilohertz| *kilohertz != 0).unwrap_or(2_000_000) }
    }

    /// TSC ticks a millisecond.
    pub fn kilohertz(self) -> u64 {
        self.kilohertz
    }

    /// A number of ticks in nanoseconds.
    pub fn nanoseconds(self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000 / u128::from(self.kilohertz)) as u64
    }

    /// The point in time `milliseconds` from now.
    pub fn deadline(self, milliseconds: u64) -> Deadline {
        Deadline(ticks().saturating_add(milliseconds.saturating_mul(self.kilohertz)))
    }
}

/// A point in time to wait until.
#[derive(Clone, Copy)]
pub struct Deadline(u64);

impl Deadline {
    /// Whether it is over.
    pub fn passed(self) -> bool {
        ticks() >= self.0
    }

    /// Polls until `condition` holds; false when the time is over first.
    pub fn wait_for(self, mut condition: impl FnMut() -> bool) -> bool {
        loop {
            if condition() {
                return true;
            }
            if self.passed() {
                return false;
            }
            core::hint::spin_loop();
        }
    }
}

fn from_cpuid() -> Option<u64> {
    const HYPERVISOR: u32 = 0x4000_0000;
    const HYPERVISOR_TIMING: u32 = 0x4000_0010;
    const CRYSTAL: u32 = 0x15;
    let most = __cpuid(HYPERVISOR).eax;
    if (HYPERVISOR_TIMING..HYPERVISOR + 0x1000).contains(&most) {
        let kilohertz = u64::from(__cpuid(HYPERVISOR_TIMING).eax);
        if kilohertz != 0 {
            return Some(kilohertz);
        }
    }
    if __cpuid(0).eax < CRYSTAL {
        return None;
    }
    let leaf = __cpuid(CRYSTAL);
    let hertz = (u64::from(leaf.ecx) * u64::from(leaf.ebx)).checked_div(u64::from(leaf.eax))?;
    (hertz != 0).then_some(hertz / 1000)
}

/// kvmclock's page says how to turn ticks into nanoseconds: ns = (ticks << shift) * multiplier >> 32.
fn from_kvmclock() -> Option<u64> {
    const SIGNATURE: u32 = 0x4000_0000;
    const FEATURES: u32 = 0x4000_0001;
    const NEW_MSRS: u32 = 1 << 3;
    const SYSTEM_TIME: u32 = 0x4b56_4d01;
    const ENABLE: u64 = 1;
    if __cpuid(SIGNATURE).ebx != u32::from_le_bytes(*b"KVMK") || __cpuid(FEATURES).eax & NEW_MSRS == 0 {
        return None;
    }
    let page = Buffer::new(64);
    ring0::write_msr(SYSTEM_TIME, page.address() | ENABLE);
    let bytes = page.bytes(32);
    let multiplier = u128::from(u32::from_le_bytes(*bytes.get(24..)?.first_chunk()?));
    let shift = i32::from(bytes.get(28)?.cast_signed());
    ring0::write_msr(SYSTEM_TIME, 0);
    // One millisecond is a million nanoseconds.
    let scaled = (1_000_000_u128 << 32).checked_div(multiplier)?;
    let kilohertz = if shift >= 0 { scaled >> shift } else { scaled << -shift };
    u64::try_from(kilohertz).ok()
}
