//! Drawings made of block characters: spans on a time axis, curves of values. Pure.

use quantix_api::v1::{BootReport, Span};

use crate::style::Tone;
use crate::table::printable;
use crate::units;

const EIGHTHS: [char; 9] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A boot report: every span as a bar on one axis, and what no span covers.
pub fn boot_report(report: &BootReport, width: usize, colour: bool) -> String {
    let total = report.total.as_ref().map_or(0.0, units::seconds);
    let unaccounted = report.unaccounted.unwrap_or_default();
    let share = if total > 0.0 { units::seconds(&unaccounted) / total * 100.0 } else { 0.0 };
    let mut text = format!(
        "{}  total {}, unaccounted {} ({share:.1} %)\n\n",
        Tone::Dim.paint(&units::when(report.start_time.as_ref()), colour),
        Tone::Strong.paint(&units::span(&report.total.unwrap_or_default()), colour),
        units::span(&unaccounted),
    );
    let mut spans: Vec<&Span> = report.spans.iter().collect();
    spans.sort_by(|a, b| start(a).total_cmp(&start(b)).then(end(b).total_cmp(&end(a))));
    let names: Vec<String> = spans.iter().map(|span| printable(&span.name)).collect();
    let widest = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("unaccounted".len());
    // Name, offset, length, and two blanks before each of them and the bar.
    let room = width.saturating_sub(widest + 26).max(10);
    let zero = spans.first().map_or(0.0, |span| start(span));
    for (span, name) in spans.iter().zip(&names) {
        let bar = bar(start(span) - zero, end(span) - zero, total, room);
        text.push_str(&format!(
            "{name:widest$}  {:>9}  {:>9}  {}\n",
            units::span(&span.offset.unwrap_or_default()),
            units::span(&span.length.unwrap_or_default()),
            Tone::Accent.paint(&bar, colour),
        ));
    }
    let rest: String = gaps(&spans, zero, total).iter().fold(" ".repeat(room), |line, gap| shade(&line, *gap, total));
    let rest = format!("{:widest$}  {:>9}  {:>9}  {}", "unaccounted", "", units::span(&unaccounted), rest.trim_end());
    text.push_str(&Tone::Warn.paint(rest.trim_end(), colour));
    text.push('\n');
    text
}

fn start(span: &Span) -> f64 {
    span.offset.as_ref().map_or(0.0, units::seconds)
}

fn end(span: &Span) -> f64 {
    start(span) + span.length.as_ref().map_or(0.0, units::seconds)
}

/// A bar from one time to another on an axis of `room` characters; never invisible.
#[allow(clippy::cast_sign_loss, reason = "clamped to the axis, and the axis is a terminal's width")]
fn bar(from: f64, to: f64, total: f64, room: usize) -> String {
    if total <= 0.0 {
        return String::new();
    }
    let limit = f64::from(u16::try_from(room).unwrap_or(u16::MAX));
    let at = |time: f64| (time / total * limit).clamp(0.0, limit);
    let first = ((at(from) + 1e-6).floor() as usize).min(room - 1);
    // Eighths of a character from the first one on. Blocks fill from the left: a bar's begin is a whole character.
    let eighths = (((at(to) - at(from)) * 8.0).round() as usize).clamp(1, (room - first) * 8);
    let mut bar = " ".repeat(first);
    bar.extend(std::iter::repeat_n(EIGHTHS[8], eighths / 8));
    if !eighths.is_multiple_of(8) {
        bar.push(EIGHTHS[eighths % 8]);
    }
    bar
}

/// Where no span is, from the begin of the first to the total's end.
fn gaps(sorted: &[&Span], zero: f64, total: f64) -> Vec<(f64, f64)> {
    let mut gaps = Vec::new();
    let mut covered = 0.0_f64;
    for span in sorted {
        let from = start(span) - zero;
        if from > covered {
            gaps.push((covered, from));
        }
        covered = covered.max(end(span) - zero);
    }
    if covered < total {
        gaps.push((covered, total));
    }
    gaps
}

/// Shades a part of a line; a gap below half a character is left out.
#[allow(clippy::cast_sign_loss, reason = "clamped to the line")]
fn shade(line: &str, (from, to): (f64, f64), total: f64) -> String {
    let room = line.chars().count();
    let limit = f64::from(u16::try_from(room).unwrap_or(u16::MAX));
    let at = |time: f64| (time / total * limit).round().clamp(0.0, limit) as usize;
    let (first, last) = (at(from), at(to));
    line.chars().enumerate().map(|(index, c)| if (first..last).contains(&index) { '░' } else { c }).collect()
}

/// A curve of one line: the newest `width` values, or means when there are more values than that. Blank where there is none.
pub fn sparkline(values: &[f64], width: usize) -> String {
    let values = squeeze(values, width);
    let (low, high) = range(&values);
    values
        .iter()
        .map(|value| if value.is_nan() { ' ' } else { HEIGHTS[step(*value, low, high, HEIGHTS.len() - 1)] })
        .collect()
}

