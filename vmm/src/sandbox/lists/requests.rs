//! Numbers of the `ioctl` requests that the lists name, spelled from the kernel's own structures.
//!
//! The crates that issue these requests keep their numbers private, so they are composed again here; a
//! wrong one shows as a thread that dies in the tests.

#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "each constant is the kernel's name for the request")]

use std::mem::size_of;

use kvm_bindings as kvm;

const WRITE: u32 = 1;
const READ: u32 = 2;

/// `_IOC` of <asm-generic/ioctl.h>.
const fn ioc(direction: u32, group: u32, number: u32, size: usize) -> u32 {
    direction << 30 | (size as u32) << 16 | group << 8 | number
}

const fn plain(number: u32) -> u32 {
    ioc(0, kvm::KVMIO, number, 0)
}

const fn ior<T>(number: u32) -> u32 {
    ioc(READ, kvm::KVMIO, number, size_of::<T>())
}

const fn iow<T>(number: u32) -> u32 {
    ioc(WRITE, kvm::KVMIO, number, size_of::<T>())
}

// <linux/kvm.h>, on the file of a VM.
pub(super) const KVM_IOEVENTFD: u32 = iow::<kvm::kvm_ioeventfd>(0x79);
pub(super) const KVM_SIGNAL_MSI: u32 = iow::<kvm::kvm_msi>(0xa5);

// <linux/kvm.h>, on the file of a vCPU.
pub(super) const KVM_RUN: u32 = plain(0x80);
pub(super) const KVM_GET_REGS: u32 = ior::<kvm::kvm_regs>(0x81);
pub(super) const KVM_SET_REGS: u32 = iow::<kvm::kvm_regs>(0x82);
pub(super) const KVM_GET_SREGS: u32 = ior::<kvm::kvm_sregs>(0x83);
pub(super) const KVM_SET_SREGS: u32 = iow::<kvm::kvm_sregs>(0x84);
pub(super) const KVM_SET_MSRS: u32 = iow::<kvm::kvm_msrs>(0x89);
pub(super) const KVM_SET_FPU: u32 = iow::<kvm::kvm_fpu>(0x8d);
pub(super) const KVM_SET_LAPIC: u32 = iow::<kvm::kvm_lapic_state>(0x8f);
pub(super) const KVM_SET_MP_STATE: u32 = iow::<kvm::kvm_mp_state>(0x99);
pub(super) const KVM_SET_VCPU_EVENTS: u32 = iow::<kvm::kvm_vcpu_events>(0xa0);
pub(super) const KVM_SET_DEBUGREGS: u32 = iow::<kvm::kvm_debugregs>(0xa2);
pub(super) const KVM_KVMCLOCK_CTRL: u32 = plain(0xad);

// <linux/if_tun.h>.
pub(super) const TUNSETOFFLOAD: u32 = ioc(WRITE, 0x54, 208, 4);
pub(super) const TUNSETQUEUE: u32 = ioc(WRITE, 0x54, 217, 4);

// <linux/vhost.h>.
const VHOST: u32 = 0xaf;
pub(super) const VHOST_SET_OWNER: u32 = ioc(0, VHOST, 0x01, 0);
pub(super) const VHOST_SET_FEATURES: u32 = ioc(WRITE, VHOST, 0x00, 8);
pub(super) const VHOST_SET_MEM_TABLE: u32 = ioc(WRITE, VHOST, 0x03, 8);
pub(super) const VHOST_SET_VRING_NUM: u32 = ioc(WRITE, VHOST, 0x10, 8);
pub(super) const VHOST_SET_VRING_ADDR: u32 = ioc(WRITE, VHOST, 0x11, 40);
pub(super) const VHOST_SET_VRING_BASE: u32 = ioc(WRITE, VHOST, 0x12, 8);
pub(super) const VHOST_GET_VRING_BASE: u32 = ioc(READ | WRITE, VHOST, 0x12, 8);
pub(super) const VHOST_SET_VRING_KICK: u32 = ioc(WRITE, VHOST, 0x20, 8);
pub(super) const VHOST_SET_VRING_CALL: u32 = ioc(WRITE, VHOST, 0x21, 8);
pub(super) const VHOST_SET_VRING_ERR: u32 = ioc(WRITE, VHOST, 0x22, 8);
pub(super) const VHOST_NET_SET_BACKEND: u32 = ioc(WRITE, VHOST, 0x30, 8);

// <linux/fs.h>.
pub(super) const BLKDISCARD: u32 = ioc(0, 0x12, 119, 0);
pub(super) const BLKZEROOUT: u32 = ioc(0, 0x12, 127, 0);

// <asm-generic/ioctls.h>.
pub(super) const FIONBIO: u32 = 0x5421;
pub(super) const TCGETS: u32 = 0x5401;
pub(super) const TCSETS: u32 = 0x5402;
