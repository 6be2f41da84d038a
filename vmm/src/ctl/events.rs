//! `events`: prints what happens, one line or one JSON value each.

use std::fmt::Write as _;
use std::time::Duration;

use clap::ValueEnum as _;
use quantix_vmm_api::blocking::BlockingError;
use quantix_vmm_api::transport::TransportError;
use quantix_vmm_api::v1::event::Kind as Happened;
use quantix_vmm_api::v1::{BalloonStatistics, Event, EventKind, SubscribeEvents};
use serde_json::{Value, json};

use super::args::{EventsArgs, Kind};
use super::figures::{bytes, word};
use super::report::phase_word;
use super::style::{Style, Tone, harmless};
use super::{Ctl, CtlError};

/// Longer than anybody waits; the machine's end ends it.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);

impl Ctl {
    pub(super) fn events(&mut self, options: &EventsArgs) -> Result<(), CtlError> {
        let kinds = options.kinds.iter().filter_map(|&kind| number(kind)).collect();
        self.call(SubscribeEvents { kinds })?;
        let mut printed = 0;
        while options.count == 0 || printed < options.count {
            match self.client.next_event(FOR_EVER) {
                Ok(Some(event)) => self.output.show(&json(&event), |style| text(&event, style))?,
                Ok(None) => {}
                Err(BlockingError::Transport(TransportError::Closed)) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            printed += 1;
        }
        Ok(())
    }
}

/// The protocol's number of a kind, found by its name.
fn number(kind: Kind) -> Option<i32> {
    let value = kind.to_possible_value()?;
    let name = format!("EVENT_KIND_{}", value.get_name().to_uppercase().replace('-', "_"));
    EventKind::from_str_name(&name).map(i32::from)
}

/// The event's name, how grave it is, what it says in words, and the same as fields.
fn describe(happened: &Happened) -> (&'static str, Tone, String, Value) {
    match happened {
        Happened::PhaseChanged(e) => {
            let (from, to) = (phase_word(e.from()), phase_word(e.to()));
            ("phase-changed", Tone::Good, format!("from {from} to {to}"), json!({ "from": from, "to": to }))
        }
        Happened::GuestPanicked(e) => {
            let said = if e.crash_loaded { "its crash kernel runs now" } else { "it stands still" };
            ("guest-panicked", Tone::Bad, said.to_owned(), json!({ "crash_loaded": e.crash_loaded }))
        }
        Happened::GuestShutdown(_) => ("guest-shutdown", Tone::Warning, String::new(), json!({})),
        Happened::GuestReset(e) => ("guest-reset", Tone::Warning, e.source.clone(), json!({ "source": e.source })),
        Happened::DeviceFault(e) => {
            let until = if e.needs_reset { "; it needs a reset" } else { "" };
            let said = format!("{}: {}{until}", e.device_id, e.message);
            let fields = json!({ "device": e.device_id, "message": e.message, "needs_reset": e.needs_reset });
            ("device-fault", Tone::Bad, said, fields)
        }
        Happened::BalloonStatistics(e) => ("balloon-statistics", Tone::Faint, balloon_text(e), balloon_json(e)),
        Happened::LogWarning(e) => {
            let held =
                if e.suppressed > 0 { format!(" ({} more were held back)", e.suppressed) } else { String::new() };
            let said = format!("{}: {}{held}", e.target, e.message);
            let level = if e.error { "error" } else { "warning" };
            let tone = if e.error { Tone::Bad } else { Tone::Warning };
            let fields =
                json!({ "target": e.target, "message": e.message, "level": level, "suppressed": e.suppressed });
            ("log-warning", tone, said, fields)
        }
    }
}

fn text(event: &Event, style: &Style) -> String {
    let mut text = String::new();
    if event.lost > 0 {
        text += &style.paint(Tone::Warning, &format!("… {} events were lost here\n", event.lost));
    }
    let (name, tone, said, _) = match &event.kind {
        Some(happened) => describe(happened),
        None => ("unknown", Tone::Faint, String::new(), Value::Null),
    };
    let seconds = event.time_ns / 1_000_000_000;
    let micros = event.time_ns / 1000 % 1_000_000;
    let line = format!("{seconds}.{micros:06}  {}  {}", style.paint(tone, &format!("{name:<18}")), harmless(&said));
    text + line.trim_end() + "\n"
}

fn json(event: &Event) -> Value {
    let (name, _, _, fields) = match &event.kind {
        Some(happened) => describe(happened),
        None => ("unknown", Tone::Faint, String::new(), json!({})),
    };
    json!({
        "sequence": event.sequence, "time_ns": event.time_ns, "lost": event.lost, "kind": name, "detail": fields,
    })
}

pub(super) fn balloon_json(balloon: &BalloonStatistics) -> Value {
    json!({
        "time_ns": balloon.time_ns, "target_bytes": balloon.target_bytes, "actual_bytes": balloon.actual_bytes,
        "swap_in_bytes": balloon.swap_in_bytes, "swap_out_bytes": balloon.swap_out_bytes,
        "major_faults": balloon.major_faults, "minor_faults": balloon.minor_faults,
        "free_bytes": balloon.free_bytes, "total_bytes": balloon.total_bytes,
        "available_bytes": balloon.available_bytes, "disk_cache_bytes": balloon.disk_cache_bytes,
    })
}

pub(super) fn balloon_text(balloon: &BalloonStatistics) -> String {
    let mut text = format!("holds {} of {}", bytes(balloon.actual_bytes), bytes(balloon.target_bytes));
    let told = [
        ("total", balloon.total_bytes),
        ("available", balloon.available_bytes),
        ("free", balloon.free_bytes),
        ("cache", balloon.disk_cache_bytes),
    ];
    for (name, size) in told {
        if let Some(size) = size {
            // Writing to a string cannot fail.
            let _ = write!(text, ", {name} {}", bytes(size));
        }
    }
    text
}

pub(super) fn exit_word(name: &str) -> String {
    word(name, "EXIT_REASON_")
}

#[cfg(test)]
mod tests {
    use quantix_vmm_api::v1::{DeviceFault, PhaseChanged};

    use super::*;

    #[test]
    fn every_kind_of_the_command_line_is_one_of_the_protocol() {
        for kind in Kind::value_variants() {
            assert!(number(*kind).is_some(), "{kind:?}");
        }
    }

    #[test]
    fn loss_is_shown_before_the_event() {
        let fault = DeviceFault { device_id: "disk0".into(), message: "bad\x1b".into(), needs_reset: true };
        let kind = Some(Happened::DeviceFault(fault));
        let event = Event { sequence: 9, time_ns: 1_000_002_000, lost: 3, kind };
        let expected =
            "… 3 events were lost here\n1.000002  device-fault        disk0: bad\u{fffd}; it needs a reset\n";
        assert_eq!(text(&event, &Style::plain()), expected);
        let changed = Happened::PhaseChanged(PhaseChanged { from: 2, to: 3 });
        let event = Event { kind: Some(changed), ..Event::default() };
        assert_eq!(json(&event)["detail"], json!({ "from": "running", "to": "paused" }));
    }
}
