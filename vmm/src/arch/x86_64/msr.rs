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
