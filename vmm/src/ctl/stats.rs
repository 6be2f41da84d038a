//! `stats`: the counters, as they are or as rates between two looks.

use std::time::Duration;

use quantix_vmm_api::v1::{GetStatistics, QueueStatistics, Statistics, VcpuStatistics};
use serde_json::{Value, json};

use super::args::{Format, StatsArgs};
use super::events::{balloon_json, balloon_text, exit_word};
use super::figures::{bytes, count, nanoseconds, per_second, quantile_us};
use super::style::{Style, Tone, harmless};
use super::table::Table;
use super::{Ctl, CtlError};

/// Home, and erase what is below.
const REDRAW: &str = "\x1b[H\x1b[J";

impl Ctl {
    pub(super) fn stats(&mut self, options: &StatsArgs) -> Result<(), CtlError> {
        let wanted = GetStatistics { device_ids: options.devices.clone(), ..GetStatistics::default() };
        let mut before = self.call(wanted.clone())?;
        if !options.watch {
            return self.output.show(&json(&before), |style| text(&before, style));
        }
        let mut looks = 0;
        while options.count == 0 || looks < options.count {
            std::thread::sleep(Duration::from_secs(options.interval));
            let now = self.call(wanted.clone())?;
            let rates = difference(&before, &now);
            let elapsed = now.time_ns.saturating_sub(before.time_ns);
            let redraw = if self.output.style.terminal && self.output.format == Format::Text { REDRAW } else { "" };
            self.output
                .show(&rates_json(&rates, elapsed), |style| redraw.to_owned() + &rates_text(&rates, elapsed, style))?;
            before = now;
            looks += 1;
        }
        Ok(())
    }
}

fn json(statistics: &Statistics) -> Value {
    let vcpus: Vec<Value> = statistics
        .vcpus
        .iter()
        .map(|vcpu| {
            let exits = vcpu.exits.iter().map(|exit| (exit_word(exit.reason().as_str_name()), json!(exit.count)));
            json!({
                "index": vcpu.index, "exits": Value::Object(exits.collect()), "run_delay_ns": vcpu.run_delay_ns,
                "cpu_time_ns": vcpu.cpu_time_ns,
            })
        })
        .collect();
    let queue = |queue: &QueueStatistics| {
        json!({
            "index": queue.index, "operations": queue.operations, "bytes": queue.bytes, "errors": queue.errors,
            "guest_faults": queue.guest_faults, "latency_buckets": queue.latency_buckets,
        })
    };
    let devices: Vec<Value> = statistics
        .devices
        .iter()
        .map(|d| json!({ "id": d.device_id, "queues": d.queues.iter().map(queue).collect::<Vec<_>>() }))
        .collect();
    let balloon = statistics.balloon.as_ref().map(balloon_json);
    json!({ "time_ns": statistics.time_ns, "vcpus": vcpus, "devices": devices, "balloon": balloon })
}

fn text(statistics: &Statistics, style: &Style) -> String {
    let mut vcpus = Table::new(&["VCPU", ">EXITS", ">CPU TIME", ">WAITED", "BY REASON"]);
    for vcpu in &statistics.vcpus {
        let time = nanoseconds(vcpu.cpu_time_ns);
        let waited = vcpu.run_delay_ns.map_or("–".to_owned(), nanoseconds);
        vcpus.row([vcpu.index.to_string(), count(exits(vcpu)), time, waited, reasons(vcpu)]);
    }
    let mut queues = Table::new(&["DEVICE", ">QUEUE", ">OPERATIONS", ">BYTES", ">ERRORS", ">FAULTS", ">P50", ">P99"]);
    for device in &statistics.devices {
        for queue in &device.queues {
            let [median, high] = latencies(queue);
            queues.row([
                harmless(&device.device_id),
                queue.index.to_string(),
                count(queue.operations),
                bytes(queue.bytes),
                queue.errors.to_string(),
                queue.guest_faults.to_string(),
                median,
                high,
            ]);
        }
    }
    assemble(&vcpus, &queues, statistics, *style)
}

fn rates_text(rates: &Statistics, elapsed: u64, style: &Style) -> String {
    let mut vcpus = Table::new(&["VCPU", ">EXITS/S", ">CPU", ">WAITED", "BY REASON"]);
    for vcpu in &rates.vcpus {
        let exits = count(per_second(exits(vcpu), elapsed));
        let busy = share(vcpu.cpu_time_ns, elapsed);
        let waited = vcpu.run_delay_ns.map_or("–".to_owned(), |delay| share(delay, elapsed));
        vcpus.row([vcpu.index.to_string(), exits, busy, waited, reasons(vcpu)]);
    }
    let mut queues = Table::new(&["DEVICE", ">QUEUE", ">OPS/S", ">BYTES/S", ">ERRORS", ">P50", ">P99"]);
    for device in &rates.devices {
        for queue in &device.queues {
            let [median, high] = latencies(queue);
            queues.row([
                harmless(&device.device_id),
                queue.index.to_string(),
                count(per_second(queue.operations, elapsed)),
                bytes(per_second(queue.bytes, elapsed)),
                queue.errors.to_string(),
                median,
                high,
            ]);
        }
    }
    assemble(&vcpus, &queues, rates, *style)
}

fn rates_json(rates: &Statistics, elapsed: u64) -> Value {
    let mut value = json(rates);
    if let Value::Object(fields) = &mut value {
        fields.insert("elapsed_ns".to_owned(), json!(elapsed));
    }
    value
}

