//! A KVM virtual machine.
//!
//! Made by the main thread; vCPU and I/O threads use it afterwards for messages and doorbells.

use std::os::fd::{FromRawFd as _, IntoRawFd as _, OwnedFd};
use std::sync::Arc;

use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, Msrs, kvm_enable_cap, kvm_msi, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, NoDatamatch, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::board::map;
use crate::bus::{Doorbells, MsiSink};
use crate::devices::legacy::ioapic::{PINS, with_wide_destination};
use crate::memory::GuestMemory;

/// The KVM API version that has been current since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// KVM refused something.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// Another API than ours.
    #[error("KVM API version is {found}, {API_VERSION} is needed; load the host kernel's own KVM module")]
    ApiVersion {
        /// What the kernel said.
        found: i32,
    },
    /// A capability without which no VM can be built.
    #[error("This host's KVM has no {0}; run `quantix-vmm check` for what it offers")]
    Missing(&'static str),
    /// An ioctl failed.
    #[error("KVM could not {what}")]
    Ioctl {
        /// What was asked of it.
        what: &'static str,
        /// What the kernel said.
        source: kvm_ioctls::Error,
    },
}

/// Turns an ioctl's error into a [`KvmError`] that says what was being done.
pub(super) fn doing(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Ioctl { what, source }
}

/// A virtual machine.
pub struct Vm {
    kvm: Kvm,
    fd: VmFd,
}

impl Vm {
    /// Makes a VM on an open `/dev/kvm`.
    pub fn new(kvm: OwnedFd) -> Result<Self, KvmError> {
        // SAFETY: the descriptor is ours and is given away here; `Kvm` closes it.
        let kvm = unsafe { Kvm::from_raw_fd(kvm.into_raw_fd()) };
        let found = kvm.get_api_version();
        if found != API_VERSION {
            return Err(KvmError::ApiVersion { found });
        }
        for (capability, name) in [
            (Cap::UserMemory, "user memory"),
            (Cap::SplitIrqchip, "split irqchip"),
            (Cap::SignalMsi, "MSI delivery"),
            (Cap::Ioeventfd, "ioeventfd"),
            (Cap::ImmediateExit, "immediate exit"),
        ] {
            if !kvm.check_extension(capability) {
                return Err(KvmError::Missing(name));
            }
        }
        let fd = kvm.create_vm().map_err(doing("create a VM"))?;
        Ok(Self { kvm, fd })
    }

    /// The system handle, for what KVM supports.
    pub fn kvm(&self) -> &Kvm {
        &self.kvm
    }

    /// The VM handle.
    pub(super) fn fd(&self) -> &VmFd {
        &self.fd
    }

    /// Gives the guest its RAM: one slot a region.
    pub fn set_memory(&self, memory: &GuestMemory) -> Result<(), KvmError> {
        for (slot, (guest_phys_addr, userspace_addr, memory_size)) in memory.slots().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr,
                memory_size,
                userspace_addr,
            };
            // SAFETY: the addresses are those of guest RAM, which `GuestMemory` never unmaps.
            unsafe { self.fd.set_user_memory_region(region) }.map_err(doing("map guest memory"))?;
        }
        Ok(())
    }

    /// Local APICs in the kernel, IOAPIC here. After [`Self::set_memory`].
    pub fn create_irqchip(&self) -> Result<(), KvmError> {
        // Only Intel hosts use these two; others accept or refuse them, and need neither.
        let _ = self.fd.set_identity_map_address(map::KVM_IDENTITY_MAP);
        let _ = self.fd.set_tss_address(map::KVM_TSS as usize);
        let split = kvm_enable_cap { cap: KVM_CAP_SPLIT_IRQCHIP, args: [PINS as u64, 0, 0, 0], ..Default::default() };
        self.fd.enable_cap(&split).map_err(doing("split the irqchip"))?;
        if self.kvm.check_extension(Cap::X2ApicApi) {
            // KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK: APIC ids above 254 in messages.
            let x2apic = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, args: [3, 0, 0, 0], ..Default::default() };
            self.fd.enable_cap(&x2apic).map_err(doing("enable x2APIC ids"))?;
        }
        Ok(())
    }

    /// The CPUID leaves that KVM can offer to a guest.
    pub fn supported_cpuid(&self) -> Result<CpuId, KvmError> {
        self.kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES).map_err(doing("list CPUID leaves"))
    }

    /// The MSRs that KVM lets us set.
    pub fn msr_indices(&self) -> Result<Vec<u32>, KvmError> {
        Ok(self.kvm.get_msr_index_list().map_err(doing("list MSRs"))?.as_slice().to_vec())
    }

    /// Whether the kernel's local APIC has a TSC deadline timer.
    pub fn has_tsc_deadline(&self) -> bool {
        self.kvm.check_extension(Cap::TscDeadlineTimer)
    }

    /// The guest clock (kvmclock) in ns.
    pub fn clock(&self) -> Result<u64, KvmError> {
        Ok(self.fd.get_clock().map_err(doing("read the guest clock"))?.clock)
    }
}

/// An empty list of `n` MSRs.
pub(super) fn msrs(entries: &[kvm_bindings::kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|_| KvmError::Missing("room for that many MSRs"))
}

impl MsiSink for Vm {
    fn signal(&self, address: u64, data: u32) -> std::io::Result<()> {
        let address = with_wide_destination(address);
        let msi =
            kvm_msi { address_lo: address as u32, address_hi: (address >> 32) as u32, data, ..Default::default() };
        self.fd.signal_msi(msi).map(drop).map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
    }
}

impl Doorbells for Vm {
    fn attach(&self, address: u64, fd: &EventFd) -> std::io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        self.fd.register_ioevent(fd, &address, NoDatamatch).map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
    }

    fn detach(&self, address: u64, fd: &EventFd) -> std::io::Result<()> {
        let address = IoEventAddress::Mmio(address);
        self.fd.unregister_ioevent(fd, &address, NoDatamatch).map_err(|e| std::io::Error::from_raw_os_error(e.errno()))
    }
}

impl Vm {
    /// Makes vCPU `id`.
    pub fn create_vcpu(self: &Arc<Self>, id: u32) -> Result<super::Vcpu, KvmError> {
        let fd = self.fd().create_vcpu(u64::from(id)).map_err(doing("create a vCPU"))?;
        Ok(super::Vcpu::new(fd, id))
    }
}
