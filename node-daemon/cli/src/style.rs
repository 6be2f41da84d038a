//! What a piece of text means to its reader, and how a terminal shows it. Whether there are colours at all is decided in
//! `args`.

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Color};

/// What a piece of text means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// On its way, or worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Less important than the rest.
    Dim,
    /// A heading.
    Strong,
    /// A drawing.
    Accent,
}

impl Tone {
    /// The text as a terminal shows it; as it is without colours.
    pub fn paint(self, text: &str, colour: bool) -> String {
        let style = self.style();
        if colour && style != Style::new() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn style(self) -> Style {
        match self {
            Self::Plain => Style::new(),
            Self::Good => AnsiColor::Green.on_default(),
            Self::Warn => AnsiColor::Yellow.on_default(),
            Self::Bad => AnsiColor::Red.on_default().bold(),
            Self::Dim => Style::new().dimmed(),
            Self::Strong => Style::new().bold(),
            Self::Accent => AnsiColor::Cyan.on_default(),
        }
    }

    /// The same for a cell of a table.
    pub fn cell(self, text: String) -> comfy_table::Cell {
        let cell = comfy_table::Cell::new_owned(text);
        match self {
            Self::Plain => cell,
            Self::Good => cell.fg(Color::DarkGreen),
            Self::Warn => cell.fg(Color::DarkYellow),
            Self::Bad => cell.fg(Color::DarkRed).add_attribute(Attribute::Bold),
            Self::Dim => cell.add_attribute(Attribute::Dim),
            Self::Strong => cell.add_attribute(Attribute::Bold),
            Self::Accent => cell.fg(Color::DarkCyan),
        }
    }
}
