//! The host's end of the control channel: programs in L1, their input, output and exit code.

pub mod frame;
mod port;
mod process;

pub use port::{HELLO_PATIENCE, Port};
pub use process::{Outcome, Process};
