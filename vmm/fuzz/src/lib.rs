//! The harness that all fuzz targets share.
//!
//! An input is a list of operations, encoded by postcard: [`driver::DriverOp`] for a device on the fake guest,
//! [`bus::BusOp`] for PCI. A cut or mutated input is the operations up to the first one that cannot be decoded. The seed
//! corpus is written from the same types (`seeds.rs`), so that it follows when an operation changes.
//!
//! A target fails when the code under test panics, overflows, touches memory that is not its own, leaks, takes longer than
//! a few seconds, or reports a failure of the *host* that the guest brought about.

#![forbid(unsafe_code)]

pub mod bus;
pub mod disk;
pub mod driver;
pub mod image;
pub mod legacy;
pub mod seeds;
pub mod vsock;

use serde::de::DeserializeOwned;

/// Most operations taken from one input: a longer one finds nothing new, only later.
const MAX_OPS: usize = 512;

/// The operations in `data`, up to the first that cannot be decoded.
pub fn operations<T: DeserializeOwned>(data: &[u8]) -> impl Iterator<Item = T> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let (op, behind) = postcard::take_from_bytes(rest).ok()?;
        rest = behind;
        Some(op)
    })
    .take(MAX_OPS)
}
