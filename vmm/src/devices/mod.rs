//! The devices, a folder each: what they mean to a guest. No threads, no fd registration, no addresses, no ACPI here.

#![forbid(unsafe_code)]

pub mod balloon;
pub mod block;
mod config_space;
pub mod console;
mod controls;
pub mod legacy;
pub mod limits;
pub mod net;
pub mod registry;
pub mod rng;
mod stepped;
pub mod vsock;

use config_space::{ConfigSignal, read_config};
use stepped::{Step, SteppedQueue};
