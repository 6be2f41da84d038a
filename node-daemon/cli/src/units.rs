//! Sizes, durations and times between people and the API. Pure.

use jiff::fmt::friendly::SpanParser;
use jiff::{SignedDuration, Timestamp};
use prost_types::{Duration, Timestamp as WireTime};

const BINARY: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// Reads a size: 512M, 1.5G, 10GiB are powers of 1,024; 10GB is a power of 1,000; a bare number is bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let base: u64 = if suffix.len() == 2 && suffix.ends_with(['B', 'b']) { 1000 } else { 1024 };
    let power = match suffix.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 1,
        "M" | "MB" | "MIB" => 2,
        "G" | "GB" | "GIB" => 3,
        "T" | "TB" | "TIB" => 4,
        _ => return Err(format!("'{suffix}' is no unit of size; use K, M, G or T")),
    };
    let unit = base.pow(power);
    let whole: Option<u64> = match number.split_once('.') {
        None => number.parse().ok().and_then(|n: u64| n.checked_mul(unit)),
        Some((whole, part)) => fraction(whole, part, unit),
    };
    whole.ok_or_else(|| format!("'{text}' is no size; give such as 512M, 10G or 1.5T"))
}

/// `whole.part` units, exactly, rounded down to bytes.
fn fraction(whole: &str, part: &str, unit: u64) -> Option<u64> {
    if part.is_empty() || part.len() > 9 || unit == 1 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(part.len()).ok()?);
    let digits: u128 = part.parse().ok()?;
    let rest = u64::try_from(digits * u128::from(unit) / scale).ok()?;
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(rest)
}

/// Reads a size that must not be zero.
pub fn parse_some_size(text: &str) -> Result<u64, String> {
    match parse_size(text)? {
        0 => Err("0 is too small; give such as 512M or 10G".to_owned()),
        size => Ok(size),
    }
}

/// A size for people: 1.5 GiB.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < BINARY.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(unit > 0 && (0.05..0.95).contains(&value.fract()));
    format!("{value:.digits$} {}", BINARY[unit])
}

/// A count for people: 12.3k.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn count(number: u64) -> String {
    short_number(number as f64)
}

/// A number for people: 12.3k.
pub fn short_number(number: f64) -> String {
    let (value, unit) = match number.abs() {
        n if n >= 999.5e9 => (number / 1e12, "T"),
        n if n >= 999.5e6 => (number / 1e9, "G"),
        n if n >= 999.5e3 => (number / 1e6, "M"),
        n if n >= 999.5 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let digits = usize::from(value.fract().abs() >= 0.05 && value.abs() < 100.0);
    format!("{value:.digits$}{unit}")
}

/// Reads a duration: 30s, 5m, 1h 30m; a bare number is seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no duration; give such as 30s, 5m or 1h30m");
    let duration = match text.parse::<i64>() {
        Ok(seconds) => SignedDuration::from_secs(seconds),
        Err(_) => days(text).or_else(|| SpanParser::new().parse_duration(text).ok()).ok_or_else(wrong)?,
    };
    if duration.is_negative() {
        return Err(wrong());
    }
    Ok(Duration { seconds: duration.as_secs(), nanos: duration.subsec_nanos() })
}

/// Days, which jiff leaves to calendars: 90d.
fn days(text: &str) -> Option<SignedDuration> {
    let days: i64 = text.strip_suffix('d')?.trim().parse().ok()?;
    days.checked_mul(24).map(SignedDuration::from_hours)
}

/// A duration in seconds.
pub fn seconds(duration: &Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "durations here are far below 2^52 s")]
    let whole = duration.seconds as f64;
    whole + f64::from(duration.nanos) / 1e9
}

