//! What devices leave behind when they are made, for the control socket to use while the guest runs.
//!
//! Filled by the registry's rows before the sandbox, used on the main loop's thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::control::{BalloonControl, ConsoleInput, ConsoleOutput, Limited};

/// Presses the power button.
pub type PowerButton = Box<dyn Fn() + Send>;

/// See the module's header.
#[derive(Default)]
pub struct Handles {
    /// Devices with limits, by id.
    pub limits: BTreeMap<String, Box<dyn Limited>>,
    /// The balloon.
    pub balloon: Option<Box<dyn BalloonControl>>,
    /// The virtio console: what it prints, and where its viewers type.
    pub console: Option<(Arc<ConsoleOutput>, Box<dyn ConsoleInput>)>,
    /// The ACPI power button.
    pub power_button: Option<PowerButton>,
}
