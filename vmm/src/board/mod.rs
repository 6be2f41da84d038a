//! The board: where things are and what they are called, as plain data.
//!
//! Used by the main thread while a machine is built. It makes no system call and touches no guest memory: it hands out
//! addresses, interrupt numbers, memory maps and the bytes of ACPI tables, and others put them in place.
//!
//! The board is small on purpose. Every table and device that is not here is a probe that a guest does not make, and
//! every probe is an exit.

#![forbid(unsafe_code)]

pub mod acpi;
pub mod layout;
pub mod map;

pub use layout::{E820Entry, E820Kind, Layout, LayoutError, NodeShape, NumaRange, Window};