/// A duration for people: 850 µs, 12.3 ms, 4.2 s, 3m 20s, 2h 5m, 4d 3h.
pub fn span(duration: &Duration) -> String {
    let total = seconds(duration);
    match total {
        t if t < 1e-3 => format!("{:.0} µs", t * 1e6),
        t if t < 1.0 => format!("{:.1} ms", t * 1e3),
        t if t < 60.0 => format!("{t:.1} s"),
        _ => {
            let whole = duration.seconds;
            let (big, small) = match whole {
                s if s < 3600 => ((s / 60, "m"), (s % 60, "s")),
                s if s < 86_400 => ((s / 3600, "h"), (s % 3600 / 60, "m")),
                s => ((s / 86_400, "d"), (s % 86_400 / 3600, "h")),
            };
            format!("{}{} {}{}", big.0, big.1, small.0, small.1)
        }
    }
}

/// How long something has been, in one unit: 12s, 3m, 5h, 4d.
pub fn age(since: Option<&WireTime>, now: Timestamp) -> String {
    let Some(since) = since.and_then(moment) else { return String::new() };
    match now.duration_since(since).as_secs().max(0) {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m", s / 60),
        s if s < 86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

/// How long until something, in one unit; `expired` when it is past.
pub fn until(then: Option<&WireTime>, now: Timestamp) -> String {
    let Some(then) = then.and_then(moment) else { return "never".to_owned() };
    if then <= now {
        return "expired".to_owned();
    }
    let now_wire = WireTime { seconds: now.as_second(), nanos: 0 };
    age(Some(&now_wire), then)
}

/// A time of the API.
pub fn moment(time: &WireTime) -> Option<Timestamp> {
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// A time in the user's own time zone: 2026-11-30 23:19:15.
pub fn when(time: Option<&WireTime>) -> String {
    time.and_then(moment).map_or_else(String::new, |time| {
        time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
    })
}

/// So long from now, as a time of the API.
pub fn from_now(duration: &Duration) -> WireTime {
    let now = Timestamp::now();
    WireTime { seconds: now.as_second().saturating_add(duration.seconds), nanos: now.subsec_nanosecond() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512M", 512 << 20),
            ("1g", 1 << 30),
            ("1.5G", 3 << 29),
            ("10GiB", 10 << 30),
            ("10GB", 10_000_000_000),
            ("2T", 2 << 40),
            ("64B", 64),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1.G", "1.5", "-1G", "1 G", "12Q", "99999999999T", "1.2.3G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (1 << 30, "1 GiB"),
            (10_000_000_000, "9.3 GiB"),
            (u64::MAX, "16384 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, seconds, nanos) in [
            ("30", 30, 0),
            ("0", 0, 0),
            ("30s", 30, 0),
            ("5m", 300, 0),
            ("1h30m", 5400, 0),
            ("1h 30m", 5400, 0),
            ("250ms", 0, 250_000_000),
            ("90d", 90 * 86_400, 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration { seconds, nanos }), "{text}");
        }
        for text in ["", "-5s", "soon", "5 parsecs"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_shown() {
        let shown = |seconds, nanos| span(&Duration { seconds, nanos });
        assert_eq!(shown(0, 850_000), "850 µs");
        assert_eq!(shown(0, 12_340_000), "12.3 ms");
        assert_eq!(shown(4, 200_000_000), "4.2 s");
        assert_eq!(shown(200, 0), "3m 20s");
        assert_eq!(shown(7500, 0), "2h 5m");
        assert_eq!(shown(86_400 * 4 + 3 * 3600, 0), "4d 3h");
    }

    #[test]
    fn ages_have_one_unit() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let ago = |seconds: i64| age(Some(&WireTime { seconds: 1_000_000 - seconds, nanos: 0 }), now);
        assert_eq!([ago(5), ago(185), ago(7300), ago(400_000), ago(-5)], ["5s", "3m", "2h", "4d", "0s"]);
        assert_eq!(age(None, now), "");
        assert_eq!(until(Some(&WireTime { seconds: 1_000_300, nanos: 0 }), now), "5m");
        assert_eq!(until(Some(&WireTime { seconds: 1, nanos: 0 }), now), "expired");
    }

    #[test]
    fn counts_are_short() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1k"), (12_345, "12.3k"), (5_000_000, "5M")] {
            assert_eq!(count(number), text);
        }
    }
}
