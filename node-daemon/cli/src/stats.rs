//! Counters of a VM: once, or again and again with what changed in between.

use std::collections::BTreeMap;

use clap::Args;
use prost_types::Duration;
use quantix_api::v1::{
    DeviceStatistics, GetVmStatisticsRequest, QueueStatistics, VmStatistics, WatchVmStatisticsRequest,
};
use tokio_stream::StreamExt;

use crate::failure::{ExitStatus, Failure};
use crate::output::Format;
use crate::session::Session;
use crate::style::Tone;
use crate::table::{Cell, Facts, View, grid};
use crate::units;

/// What `vm stats` takes.
#[derive(Debug, Args)]
pub struct StatsArgs {
    /// Name or id
    vm: String,
    /// Show them again and again, with rates; Ctrl-C ends it
    #[arg(short, long)]
    watch: bool,
    /// How often; at least 100ms
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = units::parse_duration)]
    interval: Duration,
}

/// Shows counters.
pub async fn run(args: StatsArgs, session: &Session) -> Result<(), Failure> {
    if args.watch {
        return watch(args, session).await;
    }
    let request = GetVmStatisticsRequest { vm: args.vm };
    let now = session.vms().await?.get_vm_statistics(request).await?.into_inner();
    match session.out.format {
        Format::Json => session.out.json(&now),
        _ => session.out.text(&sheet(&now, None, &session.out.view())),
    }
}

async fn watch(args: StatsArgs, session: &Session) -> Result<(), Failure> {
    let request = WatchVmStatisticsRequest { vm: args.vm.clone(), interval: Some(args.interval) };
    let mut samples = session.vms().await?.watch_vm_statistics(request).await?.into_inner();
    let mut before: Option<VmStatistics> = None;
    let mut drawn = 0;
    while let Some(sample) = samples.next().await {
        let now = sample?;
        if session.out.format == Format::Json {
            session.out.json_line(&now)?;
            continue;
        }
        let text = sheet(&now, before.as_ref(), &session.out.view());
        if session.out.terminal {
            // Over what was drawn before; what fits on no screen scrolls.
            let lines = text.lines().count().min(crate::terminal::height().saturating_sub(1).into());
            let up = if drawn > 0 { format!("\u{1b}[{drawn}A") } else { String::new() };
            let shown: Vec<&str> = text.lines().take(lines).collect();
            session.out.text(&format!("{up}\u{1b}[J{}\n", shown.join("\n")))?;
            drawn = lines;
        } else {
            session.out.text(&format!("{text}\n"))?;
        }
        before = Some(now);
    }
    Err(Failure::new(
        ExitStatus::Unavailable,
        format!("The node ended the counters of {}: is it still running?", args.vm),
    ))
}

/// Counters, and rates since a sample before.
fn sheet(now: &VmStatistics, before: Option<&VmStatistics>, view: &View) -> String {
    let rates = Rates::between(now, before);
    let mut facts = Facts::default();
    let cpu_time = now.cpu_time.unwrap_or_default();
    let load = rates.cpu(now.cpu_time.as_ref(), before.and_then(|before| before.cpu_time.as_ref()));
    facts
        .add("Time", units::when(now.time.as_ref()))
        .add("CPU time", [units::span(&cpu_time), load].join("  ").trim_end().to_owned())
        .add(
            "Memory",
            format!(
                "{} resident, {} of it not the guest's",
                units::size(now.memory_resident_bytes),
                units::size(now.memory_overhead_bytes)
            ),
        );
    if let Some(guest) = &now.guest_memory {
        let part = |name, bytes: Option<u64>| bytes.map(|bytes| format!("{} {name}", units::size(bytes)));
        let told = [
            part("in all", guest.total_bytes),
            part("available", guest.available_bytes),
            part("free", guest.free_bytes),
        ];
        let told: Vec<String> = told.into_iter().flatten().collect();
        facts.add("Guest says", told.join(", ")).add("Balloon", units::size(guest.balloon_bytes));
    }
    let mut text = facts.render(view.colour);
    if !now.vcpus.is_empty() {
        text.push('\n');
        text.push_str(&vcpus(now, before, &rates, view));
    }
    if !now.devices.is_empty() {
        text.push('\n');
        text.push_str(&devices(now, before, &rates, view));
    }
    text
}

