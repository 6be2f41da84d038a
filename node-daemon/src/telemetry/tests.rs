//! Rings, rates, alarms, the clock, and what Prometheus gets.

use proptest::prelude::*;

use super::history::{History, Packed};
use super::*;
use crate::host::procfs::Moved;

fn node(second: u64, busy: u64) -> NodeReading {
    NodeReading {
        at: Moment::from_nanos(second * 1_000_000_000),
        cpu_busy: Duration::from_secs(busy),
        cpu_total: Duration::from_secs(second * 2),
        memory_total_bytes: 1000,
        memory_available_bytes: 400,
        ..NodeReading::default()
    }
}

fn vm(id: &Id, second: u64, read: u64) -> VmReading {
    VmReading {
        id: id.clone(),
        name: "demo".into(),
        at: Moment::from_nanos(second * 1_000_000_000),
        cpu: Duration::from_millis(500 * second),
        memory_bytes: 4096,
        disk: Moved { in_bytes: read, ..Moved::default() },
        network: Moved::default(),
    }
}

fn one(history: &History, subject: &Subject, name: &str, window: u64, now: u64) -> Points {
    let chosen = series::choose(subject, &[name.to_owned()]).unwrap();
    let now = (now, Time::from_micros(1_000_000_000_000));
    history.read(subject, &chosen, Duration::from_secs(window), now).remove(0)
}

#[test]
fn rates_come_of_two_readings() {
    let (mut history, id) = (History::default(), Id::new());
    for second in 0..5 {
        history.put(second, &node(second, second), &[vm(&id, second, second * 100)]);
    }
    let cpu = one(&history, &Subject::Node, "cpu_percent", 600, 4);
    assert!(cpu.values[0].is_nan());
    assert_eq!(cpu.values[1..], [50.0; 4]);
    assert_eq!(cpu.start_time.micros(), 1_000_000_000_000 - 4_000_000);
    assert_eq!(one(&history, &Subject::Node, "memory_used_bytes", 600, 4).values, [600.0; 5]);
    let subject = Subject::Vm(id.clone());
    assert_eq!(one(&history, &subject, "cpu_percent", 2, 4).values, [50.0; 2]);
    assert_eq!(one(&history, &subject, "disk_read_bytes_per_second", 2, 4).values, [100.0; 2]);
    // Started anew: the counter begins again.
    history.put(5, &node(5, 5), &[vm(&id, 5, 7)]);
    assert!(one(&history, &subject, "disk_read_bytes_per_second", 1, 5).values[0].is_nan());
    history.forget(&subject);
    assert!(one(&history, &subject, "cpu_percent", 600, 5).values.is_empty());
}

#[test]
fn missed_seconds_are_holes_and_long_windows_are_means() {
    let mut history = History::default();
    for second in (0..10).chain(15..2000) {
        history.put(second, &node(second, 0), &[]);
    }
    let fine = one(&history, &Subject::Node, "memory_used_bytes", 600, 1999);
    assert_eq!((fine.step.as_secs(), fine.values.len()), (1, 600));
    let coarse = one(&history, &Subject::Node, "memory_used_bytes", 86_400, 1999);
    // The last ten seconds are not complete yet.
    assert_eq!((coarse.step.as_secs(), coarse.values.len()), (10, 199));
    assert!(coarse.values.iter().all(|value| (value - 600.0).abs() < 0.5));
    let mut holes = History::default();
    for second in [0, 1, 5] {
        holes.put(second, &node(second, 0), &[]);
    }
    let values = one(&holes, &Subject::Node, "memory_used_bytes", 600, 5).values;
    let there: Vec<bool> = values.iter().map(|value| !value.is_nan()).collect();
    assert_eq!(there, [true, true, false, false, false, true]);
}

#[test]
fn a_day_and_more_stays_bounded() {
    let mut history = History::default();
    for second in 0..100_000 {
        history.put(second, &node(second, 0), &[]);
    }
    assert_eq!(one(&history, &Subject::Node, "cpu_percent", 86_400, 99_999).values.len(), 8639);
    // A pause of ten days.
    history.put(1_000_000, &node(1_000_000, 0), &[]);
    let fine = one(&history, &Subject::Node, "memory_used_bytes", 600, 1_000_000).values;
    assert_eq!((fine.len(), fine[599]), (600, 600.0));
    assert!(fine[..599].iter().all(|value| value.is_nan()));
}

#[test]
fn silent_vms_are_forgotten_first() {
    let mut history = History::default();
    let ids: Vec<Id> = (0..1100).map(|_| Id::new()).collect();
    for (at, id) in ids.iter().enumerate() {
        history.put(at as u64, &node(at as u64, 0), &[vm(id, at as u64, 0)]);
    }
    assert!(one(&history, &Subject::Vm(ids[0].clone()), "cpu_percent", 86_400, 1100).values.is_empty());
    assert!(!one(&history, &Subject::Vm(ids[1099].clone()), "memory_used_bytes", 600, 1100).values.is_empty());
}

