//! x86-64: boot protocols, boot registers, CPUID and MSR policy. Pure but for writes to guest memory; no ioctls.

#![forbid(unsafe_code)]

pub mod boot;
pub mod cpuid;
pub mod kernel;
pub mod msr;
pub mod registers;
