//! What a vCPU thread may ask for: run the guest, and whatever an exit of the guest sets off.
//!
//! A driver's write to a device's registers is handled on this thread: it moves doorbells, sends
//! interrupts, and it makes a device active.

#![forbid(unsafe_code)]

use super::requests as r;
use super::{Entry, entries, request};

pub(in crate::sandbox) const VCPU: &[Entry] = entries! {
    SYS_ioctl [request(r::KVM_RUN)] => "runs the guest"
    SYS_ioctl [request(r::KVM_SIGNAL_MSI)] => "Seldom: an interrupt of a device that is handled within the exit"
    SYS_ioctl [request(r::KVM_IOEVENTFD)] => "the guest moves a BAR: its doorbells move along"
    SYS_ioctl [request(r::KVM_GET_REGS)] => "Seldom: the report when KVM gives up"
    SYS_ioctl [request(r::KVM_SET_REGS)] => "reset"
    SYS_ioctl [request(r::KVM_GET_SREGS)] => "Seldom: the report when KVM gives up"
    SYS_ioctl [request(r::KVM_SET_SREGS)] => "reset"
    SYS_ioctl [request(r::KVM_SET_MSRS)] => "reset"
    SYS_ioctl [request(r::KVM_SET_FPU)] => "reset"
    SYS_ioctl [request(r::KVM_SET_LAPIC)] => "reset"
    SYS_ioctl [request(r::KVM_SET_MP_STATE)] => "reset"
    SYS_ioctl [request(r::KVM_SET_VCPU_EVENTS)] => "reset"
    SYS_ioctl [request(r::KVM_SET_DEBUGREGS)] => "reset"
    SYS_ioctl [request(r::KVM_KVMCLOCK_CTRL)] => "tells the guest's watchdog that it was paused"
    SYS_ioctl [request(r::TUNSETOFFLOAD)] => "a NIC becomes active with the offloads that its driver took"
    SYS_ioctl [request(r::TUNSETQUEUE)] => "Seldom: a NIC is reset by its driver: one queue pair is in use again"
    SYS_poll => "has the pipe or terminal of the serial port room for more?"
};
