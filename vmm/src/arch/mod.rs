//! What differs between processor architectures. Only this room may look at `target_arch`.

#[cfg(target_arch = "x86_64")]
pub mod x86_64;
