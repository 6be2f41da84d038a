//! Results: one JSON line each on COM1.

use core::fmt::Display;

use alloc::string::String;
use payload_logic::json::Object;

use crate::serial::Serial;

/// Why a command failed, in words.
pub type Outcome = Result<(), String>;

/// Ends a function with a formatted reason unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($reason)+));
        }
    };
}

/// A line under construction. Writing to COM1 cannot fail, so neither can this.
pub struct Report {
    object: Option<Object<String>>,
}

impl Report {
    /// Starts a line whose first field is `kind`: `name`.
    pub fn new(kind: &str, name: &str) -> Self {
        let mut report = Self { object: Object::begin(String::new()).ok() };
        report.text(kind, name);
        report
    }

    /// Adds a number or a boolean.
    pub fn value(&mut self, name: &str, value: impl Display) -> &mut Self {
        if let Some(object) = &mut self.object {
            let _ = object.value(name, value);
        }
        self
    }

    /// Adds a text.
    pub fn text(&mut self, name: &str, text: impl Display) -> &mut Self {
        if let Some(object) = &mut self.object {
            let _ = object.text(name, text);
        }
        self
    }

    /// Adds a time in nanoseconds, shown in seconds.
    pub fn seconds(&mut self, name: &str, nanoseconds: u64) -> &mut Self {
        if let Some(object) = &mut self.object {
            let _ = object.seconds(name, nanoseconds);
        }
        self
    }

    /// Adds the verdict, and the reason where it is bad.
    pub fn outcome(&mut self, outcome: Outcome) -> &mut Self {
        self.value("ok", outcome.is_ok());
        if let Err(reason) = outcome {
            self.text("reason", reason);
        }
        self
    }

    /// Prints the line.
    pub fn print(&mut self) {
        if let Some(Ok(line)) = self.object.take().map(Object::end) {
            let _ = core::fmt::Write::write_str(&mut Serial, &line);
        }
    }
}
