//! The host side of devices: it knows no guest address and no descriptor.

pub mod entropy;
