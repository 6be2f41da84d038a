//! What devices leave behind when they are made, for the control socket to use while the guest runs.
//!
//! Filled by the registry's rows before the sandbox, used on the main loop's thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::open::Stream;
use super::output::HeldOutput;
use crate::control::{BalloonControl, ConsoleInput, ConsoleOutput, Limited};

/// Presses the power button.
pub type PowerButton = Box<dyn Fn() + Send>;

/// A console of the machine, as its viewers need it.
pub struct ConsoleEnds {
    /// What it prints.
    pub output: Arc<ConsoleOutput>,
    /// Where they type.
    pub input: Box<dyn ConsoleInput>,
    /// Where the user wants it; sockets are viewers.
    pub stream: Stream,
}

/// See the module's header.
#[derive(Default)]
pub struct Handles {
    /// Devices with limits, by id.
    pub limits: BTreeMap<String, Box<dyn Limited>>,
    /// The balloon.
    pub balloon: Option<Box<dyn BalloonControl>>,
    /// The serial port.
    pub serial: Option<ConsoleEnds>,
    /// The virtio console.
    pub console: Option<ConsoleEnds>,
    /// Where standard input is typed.
    pub keyboard: Option<Box<dyn ConsoleInput>>,
    /// Outputs whose readers may be slow.
    pub held: Vec<Arc<HeldOutput>>,
    /// The ACPI power button.
    pub power_button: Option<PowerButton>,
}
