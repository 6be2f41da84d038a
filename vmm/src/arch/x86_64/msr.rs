//! MSRs at power-on. Only those that KVM lists are set: some hosts offer few.

use kvm_bindings::kvm_msr_entry;

/// `IA32_MISC_ENABLE` (Intel SDM volume 4): fast strings on.
const IA32_MISC_ENABLE: u32 = 0x1a0;
/// `IA32_MTRR_DEF_TYPE`: MTRRs on, default type write-back. Without it some kernels treat RAM as uncached.
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;

const BOOT: [(u32, u64); 2] = [(IA32_MISC_ENABLE, 1), (IA32_MTRR_DEF_TYPE, 1 << 11 | 6)];

/// The boot MSRs among the `listed` ones.
pub fn boot(listed: &[u32]) -> Vec<kvm_msr_entry> {
    let entry = |(index, data)| kvm_msr_entry { index, data, ..Default::default() };
    BOOT.into_iter().filter(|(index, _)| listed.contains(index)).map(entry).collect()
}

/// What a reset puts back to zero: paravirtual pages that KVM would go on writing, timers, and entry points of the old kernel.
const CLEARED: [(u32, &str); 14] = [
    (0x4b56_4d00, "kvmclock wall clock page"),
    (0x4b56_4d01, "kvmclock page"),
    (0x4b56_4d02, "asynchronous page faults"),
    (0x4b56_4d03, "steal time page"),
    (0x4b56_4d04, "paravirtual end of interrupt"),
    (0x4b56_4d06, "asynchronous page fault vector"),
    (0x6e0, "TSC deadline"),
    (0xc000_0081, "STAR"),
    (0xc000_0082, "LSTAR"),
    (0xc000_0083, "CSTAR"),
    (0xc000_0084, "SFMASK"),
    (0xc000_0102, "kernel GS base"),
    (0xc000_0103, "TSC_AUX"),
    (0x174, "SYSENTER code segment"),
];

/// The MSRs of a reset among the `listed` ones.
pub fn reset(listed: &[u32]) -> Vec<kvm_msr_entry> {
    let cleared = CLEARED.into_iter().filter(|(index, _)| listed.contains(index));
    let mut entries: Vec<_> = cleared.map(|(index, _)| kvm_msr_entry { index, ..Default::default() }).collect();
    entries.extend(boot(listed));
    entries
}
