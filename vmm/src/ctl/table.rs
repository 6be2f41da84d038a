//! Tables in columns: headings, texts to the left, figures to the right. Pure.

use std::fmt::Write as _;

use super::style::{Style, Tone};

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    /// Texts.
    Left,
    /// Figures.
    Right,
}

/// A table that is being filled.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table; a heading that begins with `>` has its column to the right.
    pub(super) fn new(headings: &[&'static str]) -> Self {
        let column = |heading: &&'static str| match heading.strip_prefix('>') {
            Some(heading) => (heading, Align::Right),
            None => (*heading, Align::Left),
        };
        Self { columns: headings.iter().map(column).collect(), rows: Vec::new() }
    }

    /// Adds a row; its cells are in the order of the headings.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table as text, each line ended; nothing when it has no rows.
    pub(super) fn text(&self, style: Style) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let cell = |row: &[String], index: usize| row.get(index).cloned().unwrap_or_default();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| {
                let heading = self.columns.get(index).map_or(0, |(heading, _)| heading.chars().count());
                self.rows.iter().map(|row| cell(row, index).chars().count()).fold(heading, usize::max)
            })
            .collect();
        let line = |cells: &dyn Fn(usize) -> String| {
            let mut line = String::new();
            for (index, ((_, align), width)) in self.columns.iter().zip(&widths).enumerate() {
                let gap = if index == 0 { "" } else { "  " };
                let text = cells(index);
                // Writing to a string cannot fail.
                let _ = match align {
                    Align::Left => write!(line, "{gap}{text:<width$}"),
                    Align::Right => write!(line, "{gap}{text:>width$}"),
                };
            }
            line.trim_end().to_owned()
        };
        let heading =
            line(&|index| self.columns.get(index).map_or(String::new(), |(heading, _)| (*heading).to_owned()));
        let mut text = style.paint(Tone::Heading, &heading) + "\n";
        for row in &self.rows {
            text += &line(&|index| cell(row, index));
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must_be() {
        let mut table = Table::new(&["ID", ">OPS"]);
        table.row(["disk0".into(), "7".into()]);
        table.row(["µ".into(), "12345".into()]);
        assert_eq!(table.text(Style::plain()), "ID       OPS\ndisk0      7\nµ      12345\n");
    }
}
