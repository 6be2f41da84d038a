//! The payload's pure parts: what needs no guest to be right and is therefore tested on the host.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

#[path = "logic/acpi.rs"]
pub mod acpi;
#[path = "logic/frame.rs"]
pub mod frame;
#[path = "logic/json.rs"]
pub mod json;
#[path = "logic/latency.rs"]
pub mod latency;
#[path = "logic/memory_map.rs"]
pub mod memory_map;
#[path = "logic/options.rs"]
pub mod options;
#[path = "logic/pattern.rs"]
pub mod pattern;