/// Turns growth into rates; without a sample before there are none.
struct Rates {
    seconds: Option<f64>,
}

impl Rates {
    fn between(now: &VmStatistics, before: Option<&VmStatistics>) -> Self {
        let moment = |sample: &VmStatistics| sample.time.as_ref().and_then(units::moment);
        let seconds = before.and_then(moment).zip(moment(now)).map(|(a, b)| b.duration_since(a).as_secs_f64());
        Self { seconds: seconds.filter(|seconds| *seconds > 0.0) }
    }

    /// A share of a CPU.
    fn cpu(&self, now: Option<&Duration>, before: Option<&Duration>) -> String {
        match (self.seconds, now, before) {
            (Some(seconds), Some(now), Some(before)) => {
                format!("{:.1} %", (units::seconds(now) - units::seconds(before)).max(0.0) / seconds * 100.0)
            }
            _ => String::new(),
        }
    }

    /// Growth by the second; none when the counter began anew.
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    fn of(&self, now: u64, before: Option<u64>) -> Option<f64> {
        Some(now.checked_sub(before?)? as f64 / self.seconds?)
    }
}

fn vcpus(now: &VmStatistics, before: Option<&VmStatistics>, rates: &Rates, view: &View) -> String {
    let heads = [
        ("VCPU", true),
        ("CPU TIME", true),
        ("LOAD", true),
        ("WAITED", true),
        ("EXITS", true),
        ("MOST OF THEM", false),
    ];
    let rows = now.vcpus.iter().enumerate().map(|(place, vcpu)| {
        let earlier = before.and_then(|before| before.vcpus.get(place));
        let waited = vcpu.run_delay.as_ref().map(units::span).unwrap_or_default();
        vec![
            vcpu.index.to_string().into(),
            units::span(&vcpu.cpu_time.unwrap_or_default()).into(),
            rates.cpu(vcpu.cpu_time.as_ref(), earlier.and_then(|earlier| earlier.cpu_time.as_ref())).into(),
            waited.into(),
            units::count(vcpu.exits.values().sum()).into(),
            Cell::toned(most(&vcpu.exits), Tone::Dim),
        ]
    });
    grid(&heads, rows, view)
}

/// The three most frequent reasons.
fn most(exits: &BTreeMap<String, u64>) -> String {
    let mut exits: Vec<(&String, &u64)> = exits.iter().filter(|(_, count)| **count > 0).collect();
    exits.sort_by(|a, b| b.1.cmp(a.1));
    let named = exits.iter().take(3).map(|(reason, count)| format!("{reason} {}", units::count(**count)));
    named.collect::<Vec<_>>().join(", ")
}

fn devices(now: &VmStatistics, before: Option<&VmStatistics>, rates: &Rates, view: &View) -> String {
    let heads = [
        ("DEVICE", false),
        ("KIND", false),
        ("OPERATIONS", true),
        ("BYTES", true),
        ("OPS/S", true),
        ("BYTES/S", true),
        ("P50", true),
        ("P99", true),
        ("ERRORS", true),
        ("", false),
    ];
    let rows = now.devices.iter().map(|device| {
        let earlier = before.and_then(|before| before.devices.iter().find(|earlier| earlier.id == device.id));
        let total =
            |device: &DeviceStatistics, of: fn(&QueueStatistics) -> u64| device.queues.iter().map(of).sum::<u64>();
        let earlier = |of: fn(&QueueStatistics) -> u64| earlier.map(|earlier| total(earlier, of));
        let (operations, bytes) = (total(device, |queue| queue.operations), total(device, |queue| queue.bytes));
        let errors = total(device, |queue| queue.errors + queue.guest_faults);
        let operations_rate = rates.of(operations, earlier(|queue| queue.operations));
        let bytes_rate = rates.of(bytes, earlier(|queue| queue.bytes));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of bytes, as bytes")]
        let bytes_rate = bytes_rate.map(|rate| units::size(rate as u64)).unwrap_or_default();
        let latencies = latencies(device);
        let broken = if device.needs_reset { "stopped: the guest broke its rules" } else { "" };
        vec![
            device.id.as_str().into(),
            device.kind.as_str().into(),
            units::count(operations).into(),
            units::size(bytes).into(),
            operations_rate.map(units::short_number).unwrap_or_default().into(),
            bytes_rate.into(),
            quantile(&latencies, 0.5).into(),
            quantile(&latencies, 0.99).into(),
            Cell::toned(errors.to_string(), if errors > 0 { Tone::Bad } else { Tone::Plain }),
            Cell::toned(broken, Tone::Bad),
        ]
    });
    grid(&heads, rows, view)
}

