//! Measured values over time, as curves: of the node, or of one VM.

use clap::Args;
use prost_types::Duration;
use quantix_api::v1::{GetMetricsRequest, Series};

use crate::bars::{mean, plot, sparkline};
use crate::failure::Failure;
use crate::output::Format;
use crate::session::Session;
use crate::style::Tone;
use crate::table::{Cell, View, grid};
use crate::units;

/// What commands for measured values take.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Names of series, such as cpu_percent; all when none is named, a plot when one is
    series: Vec<String>,
    /// How far back: 10 minutes by the second, up to 24 hours by ten seconds
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = units::parse_duration)]
    window: Duration,
}

/// Shows measured values; `vm` is empty for the node.
pub async fn show(args: MetricsArgs, vm: String, session: &Session) -> Result<(), Failure> {
    let request = GetMetricsRequest { vm, series: args.series, window: Some(args.window) };
    let answer = session.host().await?.get_metrics(request).await?.into_inner();
    match session.out.format {
        Format::Json => session.out.json(&answer),
        Format::Name => answer.series.iter().try_for_each(|series| session.out.line(&series.name)),
        Format::Table | Format::Wide => session.out.text(&render(&answer.series, &session.out.view())),
    }
}

/// One series as a plot, several as a table with curves.
fn render(series: &[Series], view: &View) -> String {
    let width = usize::from(view.width.unwrap_or(100));
    match series {
        [] => "There are no values.\n".to_owned(),
        [one] => plotted(one, width, view.colour),
        several => table(several, width, view),
    }
}

fn plotted(series: &Series, width: usize, colour: bool) -> String {
    let show = |value: f64| value_of(value, &series.unit);
    let (low, middle, high) = extremes(&series.values);
    let summary =
        format!("now {}  low {}  mean {}  high {}", show(last(&series.values)), show(low), show(middle), show(high));
    format!(
        "{}  {summary}\n{}{}\n",
        Tone::Strong.paint(&series.name, colour),
        Tone::Accent.paint(&plot(&series.values, width, 10, &show), colour),
        Tone::Dim.paint(&axis(series), colour),
    )
}

/// From when to when.
fn axis(series: &Series) -> String {
    let step = series.step.as_ref().map_or(0.0, units::seconds);
    #[allow(clippy::cast_precision_loss, reason = "there are at most some thousand values")]
    let length = step * series.values.len() as f64;
    #[allow(clippy::cast_possible_truncation, reason = "whole seconds are shown")]
    let length = Duration { seconds: length as i64, nanos: 0 };
    let step = series.step.unwrap_or_default();
    format!("from {}, {} by {}", units::when(series.start_time.as_ref()), units::span(&length), units::span(&step))
}

fn table(series: &[Series], width: usize, view: &View) -> String {
    let heads = [("SERIES", false), ("NOW", true), ("LOW", true), ("MEAN", true), ("HIGH", true), ("", false)];
    let widest = series.iter().map(|series| series.name.chars().count()).max().unwrap_or(0);
    // Four columns of numbers of at most 12 characters, and blanks.
    let room = width.saturating_sub(widest + 4 * 13 + 2).clamp(10, 80);
    let rows = series.iter().map(|series| {
        let (low, middle, high) = extremes(&series.values);
        let number = |value| Cell::from(value_of(value, &series.unit));
        vec![
            Cell::from(series.name.as_str()),
            number(last(&series.values)),
            number(low),
            number(middle),
            number(high),
            Cell::toned(sparkline(&series.values, room), Tone::Accent),
        ]
    });
    grid(&heads, rows, view)
}

/// The newest value that is there.
fn last(values: &[f64]) -> f64 {
    values.iter().rev().copied().find(|value| value.is_finite()).unwrap_or(f64::NAN)
}

fn extremes(values: &[f64]) -> (f64, f64, f64) {
    // Of a NaN and a number, `min` and `max` take the number.
    let low = values.iter().copied().fold(f64::NAN, f64::min);
    let high = values.iter().copied().fold(f64::NAN, f64::max);
    (low, mean(values), high)
}

/// A value with its unit.
#[allow(clippy::cast_sign_loss, reason = "sizes are not negative")]
fn value_of(value: f64, unit: &str) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    match unit {
        "percent" => format!("{value:.1} %"),
        "bytes" => units::size(value as u64),
        "bytes_per_second" => format!("{}/s", units::size(value as u64)),
        "operations_per_second" => format!("{}/s", units::short_number(value)),
        "seconds_per_second" => format!("{value:.3} s/s"),
        _ => units::short_number(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::view;

    fn series(name: &str, unit: &str, values: &[f64]) -> Series {
        Series { name: name.into(), unit: unit.into(), values: values.to_vec(), ..Series::default() }
    }

    #[test]
    fn several_series_are_a_table_with_curves() {
        let all = [
            series("cpu_percent", "percent", &[0.0, 25.0, 50.0, f64::NAN]),
            series("memory_used_bytes", "bytes", &[1e9, 2e9]),
            series("nothing", "percent", &[f64::NAN]),
        ];
        assert_eq!(
            render(&all, &view()),
            "SERIES                 NOW        LOW     MEAN     HIGH\n\
             cpu_percent         50.0 %      0.0 %   25.0 %   50.0 %  ▁▅█\n\
             memory_used_bytes  1.9 GiB  953.7 MiB  1.4 GiB  1.9 GiB  ▅█\n\
             nothing                  –          –        –        –\n"
        );
    }

    #[test]
    fn one_series_is_a_plot() {
        let text = render(&[series("cpu_percent", "percent", &[0.0, 100.0])], &view());
        assert!(text.starts_with("cpu_percent  now 100.0 %  low 0.0 %  mean 50.0 %  high 100.0 %\n"), "{text}");
        assert!(text.contains("100.0 % ┤ █\n"), "{text}");
    }
}
