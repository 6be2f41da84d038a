//! Builds a [`Plan`](crate::config::Plan) into a VM and walks it through its phases.
//!
//! ```text
//!   open ──► build ──► sandbox ──► start ──► main loop ──► outcome
//!   files    VM, RAM   process     threads   events of vCPUs, control socket, serial input
//!                        create → run ⇄ paused → stopped
//! ```
//! Everything here runs on the main thread, but for [`exits`], which vCPU threads call. It names no concrete virtio device:
//! those are rows of `devices::registry`.

#![forbid(unsafe_code)]

mod boot_image;
mod build;
mod control;
mod events;
mod exits;
mod handles;
mod main_loop;
mod open;
mod output;
mod reset;
mod terminal;
mod warnings;

pub use build::{BuildError, Machine};
pub use events::{EventSink, MachineEvent};
pub use handles::{ConsoleEnds, Handles, PowerButton};
pub use main_loop::{Outcome, RunError};
pub use open::{OpenError, Opened, Stream, open_endpoint, passed};
pub use output::{HeldOutput, Printed, printed_to};
