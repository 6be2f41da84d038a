//! The control protocol of `quantix-vmm`.
