//! Tables and sheets of facts for people: columns as data, no borders, columns aligned, cut to the terminal only where a
//! terminal is. Text that came from guests cannot move the cursor. Pure: what is made here is a string.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, ContentArrangement, Table};
use jiff::Timestamp;

use crate::style::Tone;

/// What cells are made with besides the row itself.
pub struct View {
    /// For ages.
    pub now: Timestamp,
    /// Names by id, of other resources that rows point to.
    pub names: BTreeMap<String, String>,
    /// Colours may be used.
    pub colour: bool,
    /// Of the terminal; none when the output goes elsewhere, and nothing is cut.
    pub width: Option<u16>,
    /// All columns.
    pub wide: bool,
}

impl View {
    /// The name for an id, or the id's first part when it is not known.
    pub fn name(&self, id: &str) -> String {
        self.names.get(id).cloned().unwrap_or_else(|| id.to_owned())
    }
}

/// One cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// What stands there.
    pub text: String,
    /// What it means.
    pub tone: Tone,
}

impl Cell {
    /// Text that means something.
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }

    /// A mark: it is so, or it is not.
    pub fn mark(ok: bool) -> Self {
        if ok { Self::toned("✓", Tone::Good) } else { Self::toned("✗", Tone::Bad) }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

/// One column of a table of `T`.
pub struct Column<T: 'static> {
    title: &'static str,
    wide: bool,
    right: bool,
    cell: fn(&T, &View) -> Cell,
}

impl<T> Column<T> {
    /// Text, left aligned.
    pub const fn text(title: &'static str, cell: fn(&T, &View) -> Cell) -> Self {
        Self { title, wide: false, right: false, cell }
    }

    /// Numbers, right aligned.
    pub const fn number(title: &'static str, cell: fn(&T, &View) -> Cell) -> Self {
        Self { title, wide: false, right: true, cell }
    }

    /// Text, only with `-o wide`.
    pub const fn wide_text(title: &'static str, cell: fn(&T, &View) -> Cell) -> Self {
        Self { title, wide: true, right: false, cell }
    }

    /// Numbers, only with `-o wide`.
    pub const fn wide_number(title: &'static str, cell: fn(&T, &View) -> Cell) -> Self {
        Self { title, wide: true, right: true, cell }
    }
}

/// How a list of `T` is shown.
pub struct Sheet<T: 'static> {
    /// What is said when there is none, as in "There are no VMs".
    pub plural: &'static str,
    /// What `-o name` prints.
    pub name: fn(&T) -> &str,
    /// From left to right.
    pub columns: &'static [Column<T>],
}

impl<T> Sheet<T> {
    /// The table, with a line break at its end.
    pub fn render<'a>(&self, rows: impl IntoIterator<Item = &'a T>, view: &View) -> String
    where
        T: 'a,
    {
        let columns: Vec<&Column<T>> = self.columns.iter().filter(|column| view.wide || !column.wide).collect();
        let heads = columns.iter().map(|column| (column.title, column.right)).collect::<Vec<_>>();
        let rows = rows.into_iter().map(|row| columns.iter().map(|column| (column.cell)(row, view)).collect());
        grid(&heads, rows, view)
    }
}

