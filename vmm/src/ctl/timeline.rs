//! `timeline`: when each step of the start happened. Pure.

use std::fmt::Write as _;

use quantix_vmm_api::v1::BootTimeline;
use serde_json::{Value, json};

use super::figures::nanoseconds;
use super::style::{Style, Tone, harmless};

/// Width of the plot in characters.
const PLOT: u64 = 40;

pub(super) fn json(timeline: &BootTimeline) -> Value {
    let start = timeline.marks.first().map_or(0, |mark| mark.time_ns);
    let marks: Vec<Value> = timeline
        .marks
        .iter()
        .map(|mark| {
            let since = mark.time_ns.saturating_sub(start);
            json!({ "name": mark.name, "time_ns": mark.time_ns, "since_start_ns": since })
        })
        .collect();
    json!({ "marks": marks })
}

/// One line a step: since the start, since the step before, and its share as a bar.
pub(super) fn text(timeline: &BootTimeline, style: &Style) -> String {
    let Some(start) = timeline.marks.first().map(|mark| mark.time_ns) else {
        return "No step has been recorded\n".to_owned();
    };
    let end = timeline.marks.last().map_or(start, |mark| mark.time_ns);
    let width = timeline.marks.iter().map(|mark| mark.name.chars().count()).max().unwrap_or(0).max(4);
    let column = |time: u64| scale(time.saturating_sub(start), end.saturating_sub(start));
    let heading = format!("{:<width$}  {:>10}  {:>10}", "STEP", "AT", "TOOK");
    let mut text = style.paint(Tone::Heading, &heading) + "\n";
    let mut before = start;
    for mark in &timeline.marks {
        let (from, to) = (column(before), column(mark.time_ns));
        let bar = format!("{}{}", " ".repeat(from), "█".repeat((to.saturating_sub(from)).max(1)));
        let at = nanoseconds(mark.time_ns.saturating_sub(start));
        let took = nanoseconds(mark.time_ns.saturating_sub(before));
        let name = harmless(&mark.name);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<width$}  {at:>10}  {took:>10}  {}", style.paint(Tone::Good, &bar));
        before = mark.time_ns;
    }
    text
}

fn scale(part: u64, whole: u64) -> usize {
    let column = u128::from(part) * u128::from(PLOT - 1) / u128::from(whole.max(1));
    usize::try_from(column).unwrap_or(0).min(PLOT as usize)
}

#[cfg(test)]
mod tests {
    use quantix_vmm_api::v1::BootMark;

    use super::*;

    #[test]
    fn bars_follow_each_other() {
        let mark = |name: &str, time_ns| BootMark { name: name.into(), time_ns };
        let marks = vec![mark("spawn", 1_000_000), mark("load", 2_000_000), mark("first-vcpu-entry", 5_000_000)];
        let expected = format!(
            "STEP                      AT        TOOK\n\
             spawn                   0 ns        0 ns  █\n\
             load                    1 ms        1 ms  {}\n\
             first-vcpu-entry        4 ms        3 ms           {}\n",
            "█".repeat(9),
            "█".repeat(30)
        );
        assert_eq!(text(&BootTimeline { marks }, &Style::plain()), expected);
        assert_eq!(text(&BootTimeline::default(), &Style::plain()), "No step has been recorded\n");
    }
}
