//! Colours, where there is a terminal that shows them.

use std::io::IsTerminal as _;

/// Whether and how text is coloured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    colours: bool,
    /// Whether stdout is a terminal at all.
    pub(super) terminal: bool,
}

/// What a piece of text is, to be coloured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    /// A heading.
    Heading,
    /// All is well.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong.
    Bad,
    /// Of less weight.
    Faint,
}

impl Style {
    /// Of this process's stdout: colours only on a terminal, and not where `NO_COLOR` or a dumb terminal say otherwise.
    pub(super) fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || std::env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { colours: terminal && !refused, terminal }
    }

    /// Without any colour.
    #[cfg(test)]
    pub(super) fn plain() -> Self {
        Self { colours: false, terminal: false }
    }

    /// Colours a text.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        if !self.colours || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "31",
            Tone::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Text of a guest or a peer without anything that a terminal would obey.
pub(super) fn harmless(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
