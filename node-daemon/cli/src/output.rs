//! What goes to standard output, and in which form: tables for people, canonical JSON for programs, names for shells.

use std::collections::BTreeMap;
use std::io::Write;

use clap::ValueEnum;
use jiff::Timestamp;
use prost::{Message, Name};
use quantix_api::json;

use crate::failure::Failure;
use crate::table::{Facts, Sheet, View};

/// In which form answers are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and text for people.
    #[default]
    Table,
    /// The same with more columns.
    Wide,
    /// Canonical JSON: an array for a list, one document a line for a stream.
    Json,
    /// Only names, one a line.
    Name,
}

/// Standard output.
pub struct Output {
    /// The form.
    pub format: Format,
    /// Colours may be used.
    pub colour: bool,
    /// Standard output is a terminal.
    pub terminal: bool,
}

impl Output {
    /// What tables are made with now.
    pub fn view(&self) -> View {
        View {
            now: Timestamp::now(),
            names: BTreeMap::new(),
            colour: self.colour,
            width: self.terminal.then(crate::terminal::width),
            wide: self.format == Format::Wide,
        }
    }

    /// Text as it is.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Bytes as they are.
    #[allow(clippy::unused_self, reason = "standard output is this, and nothing is written past it")]
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()?;
        Ok(())
    }

    /// One line.
    pub fn line(&self, line: &str) -> Result<(), Failure> {
        self.text(&format!("{line}\n"))
    }

    /// One message as JSON, over several lines.
    pub fn json<M: Message + Name>(&self, message: &M) -> Result<(), Failure> {
        self.line(&pretty(&json::to_value(message)))
    }

    /// One message as JSON on one line, for streams.
    pub fn json_line<M: Message + Name>(&self, message: &M) -> Result<(), Failure> {
        self.line(&json::to_value(message).to_string())
    }

    /// A list of things.
    pub fn list<M: Message + Name>(&self, items: &[M], sheet: &Sheet<M>, view: &View) -> Result<(), Failure> {
        match self.format {
            Format::Json => {
                let array = serde_json::Value::Array(items.iter().map(json::to_value).collect());
                self.line(&pretty(&array))
            }
            Format::Name => items.iter().try_for_each(|item| self.line((sheet.name)(item))),
            Format::Table | Format::Wide if items.is_empty() => {
                // To standard error: a script that counts lines must count none.
                eprintln!("There are no {}.", sheet.plural);
                Ok(())
            }
            Format::Table | Format::Wide => self.text(&sheet.render(items, view)),
        }
    }

    /// One thing, with its facts.
    pub fn show<M: Message + Name>(
        &self,
        message: &M,
        name: &str,
        facts: impl FnOnce(&M, &View) -> Facts,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(message),
            Format::Name => self.line(name),
            Format::Table | Format::Wide => self.text(&facts(message, &self.view()).render(self.colour)),
        }
    }

    /// What was done, in one sentence for people; the message for programs.
    pub fn done<M: Message + Name>(&self, message: &M, name: &str, sentence: &str) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(message),
            Format::Name => self.line(name),
            Format::Table | Format::Wide => self.line(sentence),
        }
    }
}

/// JSON over several lines.
fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).expect("a JSON value has a text")
}
