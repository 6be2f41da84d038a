//! The one error of a configuration: which option, which value, why, and what to do, in one line.
//!
//! Runs on the main thread. It must not hold another error: the reason is already in plain words.

use std::fmt;

/// A configuration that was refused. It displays as one line, such as
/// `--disk #2 queues=99: must be from 1 to 16`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    option: &'static str,
    item: Option<usize>,
    key: Option<String>,
    value: String,
    reason: String,
}

impl ConfigError {
    /// An error about the whole of an option (`--memory 12Q`). An empty `value` is left out of the text.
    pub fn new(option: &'static str, value: impl fmt::Display, reason: impl fmt::Display) -> Self {
        Self {
            option,
            item: None,
            key: None,
            value: printable(&value.to_string(), VALUE),
            reason: printable(&reason.to_string(), REASON),
        }
    }

    /// The error is about one key inside the option (`--disk queues=99`).
    #[must_use]
    pub fn at_key(mut self, key: &str) -> Self {
        self.key = Some(printable(key, VALUE));
        self
    }

    /// The error is about the item at `index` (from 0) of an option that repeats; the text counts from 1.
    #[must_use]
    pub fn at_item(mut self, index: usize) -> Self {
        self.item = Some(index);
        self
    }

    /// The option's name, with its dashes.
    pub fn option(&self) -> &'static str {
        self.option
    }

    /// Why the value was refused and what to do.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.option)?;
        if let Some(index) = self.item {
            write!(f, " #{}", index.saturating_add(1))?;
        }
        match (&self.key, self.value.as_str()) {
            (Some(key), "") => write!(f, " {key}")?,
            (Some(key), value) => write!(f, " {key}={value}")?,
            (None, "") => {}
            (None, value) => write!(f, " {value}")?,
        }
        write!(f, ": {}", self.reason)
    }
}

/// The longest piece of a refused value that is worth repeating, in characters.
const VALUE: usize = 200;
/// The longest reason, in characters: some repeat a piece of the value.
const REASON: usize = 600;

/// Control characters escaped and overlong text cut, so that the message stays one readable line.
fn printable(text: &str, longest: usize) -> String {
    let mut shown = String::new();
    for (count, character) in text.chars().enumerate() {
        if count == longest {
            shown.push('…');
            break;
        }
        if character.is_control() { shown.extend(character.escape_default()) } else { shown.push(character) }
    }
    shown
}
