//! The figures as a table for people and as JSON for scripts: pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// What was measured.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// `CreateVm` with `start` to the answer that it runs, each.
    pub start_ms: Vec<f64>,
    /// How many VMs were there for what follows.
    pub crowd: usize,
    /// VMs a second, four at a time.
    pub start_rate: f64,
    /// `GetVm`, each.
    pub get_ms: Vec<f64>,
    /// `ListVms` of all, each.
    pub list_ms: Vec<f64>,
    /// The daemon before the crowd (PSS).
    pub daemon_alone_mib: f64,
    /// The daemon with it.
    pub daemon_rss_mib: f64,
    /// The daemon with it (PSS).
    pub daemon_pss_mib: f64,
    /// CPU share of the daemon when nobody asks for anything.
    pub daemon_idle_cpu: f64,
    /// A VMM besides its guest's memory (PSS), on average.
    pub vmm_pss_mib: f64,
    /// What the host lost for each VM: guest memory that was touched, VMM, kernel, page tables.
    pub vm_cost_mib: f64,
}

/// A line of the report.
struct Line {
    name: String,
    unit: &'static str,
    figure: f64,
    /// At most this.
    bar: Option<f64>,
}

fn lines(figures: &Figures) -> Vec<Line> {
    let crowd = figures.crowd;
    let line = |name: String, unit, figure, bar| Line { name, unit, figure, bar };
    vec![
        line("CreateVm + start to running, p50".into(), "ms", percentile(&figures.start_ms, 50), None),
        line("CreateVm + start to running, p99".into(), "ms", percentile(&figures.start_ms, 99), Some(50.0)),
        line(format!("start rate to {crowd} VMs, four at a time"), "VMs/s", figures.start_rate, None),
        line(format!("GetVm with {crowd} VMs, p99"), "ms", percentile(&figures.get_ms, 99), Some(20.0)),
        line(format!("ListVms of {crowd}, p99"), "ms", percentile(&figures.list_ms, 99), Some(20.0)),
        line("daemon alone (PSS)".into(), "MiB", figures.daemon_alone_mib, None),
        line(format!("daemon with {crowd} VMs (RSS)"), "MiB", figures.daemon_rss_mib, Some(100.0)),
        line(format!("daemon with {crowd} VMs (PSS)"), "MiB", figures.daemon_pss_mib, None),
        line(format!("daemon with {crowd} idle VMs, CPU"), "%", figures.daemon_idle_cpu * 100.0, None),
        line(format!("a VMM of {crowd} beyond its guest (PSS)"), "MiB", figures.vmm_pss_mib, Some(1.5)),
        line("the host's cost of a VM, all in all".into(), "MiB", figures.vm_cost_mib, None),
    ]
}

/// The figure below which `percent` of all are.
fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Whether every bar is met.
pub fn is_met(figures: &Figures) -> bool {
    lines(figures).iter().all(|line| line.bar.is_none_or(|bar| line.figure <= bar))
}

/// Aligned columns, ASCII only.
pub fn table(figures: &Figures) -> String {
    let mut text = format!("{:<44} {:<6} {:>9}  {:<9}\n", "", "unit", "figure", "bar");
    for Line { name, unit, figure, bar } in lines(figures) {
        let judged =
            bar.map_or(String::new(), |bar| format!("<= {bar:<6} {}", if figure <= bar { "met" } else { "NOT MET" }));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{}", format!("{name:<44} {unit:<6} {figure:>9.2}  {judged}").trim_end());
    }
    let _ = writeln!(text, "\n{} starts one after another; guests are payloads that sleep.", figures.start_ms.len());
    text
}

/// The same for scripts.
pub fn json(figures: &Figures) -> Value {
    let rows: Vec<Value> = lines(figures)
        .iter()
        .map(|line| json!({ "name": line.name, "unit": line.unit, "figure": line.figure, "at_most": line.bar }))
        .collect();
    json!({ "rows": rows, "starts": figures.start_ms.len(), "crowd": figures.crowd })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_figure_that_was_measured() {
        let figures: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let found = [percentile(&figures, 50), percentile(&figures, 99), percentile(&[7.0], 99)];
        assert_eq!(found.map(|figure| format!("{figure:.0}")), ["100", "198", "7"]);
        assert!(percentile(&[], 99).is_nan());
    }

    #[test]
    fn a_missed_bar_is_seen() {
        let good = Figures { start_ms: vec![10.0], get_ms: vec![1.0], list_ms: vec![2.0], ..Figures::default() };
        assert!(is_met(&good), "{}", table(&good));
        let slow = Figures { start_ms: vec![51.0], ..good };
        assert!(!is_met(&slow));
        assert!(table(&slow).contains("NOT MET"));
        assert!(!is_met(&Figures::default()), "what was not measured meets no bar");
    }
}
