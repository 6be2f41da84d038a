//! `VmService`.

pub mod check;
mod check_devices;