/// A table from heads (title, right aligned) and rows of cells.
pub fn grid(heads: &[(&str, bool)], rows: impl IntoIterator<Item = Vec<Cell>>, view: &View) -> String {
    let mut table = Table::new();
    table.load_preset(comfy_table::presets::NOTHING).set_truncation_indicator("…");
    match view.width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    if view.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    if heads.iter().any(|(title, _)| !title.is_empty()) {
        table.set_header(heads.iter().map(|(title, _)| Tone::Dim.cell((*title).to_owned())));
    }
    for row in rows {
        let mut line = comfy_table::Row::new();
        for cell in row {
            line.add_cell(cell.tone.cell(printable(&cell.text)));
        }
        // A row is one line: what does not fit is cut.
        line.max_height(1);
        table.add_row(line);
    }
    let last = heads.len().saturating_sub(1);
    for (index, (_, right)) in heads.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, if index == last { 0 } else { 2 }));
            column.set_cell_alignment(if *right { CellAlignment::Right } else { CellAlignment::Left });
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Text on one line that a terminal takes for nothing but text.
pub fn printable(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// Facts about one thing: a label and a value a line, in sections.
#[derive(Default)]
pub struct Facts {
    lines: Vec<Line>,
}

enum Line {
    Section(String),
    Fact(&'static str, Cell),
    Block(String),
}

impl Facts {
    /// Adds a fact; one without text is left out.
    pub fn add(&mut self, label: &'static str, value: impl Into<Cell>) -> &mut Self {
        let value = value.into();
        if !value.text.is_empty() {
            self.lines.push(Line::Fact(label, value));
        }
        self
    }

    /// Begins a section.
    pub fn section(&mut self, title: impl Into<String>) -> &mut Self {
        self.lines.push(Line::Section(title.into()));
        self
    }

    /// Adds lines as they are, indented.
    pub fn block(&mut self, text: impl Into<String>) -> &mut Self {
        self.lines.push(Line::Block(text.into()));
        self
    }

    /// All of it, with a line break at its end.
    pub fn render(&self, colour: bool) -> String {
        let widest = self.lines.iter().filter_map(|line| match line {
            Line::Fact(label, _) => Some(label.chars().count()),
            _ => None,
        });
        let width = widest.max().unwrap_or(0);
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Section(title) => text.push_str(&format!("\n{}\n", Tone::Strong.paint(title, colour))),
                Line::Fact(label, value) => {
                    let label = Tone::Dim.paint(&format!("{label:width$}"), colour);
                    text.push_str(&format!("{label}  {}\n", value.tone.paint(&printable(&value.text), colour)));
                }
                Line::Block(block) => block.lines().for_each(|line| text.push_str(&format!("  {line}\n"))),
            }
        }
        text
    }
}

/// Labels on one line: a=1 b=2.
pub fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A view at a fixed time, without colours.
    pub fn view() -> View {
        View {
            now: Timestamp::from_second(1_000_000).unwrap(),
            names: BTreeMap::new(),
            colour: false,
            width: None,
            wide: false,
        }
    }

    const SHEET: Sheet<(String, u32)> = Sheet {
        plural: "things",
        name: |thing| &thing.0,
        columns: &[
            Column::text("NAME", |thing, _| thing.0.clone().into()),
            Column::number("COUNT", |thing, _| thing.1.to_string().into()),
            Column::wide_text("MORE", |_, _| "x".into()),
        ],
    };

    fn rows() -> Vec<(String, u32)> {
        vec![("short".into(), 7), ("a-longer-name".into(), 1234), ("grün".into(), 5)]
    }

    #[test]
    fn columns_are_aligned_and_have_no_borders() {
        let expected = "\
NAME           COUNT
short              7
a-longer-name   1234
grün               5
";
        assert_eq!(SHEET.render(&rows(), &view()), expected);
        let wide = View { wide: true, ..view() };
        assert!(SHEET.render(&rows(), &wide).starts_with("NAME           COUNT  MORE\n"));
    }

    #[test]
    fn what_is_too_wide_for_a_terminal_is_cut_to_one_line() {
        let narrow = View { width: Some(16), ..view() };
        let text = SHEET.render(&rows(), &narrow);
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 16), "{text}");
        assert!(text.contains('…'), "{text}");
    }

    #[test]
    fn a_guest_cannot_move_the_cursor() {
        let text = SHEET.render(&[("\u{1b}[2Jgone\r\n".into(), 1)], &view());
        assert!(text.contains("·[2Jgone"), "{text}");
    }

    #[test]
    fn facts_are_aligned_and_empty_ones_left_out() {
        let mut facts = Facts::default();
        facts.add("Name", "demo").add("Reason", "").add("CPUs", "2").section("Disks").block("a\nb");
        assert_eq!(facts.render(false), "Name  demo\nCPUs  2\n\nDisks\n  a\n  b\n");
    }
}