fn assemble(vcpus: &Table, queues: &Table, statistics: &Statistics, style: Style) -> String {
    let parts = [
        vcpus.text(style),
        queues.text(style),
        statistics
            .balloon
            .as_ref()
            .map(|b| format!("{} {}\n", style.paint(Tone::Heading, "BALLOON"), balloon_text(b)))
            .unwrap_or_default(),
    ];
    let there: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    there.join("\n")
}

fn exits(vcpu: &VcpuStatistics) -> u64 {
    vcpu.exits.iter().fold(0, |sum: u64, exit| sum.saturating_add(exit.count))
}

/// The reasons, most frequent first.
fn reasons(vcpu: &VcpuStatistics) -> String {
    let mut exits: Vec<_> = vcpu.exits.iter().filter(|exit| exit.count > 0).collect();
    exits.sort_by_key(|exit| std::cmp::Reverse(exit.count));
    let words: Vec<String> =
        exits.iter().map(|exit| format!("{} {}", exit_word(exit.reason().as_str_name()), count(exit.count))).collect();
    words.join(", ")
}

fn latencies(queue: &QueueStatistics) -> [String; 2] {
    [500, 990].map(|permille| match quantile_us(&queue.latency_buckets, permille) {
        Some(micros) => format!("< {}", nanoseconds(micros.saturating_mul(1000))),
        None => "–".to_owned(),
    })
}

fn share(part: u64, whole: u64) -> String {
    let permille = u128::from(part) * 1000 / u128::from(whole.max(1));
    format!("{}.{} %", permille / 10, permille % 10)
}

/// What was counted between two looks. What was not there before counts from nothing.
fn difference(before: &Statistics, now: &Statistics) -> Statistics {
    let mut rates = now.clone();
    for vcpu in &mut rates.vcpus {
        let Some(old) = before.vcpus.iter().find(|old| old.index == vcpu.index) else { continue };
        let before = old.run_delay_ns.unwrap_or(0);
        vcpu.run_delay_ns = vcpu.run_delay_ns.map(|now| now.saturating_sub(before));
        vcpu.cpu_time_ns = vcpu.cpu_time_ns.saturating_sub(old.cpu_time_ns);
        for exit in &mut vcpu.exits {
            let counted = old.exits.iter().find(|old| old.reason == exit.reason).map_or(0, |old| old.count);
            exit.count = exit.count.saturating_sub(counted);
        }
    }
    for device in &mut rates.devices {
        let Some(old) = before.devices.iter().find(|old| old.device_id == device.device_id) else { continue };
        for queue in &mut device.queues {
            let Some(old) = old.queues.iter().find(|old| old.index == queue.index) else { continue };
            queue.operations = queue.operations.saturating_sub(old.operations);
            queue.bytes = queue.bytes.saturating_sub(old.bytes);
            queue.errors = queue.errors.saturating_sub(old.errors);
            queue.guest_faults = queue.guest_faults.saturating_sub(old.guest_faults);
            for (bucket, old) in queue.latency_buckets.iter_mut().zip(&old.latency_buckets) {
                *bucket = bucket.saturating_sub(*old);
            }
        }
    }
    rates
}

#[cfg(test)]
mod tests {
    use quantix_vmm_api::v1::{DeviceStatistics, ExitCount, ExitReason};

    use super::*;

    fn look(time_ns: u64, operations: u64, mmio: u64) -> Statistics {
        let exit = |reason: ExitReason, count| ExitCount { reason: reason.into(), count };
        let queue = QueueStatistics {
            index: 0,
            operations,
            bytes: operations * 4096,
            latency_buckets: vec![0, 0, 0, operations],
            ..QueueStatistics::default()
        };
        let vcpu = VcpuStatistics {
            index: 0,
            exits: vec![exit(ExitReason::PioWrite, 5), exit(ExitReason::MmioWrite, mmio)],
            run_delay_ns: Some(time_ns / 100),
            cpu_time_ns: time_ns / 2,
        };
        let device = DeviceStatistics { device_id: "disk0".into(), queues: vec![queue] };
        Statistics { time_ns, vcpus: vec![vcpu], devices: vec![device], balloon: None }
    }

    #[test]
    fn counters_are_shown_as_they_are() {
        let expected = "\
VCPU  EXITS  CPU TIME  WAITED  BY REASON
0       105       1 s   20 ms  mmio-write 100, pio-write 5

DEVICE  QUEUE  OPERATIONS    BYTES  ERRORS  FAULTS     P50     P99
disk0       0         2 k  7.8 MiB       0       0  < 8 µs  < 8 µs
";
        assert_eq!(text(&look(2_000_000_000, 2000, 100), &Style::plain()), expected);
    }

    #[test]
    fn rates_are_differences_over_time() {
        let rates = difference(&look(1_000_000_000, 1000, 100), &look(3_000_000_000, 5000, 300));
        let expected = "\
VCPU  EXITS/S     CPU  WAITED  BY REASON
0         100  50.0 %   1.0 %  mmio-write 200

DEVICE  QUEUE  OPS/S  BYTES/S  ERRORS     P50     P99
disk0       0    2 k  7.8 MiB       0  < 8 µs  < 8 µs
";
        assert_eq!(rates_text(&rates, 2_000_000_000, &Style::plain()), expected);
        assert_eq!(rates_json(&rates, 7)["elapsed_ns"], 7);
    }
}
