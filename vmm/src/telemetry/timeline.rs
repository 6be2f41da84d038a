//! The boot timeline: when each step of the start happened.
//!
//! Any thread marks, the control thread reads. A step counts the first time that it is marked; marking again costs one
//! relaxed load. There is one timeline because a process has one guest.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use nix::time::ClockId;

/// The steps, in the order in which they are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Step {
    /// The process was started.
    Spawn,
    /// KVM, the kernel, the initrd and the sockets are open.
    Fds,
    /// KVM made the VM, with its memory.
    KvmCreate,
    /// Kernel, initrd and tables are in guest memory.
    Load,
    /// The last thread is in its sandbox.
    Sandbox,
    /// vCPUs are let into the guest.
    FirstVcpuEntry,
    /// The guest wrote the first byte that somebody can see.
    FirstGuestWrite,
}

impl Step {
    /// All steps.
    pub const ALL: [Self; 7] = [
        Self::Spawn,
        Self::Fds,
        Self::KvmCreate,
        Self::Load,
        Self::Sandbox,
        Self::FirstVcpuEntry,
        Self::FirstGuestWrite,
    ];

    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spawn => "spawn",
            Self::Fds => "fds",
            Self::KvmCreate => "kvm-create",
            Self::Load => "load",
            Self::Sandbox => "sandbox",
            Self::FirstVcpuEntry => "first-vcpu-entry",
            Self::FirstGuestWrite => "first-guest-write",
        }
    }
}

/// When each step was reached; 0 before.
static REACHED: [AtomicU64; Step::ALL.len()] = [const { AtomicU64::new(0) }; Step::ALL.len()];

/// Marks a step as reached now.
pub fn mark(step: Step) {
    mark_at(step, monotonic_ns());
}

/// Marks the start of the process. To be called first of all: until then the process has only loaded, so the time that it
/// has had on a CPU is the time since it was started.
pub fn mark_spawn() {
    let loaded = clock_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    mark_at(Step::Spawn, monotonic_ns().saturating_sub(loaded));
}

/// The steps that were reached, with their times in nanoseconds on `CLOCK_MONOTONIC`.
pub fn timeline() -> Vec<(Step, u64)> {
    let reached = Step::ALL.into_iter().zip(&REACHED).map(|(step, at)| (step, at.load(Relaxed)));
    reached.filter(|(_, at)| *at != 0).collect()
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub fn monotonic_ns() -> u64 {
    clock_ns(ClockId::CLOCK_MONOTONIC)
}

/// A clock in nanoseconds; 0 when there is no such clock (any more).
pub fn clock_ns(clock: ClockId) -> u64 {
    clock.now().map_or(0, |now| u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

fn mark_at(step: Step, now: u64) {
    if let Some(at) = REACHED.get(step as usize)
        && at.load(Relaxed) == 0
    {
        // Whoever was first stays.
        let _ = at.compare_exchange(0, now, Relaxed, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_mark_stays() {
        mark(Step::Load);
        let first = timeline();
        mark(Step::Load);
        assert_eq!(timeline(), first);
        assert!(first.iter().any(|(step, at)| *step == Step::Load && *at > 0));
    }
}
