//! The lab: a Linux host with working KVM inside QEMU (TCG, emulated SVM), for tests and demonstrations on machines whose
//! own KVM cannot run an ordinary kernel. See `README.md` for the picture. Nothing here is product code.

#![forbid(unsafe_code)]

pub mod cache;
pub mod control;
mod error;
pub mod exact;
pub mod guest;
pub mod images;
pub mod machine;
pub mod node;
mod tool;

pub use cache::Cache;
pub use control::frame::Status;
pub use control::{Outcome, Process};
pub use error::LabError;
pub use guest::{BootFile, Guest, Report, Vmm};
pub use images::Images;
pub use images::disk::Disks;
pub use images::server::Server;
pub use machine::{Lab, Machine, Spec, supervise_if_asked};
pub use node::{Node, Programs};