#[test]
fn unknown_series_are_named() {
    let failure = series::choose(&Subject::Node, &["cpu_percent".into(), "cpus".into()]).unwrap_err();
    assert_eq!(failure.fields()[0].field, "series[1]");
    assert!(failure.message().contains("memory_used_bytes"));
}

proptest! {
    #[test]
    fn packed_values_are_exact_enough(value in 0.004f64..1e16) {
        let back = Packed::new(value).value();
        prop_assert!((back - value).abs() <= value * 0.0006, "{} {}", value, back);
    }

    #[test]
    fn any_number_can_be_packed(value: f64) {
        let back = Packed::new(value).value();
        prop_assert_eq!(back.is_nan(), value.is_nan());
        prop_assert!(back.is_nan() || back >= 0.0);
    }
}

#[test]
fn packing_keeps_zero_and_order() {
    assert_eq!(Packed::new(0.0).value().to_bits(), 0.0f64.to_bits());
    assert!(Packed::new(f64::NAN).value().is_nan());
    let values = [0.0, 0.01, 0.5, 1.0, 99.9, 100.0, 1e6, 1e9, 1e12, 1e15];
    assert!(values.map(|value| Packed::new(value).value()).is_sorted());
}

#[test]
fn a_jumping_clock_is_seen_and_a_slow_one_is_not() {
    let (wall, second) = (|s: i64| Time::from_micros(s * 1_000_000), |s: u64| Moment::from_nanos(s * 1_000_000_000));
    let mut clock = ClockWatch::start(wall(1000), second(10));
    assert_eq!(clock.look(wall(1001), second(11)), None);
    assert_eq!(clock.look(wall(5001), second(12)), Some(3999.0));
    assert_eq!(clock.look(wall(5002), second(13)), None);
    assert_eq!(clock.look(wall(0), second(14)), Some(-5003.0));
    // The machine slept: both clocks, or only the wall clock, go on; neither breaks anything.
    assert_eq!(clock.look(wall(101), second(115)), None);
}

#[test]
fn alarms_have_a_gap_between_raising_and_clearing() {
    let low = |available, raised| {
        let space = Space { total: 1000, available };
        conditions::judge(&node(1, 1), Some(&space), |_| raised)[0].1.is_some()
    };
    assert_eq!([low(40, false), low(60, false), low(60, true), low(90, true)], [true, false, true, false]);
}

async fn telemetry() -> (tempfile::TempDir, Telemetry) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.db");
    let store = tokio::task::spawn_blocking(move || crate::store::Store::open(&path)).await.unwrap().unwrap();
    let host = Host::new(&store, crate::host::Roots::default(), Timeline::begin()).await.unwrap();
    let telemetry = Telemetry::new(host, Events::new(store), directory.path().to_owned());
    (directory, telemetry)
}

#[tokio::test]
async fn an_alarm_is_told_once_until_it_is_cleared() {
    let (_directory, telemetry) = telemetry().await;
    let mut watch = telemetry.shared.events.watch(None, crate::store::EventFilter::default()).await.unwrap();
    let alarms = telemetry.alarms();
    alarms.raise("disk-space", "5 MiB left").await;
    alarms.raise("disk-space", "4 MiB left").await;
    assert_eq!(alarms.sentences(), ["4 MiB left"]);
    alarms.clear("disk-space").await;
    alarms.clear("disk-space").await;
    alarms.raise("memory", "none left").await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        kinds.push(watch.next().await.unwrap().unwrap().kind);
    }
    assert_eq!(kinds, ["host.alarm", "host.alarm-cleared", "host.alarm"]);
}

/// VMs for a sampler.
struct OneVm(Id);

impl VmSource for OneVm {
    fn allocation(&self) -> Allocation {
        Allocation { vms: 2, running_vms: 1, vcpus: 4, memory_bytes: 1 << 30, huge_pages: Vec::new() }
    }

    fn readings(&self) -> futures_util::future::BoxFuture<'_, Vec<VmReading>> {
        Box::pin(async { vec![vm(&self.0, 1, 77)] })
    }

    fn find(&self, name: String) -> futures_util::future::BoxFuture<'_, Result<Id, Failure>> {
        Box::pin(async move {
            if name == "demo" { Ok(self.0.clone()) } else { Err(Failure::not_found(ResourceKind::Vm, &name)) }
        })
    }
}

#[tokio::test]
async fn a_sample_is_in_the_history_and_in_the_metrics() {
    let (_directory, telemetry) = telemetry().await;
    telemetry.attach_vms(Arc::new(OneVm(Id::new())));
    telemetry.sample(&mut ClockWatch::start(Time::now(), Moment::now())).await;
    let text = telemetry.prometheus().unwrap();
    for line in ["quantix_build_info{version=", "quantix_vms_running 1.0", "quantix_sampled 1.0", "# EOF"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.contains("quantix_vm_disk_read_bytes_total{vm=\"demo\",id="), "{text}");
    let window = Duration::from_mins(10);
    let node = telemetry.history("", &["memory_used_bytes".into()], window).await.unwrap();
    assert!(node[0].values[0] > 0.0);
    assert_eq!(telemetry.history("demo", &[], window).await.unwrap().len(), 8);
    assert!(telemetry.history("other", &[], window).await.is_err());
}
