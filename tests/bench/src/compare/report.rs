//! The comparison as a table for people and as JSON for scripts: pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::Comparison;
use super::contender::Contender::{self, Bare, QemuThreads, QemuUring, Quantix};
use super::rows::{Bar, Better, ROWS, Row, verdict};
use super::statistics::Summary;

/// More of the CPUs' time than this before the start is somebody else's work.
pub const QUIET: f64 = 0.1;

/// Says loudly that the figures are not to be quoted. Noise is no failure: ratios between turns are worth reading still.
pub fn noise(busy: f64) -> String {
    let line = format!(
        "*** THE MACHINE IS NOT QUIET: others use {:.0} % of its CPUs. Do not quote these figures. ***",
        busy * 100.0
    );
    let rim = "*".repeat(line.len());
    format!("{rim}\n{line}\n{rim}")
}

fn figure(comparison: &Comparison, row: &Row, contender: Contender) -> Option<Summary> {
    comparison.figures.get(&(row.name, contender)).copied()
}

/// QEMU's better mode.
fn best_qemu(comparison: &Comparison, row: &Row) -> Option<Summary> {
    let modes = [QemuUring, QemuThreads].into_iter().filter_map(|mode| figure(comparison, row, mode));
    modes.reduce(|left, right| {
        let left_is_better = match row.better {
            Better::Lower => left.median <= right.median,
            Better::Higher => left.median >= right.median,
        };
        if left_is_better { left } else { right }
    })
}

fn is_quiet(comparison: &Comparison) -> bool {
    comparison.busy <= QUIET
}

fn judged(comparison: &Comparison, row: &Row) -> Option<bool> {
    let median = |summary: Option<Summary>| summary.map(|summary| summary.median);
    let bare = median(figure(comparison, row, Bare));
    verdict(row, figure(comparison, row, Quantix)?.median, bare, median(best_qemu(comparison, row)))
}

fn bar_in_words(row: &Row) -> String {
    match row.bar {
        Bar::None => "-".into(),
        Bar::AboveBare(margin) => format!("<= bare + {margin:.1}"),
        Bar::AtMost(limit) => format!("<= {limit:.1}"),
        Bar::Qemu => "ahead of QEMU".into(),
    }
}

/// Aligned columns, ASCII only: median, and minimum and maximum in brackets.
pub fn table(comparison: &Comparison) -> String {
    let shown = |summary: Option<Summary>| {
        summary.map_or("-".to_owned(), |s| format!("{:.2} [{:.2}-{:.2}]", s.median, s.min, s.max))
    };
    let mut lines = vec![
        ["", "unit", "bare program", "quantix-vmm", "QEMU microvm", "best published peer", "bar", ""].map(String::from),
    ];
    for row in ROWS.iter().filter(|row| comparison.figures.keys().any(|(name, _)| *name == row.name)) {
        let judged = match judged(comparison, row) {
            Some(true) => "met",
            Some(false) => "NOT MET",
            None => "",
        };
        lines.push([
            row.name.into(),
            row.unit.into(),
            shown(figure(comparison, row, Bare)),
            shown(figure(comparison, row, Quantix)),
            shown(best_qemu(comparison, row)),
            row.published.map_or("-".into(), |figure| figure.to_string()),
            bar_in_words(row),
            judged.into(),
        ]);
    }
    let mut widths = [0; 8];
    for line in &lines {
        widths.iter_mut().zip(line).for_each(|(width, cell)| *width = cell.len().max(*width));
    }
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<_> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
    }
    let (before, after) = comparison.load;
    let _ = writeln!(
        text,
        "\nMedian [min-max] of {} runs in turns, one more to warm up. QEMU: the better of aio=io_uring and aio=threads.\n\
         Best published peer: figures of a quiet machine of this kind with another payload. Load average {before:.1} -> {after:.1}.",
        comparison.runs
    );
    if !is_quiet(comparison) {
        let _ = writeln!(text, "{}", noise(comparison.busy));
    }
    for reason in &comparison.missing {
        let _ = writeln!(text, "NOT MEASURED: {reason}");
    }
    text
}

/// The same for scripts.
pub fn json(comparison: &Comparison) -> Value {
    let object = |summary: Option<Summary>| summary.map(|s| json!({ "median": s.median, "min": s.min, "max": s.max }));
    let rows: Vec<Value> = ROWS
        .iter()
        .filter(|row| comparison.figures.keys().any(|(name, _)| *name == row.name))
        .map(|row| {
            json!({
                "group": row.group, "name": row.name, "unit": row.unit,
                "bare": object(figure(comparison, row, Bare)),
                "quantix": object(figure(comparison, row, Quantix)),
                "qemu_io_uring": object(figure(comparison, row, QemuUring)),
                "qemu_threads": object(figure(comparison, row, QemuThreads)),
                "best_published_peer": row.published, "bar": bar_in_words(row), "met": judged(comparison, row),
            })
        })
        .collect();
    json!({
        "runs": comparison.runs, "busy_before": comparison.busy, "load_before": comparison.load.0, "load_after": comparison.load.1,
        "quiet": is_quiet(comparison), "rows": rows, "not_measured": comparison.missing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison() -> Comparison {
        let flat = |figure| Summary { min: figure, median: figure, max: figure };
        let row = "blk-randread-qd1";
        let figures =
            [((row, Quantix), flat(200.0)), ((row, QemuUring), flat(100.0)), ((row, QemuThreads), flat(150.0))];
        Comparison {
            runs: 5,
            load: (4.0, 4.0),
            busy: 0.5,
            figures: figures.into(),
            missing: vec!["net: no tap".into()],
        }
    }

    #[test]
    fn the_better_mode_of_qemu_counts() {
        let comparison = comparison();
        let row = ROWS.iter().find(|row| row.name == "blk-randread-qd1").unwrap();
        assert!((best_qemu(&comparison, row).unwrap().median - 150.0).abs() < f64::EPSILON);
        assert_eq!(judged(&comparison, row), Some(true));
        assert_eq!(json(&comparison)["rows"][0]["met"], true);
    }

    #[test]
    fn the_table_is_plain_and_tells_what_is_missing() {
        let text = table(&comparison());
        assert!(text.is_ascii());
        assert!(text.contains("NOT QUIET") && text.contains("NOT MEASURED: net: no tap"), "{text}");
    }
}