/// A curve of several lines, with its scale on the left, made by `show`.
pub fn plot(values: &[f64], width: usize, height: usize, show: &dyn Fn(f64) -> String) -> String {
    let (_, high) = range(values);
    let (top, bottom) = (show(high), show(0.0));
    let scale = top.chars().count().max(bottom.chars().count());
    let values = squeeze(values, width.saturating_sub(scale + 3).max(10));
    let mut text = String::new();
    for line in (0..height).rev() {
        let label = match line {
            0 => bottom.as_str(),
            line if line + 1 == height => top.as_str(),
            _ => "",
        };
        let row: String = values.iter().map(|value| slice(*value, high, height, line)).collect();
        text.push_str(format!("{label:>scale$} ┤{row}").trim_end());
        text.push('\n');
    }
    text
}

/// The part of a column that stands in one line.
fn slice(value: f64, high: f64, height: usize, line: usize) -> char {
    if value.is_nan() {
        return ' ';
    }
    let eighths = step(value, 0.0, high, height * 8);
    match eighths.saturating_sub(line * 8) {
        0 if line == 0 => HEIGHTS[0],
        0 => ' ',
        filled => HEIGHTS[filled.min(8) - 1],
    }
}

/// Lowest and highest value. Curves begin at zero, except where values are below it.
fn range(values: &[f64]) -> (f64, f64) {
    let present = values.iter().copied().filter(|value| value.is_finite());
    let (low, high) = present.fold((0.0_f64, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
    (low, high)
}

#[allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "steps are few, and clamped")]
fn step(value: f64, low: f64, high: f64, steps: usize) -> usize {
    if high <= low {
        return 0;
    }
    ((value - low) / (high - low) * steps as f64).round().clamp(0.0, steps as f64) as usize
}

/// At most `width` values, each the mean of as many as needed.
fn squeeze(values: &[f64], width: usize) -> Vec<f64> {
    let group = values.len().div_ceil(width.max(1)).max(1);
    values.chunks(group).map(mean).collect()
}

/// The mean of the values that are there; NaN when there are none.
#[allow(clippy::cast_precision_loss, reason = "there are at most some thousand values")]
pub fn mean(values: &[f64]) -> f64 {
    let present: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if present.is_empty() { f64::NAN } else { present.iter().sum::<f64>() / present.len() as f64 }
}

/// Milliseconds as a duration, for tests.
#[cfg(test)]
pub fn milliseconds(number: i32) -> prost_types::Duration {
    prost_types::Duration { seconds: i64::from(number / 1000), nanos: number % 1000 * 1_000_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &str, offset: i32, length: i32) -> Span {
        Span { name: name.into(), offset: Some(milliseconds(offset)), length: Some(milliseconds(length)) }
    }

    #[test]
    fn spans_stand_on_one_axis_and_the_rest_is_drawn_too() {
        let report = BootReport {
            spans: vec![span("spawn", 50, 25), span("open disks", 0, 25), span("run", 75, 25)],
            total: Some(milliseconds(100)),
            unaccounted: Some(milliseconds(25)),
            start_time: None,
        };
        let expected = "  total 100.0 ms, unaccounted 25.0 ms (25.0 %)

open disks        0 µs    25.0 ms  ██████████
spawn          50.0 ms    25.0 ms                      ██████████
run            75.0 ms    25.0 ms                                ██████████
unaccounted               25.0 ms            ░░░░░░░░░░
";
        assert_eq!(boot_report(&report, 11 + 26 + 40, false), expected);
    }

    #[test]
    fn a_span_that_is_too_short_to_see_is_seen() {
        assert_eq!(bar(50.0, 50.001, 100.0, 10), "     ▏");
        assert_eq!(bar(100.0, 100.0, 100.0, 10).trim(), "▏");
        assert_eq!(bar(0.0, 100.0, 100.0, 10), "██████████");
    }

    #[test]
    fn overlapping_spans_leave_no_gap() {
        let (a, b) = (span("a", 0, 60), span("b", 10, 20));
        assert_eq!(gaps(&[&a, &b], 0.0, 0.06), []);
        assert!(gaps(&[&a, &b], 0.0, 0.08).len() == 1);
    }

    #[test]
    fn an_empty_report_is_drawn() {
        assert!(boot_report(&BootReport::default(), 80, false).contains("unaccounted"));
    }

    #[test]
    fn curves_have_holes_where_values_are_missing() {
        assert_eq!(sparkline(&[0.0, 50.0, f64::NAN, 100.0], 10), "▁▅ █");
        assert_eq!(sparkline(&[1.0, 1.0, 3.0, 3.0], 2), "▃█");
        assert_eq!(sparkline(&[0.0, 0.0], 10), "▁▁");
        assert_eq!(sparkline(&[], 10), "");
    }

    #[test]
    fn plots_have_a_scale() {
        let show = |value: f64| format!("{value:.0} %");
        let text = plot(&[0.0, 50.0, 100.0], 40, 2, &show);
        assert_eq!(text, "100 % ┤  █\n  0 % ┤▁██\n");
    }
}
