//! Numbers as people read them. Pure.

/// Bytes in binary units, such as `1.5 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    scaled(count, 1024, &UNITS).unwrap_or_else(|| format!("{count} B"))
}

/// A count in decimal units, such as `1.5 M`.
pub(super) fn count(count: u64) -> String {
    const UNITS: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    scaled(count, 1000, &UNITS).unwrap_or_else(|| count.to_string())
}

/// A duration, such as `1.5 ms`.
pub(super) fn nanoseconds(count: u64) -> String {
    const UNITS: [&str; 3] = ["µs", "ms", "s"];
    scaled(count, 1000, &UNITS).unwrap_or_else(|| format!("{count} ns"))
}

/// One decimal below 10 of a unit, none from there on; exact numbers keep theirs. None below the first unit.
fn scaled(count: u64, step: u64, units: &[&str]) -> Option<String> {
    let mut unit = None;
    let mut size = 1_u64;
    for &name in units {
        let Some(next) = size.checked_mul(step).filter(|next| count >= *next) else { break };
        (unit, size) = (Some(name), next);
    }
    let unit = unit?;
    let tenths = u128::from(count) * 10 / u128::from(size);
    let (whole, tenth) = (tenths / 10, tenths % 10);
    Some(if whole >= 100 || tenth == 0 { format!("{whole} {unit}") } else { format!("{whole}.{tenth} {unit}") })
}

/// Per second, of a difference over a time.
pub(super) fn per_second(difference: u64, elapsed_ns: u64) -> u64 {
    let elapsed = u128::from(elapsed_ns.max(1));
    u64::try_from(u128::from(difference) * 1_000_000_000 / elapsed).unwrap_or(u64::MAX)
}

/// The time below which `permille` of the operations of a histogram were, as its buckets tell: an upper bound. None
/// for an empty histogram.
pub(super) fn quantile_us(buckets: &[u64], permille: u64) -> Option<u64> {
    let total: u128 = buckets.iter().map(|&count| u128::from(count)).sum();
    let wanted = (total * u128::from(permille)).div_ceil(1000).max(1);
    let mut seen = 0_u128;
    for (index, &count) in buckets.iter().enumerate() {
        seen += u128::from(count);
        if seen >= wanted {
            // Bucket i holds what took less than 2^i µs.
            return Some(1_u64.checked_shl(u32::try_from(index).unwrap_or(u32::MAX)).unwrap_or(u64::MAX));
        }
    }
    None
}

/// A word for people, out of a name of the protocol: `PHASE_RUNNING` without `PHASE_` is `running`.
pub(super) fn word(name: &str, prefix: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_the_largest_that_fit() {
        let table = [
            (0, "0 B", "0", "0 ns"),
            (1023, "1023 B", "1 k", "1 µs"),
            (1536, "1.5 KiB", "1.5 k", "1.5 µs"),
            (4 << 30, "4 GiB", "4.2 G", "4.2 s"),
            (123 << 20, "123 MiB", "128 M", "128 ms"),
            (u64::MAX, "15.9 EiB", "18.4 E", "18446744073 s"),
        ];
        for (number, as_bytes, as_count, as_time) in table {
            assert_eq!((bytes(number), count(number), nanoseconds(number)).0, as_bytes);
            assert_eq!(count(number), as_count);
            assert_eq!(nanoseconds(number), as_time);
        }
    }

    #[test]
    fn quantiles_are_the_upper_ends_of_buckets() {
        let buckets = [0, 0, 90, 9, 0, 1];
        let table = [(500, Some(4)), (900, Some(4)), (990, Some(8)), (999, Some(32)), (1000, Some(32))];
        for (permille, expected) in table {
            assert_eq!(quantile_us(&buckets, permille), expected, "{permille}");
        }
        assert_eq!(quantile_us(&[], 500), None);
        assert_eq!(quantile_us(&[0, 0], 500), None);
    }

    #[test]
    fn rates_do_not_overflow() {
        assert_eq!(per_second(500, 2_000_000_000), 250);
        assert_eq!(per_second(u64::MAX, 0), u64::MAX);
    }
}
