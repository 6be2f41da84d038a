//! What a vCPU thread may ask for: run the guest, and whatever an exit of the guest sets off.
//!
//! A driver's write to a device's registers is handled on this thread: it moves doorbells and interrupt
//! routes, and it makes a device active.

#![forbid(unsafe_code)]

use super::requests as r;
use super::{Entry, entries, request};

pub(in crate::sandbox) const VCPU: &[Entry] = entries! {
    SYS_ioctl [request(r::KVM_RUN)] => "runs the guest"
    SYS_ioctl [request(r::KVM_SIGNAL_MSI)] => "an interrupt of a device that is handled within the exit"
    SYS_ioctl [request(r::KVM_IOEVENTFD)] => "the guest moves a BAR: its doorbells move along"
    SYS_ioctl [request(r::KVM_IRQFD)] => "the guest masks or unmasks an MSI-X vector"
    SYS_ioctl [request(r::KVM_SET_GSI_ROUTING)] => "the guest rewrites an MSI-X vector"
    SYS_ioctl [request(r::KVM_IRQ_LINE)] => "level interrupts of the serial port and of ACPI"
    SYS_ioctl [request(r::KVM_GET_REGS)] => "save; the report when KVM gives up"
    SYS_ioctl [request(r::KVM_SET_REGS)] => "reset, restore"
    SYS_ioctl [request(r::KVM_GET_SREGS)] => "save; the report when KVM gives up"
    SYS_ioctl [request(r::KVM_SET_SREGS)] => "reset, restore"
    SYS_ioctl [request(r::KVM_TRANSLATE)] => "finds the instruction bytes for the report when KVM gives up"
    SYS_ioctl [request(r::KVM_GET_MSRS)] => "save"
    SYS_ioctl [request(r::KVM_SET_MSRS)] => "reset, restore"
    SYS_ioctl [request(r::KVM_SET_FPU)] => "reset"
    SYS_ioctl [request(r::KVM_GET_LAPIC)] => "save"
    SYS_ioctl [request(r::KVM_SET_LAPIC)] => "reset, restore"
    SYS_ioctl [request(r::KVM_GET_MP_STATE)] => "save"
    SYS_ioctl [request(r::KVM_SET_MP_STATE)] => "reset, restore"
    SYS_ioctl [request(r::KVM_GET_VCPU_EVENTS)] => "save"
    SYS_ioctl [request(r::KVM_SET_VCPU_EVENTS)] => "reset, restore"
    SYS_ioctl [request(r::KVM_GET_DEBUGREGS)] => "save"
    SYS_ioctl [request(r::KVM_SET_DEBUGREGS)] => "reset, restore"
    SYS_ioctl [request(r::KVM_GET_TSC_KHZ)] => "save"
    SYS_ioctl [request(r::KVM_SET_TSC_KHZ)] => "restore on a host with another clock rate"
    SYS_ioctl [request(r::KVM_GET_XSAVE)] => "save"
    SYS_ioctl [request(r::KVM_GET_XSAVE2)] => "save, where the state is larger than one page"
    SYS_ioctl [request(r::KVM_SET_XSAVE)] => "reset, restore"
    SYS_ioctl [request(r::KVM_GET_XCRS)] => "save"
    SYS_ioctl [request(r::KVM_SET_XCRS)] => "reset, restore"
    SYS_ioctl [request(r::KVM_KVMCLOCK_CTRL)] => "tells the guest's watchdog that it was paused"
    SYS_ioctl [request(r::KVM_NMI)] => "a non-maskable interrupt on request"
    SYS_ioctl [request(r::TUNSETOFFLOAD)] => "a NIC becomes active with the offloads that its driver took"
    SYS_ioctl [request(r::TUNSETQUEUE)] => "a NIC is reset by its driver: one queue pair is in use again"
    SYS_timerfd_settime => "timers of the RTC and of ACPI"
};