/// Latencies of all queues of a device, by bucket.
fn latencies(device: &DeviceStatistics) -> Vec<u64> {
    let mut sum = Vec::new();
    for queue in &device.queues {
        sum.resize(sum.len().max(queue.latency_buckets.len()), 0);
        for (bucket, count) in sum.iter_mut().zip(&queue.latency_buckets) {
            *bucket += count;
        }
    }
    sum
}

/// The upper bound of the bucket in which a quantile is. Bucket 0 is below 1 µs, bucket i below 2^i µs.
#[allow(clippy::cast_precision_loss, reason = "a quantile is an estimate")]
fn quantile(buckets: &[u64], quantile: f64) -> String {
    let total: u64 = buckets.iter().sum();
    if total == 0 {
        return String::new();
    }
    let mut seen = 0;
    for (place, count) in buckets.iter().enumerate() {
        seen += count;
        if seen as f64 >= total as f64 * quantile {
            let micros = 1_i64 << place.min(40);
            let nanos = i32::try_from(micros % 1_000_000 * 1000).unwrap_or(0);
            return format!("<{}", units::span(&Duration { seconds: micros / 1_000_000, nanos }));
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::view;
    use prost_types::Timestamp;
    use quantix_api::v1::VcpuStatistics;

    fn sample(at: i64, cpu: i64, operations: u64) -> VmStatistics {
        let queue = QueueStatistics {
            operations,
            bytes: operations * 4096,
            latency_buckets: vec![0, 0, 0, 90, 9, 0, 1],
            ..QueueStatistics::default()
        };
        VmStatistics {
            time: Some(Timestamp { seconds: at, nanos: 0 }),
            cpu_time: Some(Duration { seconds: cpu, nanos: 0 }),
            memory_resident_bytes: 100 << 20,
            memory_overhead_bytes: 3 << 20,
            vcpus: vec![VcpuStatistics {
                index: 0,
                cpu_time: Some(Duration { seconds: cpu, nanos: 0 }),
                exits: [("halt".to_owned(), 5), ("pio_write".to_owned(), 4000), ("never".to_owned(), 0)].into(),
                ..VcpuStatistics::default()
            }],
            devices: vec![DeviceStatistics {
                id: "disk0".into(),
                kind: "block".into(),
                queues: vec![queue],
                needs_reset: false,
            }],
            ..VmStatistics::default()
        }
    }

    #[test]
    fn one_sample_has_counters_and_no_rates() {
        let text = sheet(&sample(100, 10, 1000), None, &view());
        assert!(text.contains("CPU time  10.0 s\n"), "{text}");
        assert!(text.contains("   0    10.0 s                   4k  pio_write 4k, halt 5\n"), "{text}");
        assert!(text.contains("disk0   block          1k  3.9 MiB                  <8 µs  <16 µs       0\n"), "{text}");
    }

    #[test]
    fn two_samples_have_rates() {
        let text = sheet(&sample(102, 11, 3000), Some(&sample(100, 10, 1000)), &view());
        assert!(text.contains("CPU time  11.0 s  50.0 %\n"), "{text}");
        assert!(text.contains("  1k  3.9 MiB  <8 µs"), "{text}");
    }

    #[test]
    fn a_counter_that_began_anew_has_no_rate() {
        let rates = Rates { seconds: Some(1.0) };
        assert_eq!(rates.of(5, Some(100)), None);
        assert_eq!(rates.of(100, Some(50)), Some(50.0));
        assert_eq!(quantile(&[], 0.5), "");
    }
}
