//! One file per gRPC service: convert, authorise, call, nothing else. Async runtime.

pub mod audit;
pub mod auth;
mod convert;
pub mod event;
pub mod host;
pub mod task;
#[cfg(test)]
mod tests;
// One line a service. Keep the comment lines: they keep merges apart.
// storage: volume, pool, image
pub mod begin;
pub mod image;
pub mod pool;
pub mod volume;
// network
pub mod network;
// vm
pub mod vm;
// host

pub use convert::{answer, duration, reference, timestamp};
