//! A histogram of latencies in clock ticks: fixed memory, so that recording touches no new page while timing. Pure.

const SUB_BITS: u32 = 5;
const SUBS: usize = 1 << SUB_BITS;
const BUCKETS: usize = SUBS * (64 - SUB_BITS as usize + 1);

/// Counts by value: exact below 32 ticks, within 3 % above.
pub struct Latencies {
    counts: [u32; BUCKETS],
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Latencies {
    /// Counts one value.
    pub fn record(&mut self, ticks: u64) {
        if let Some(count) = self.counts.get_mut(bucket_of(ticks)) {
            *count = count.saturating_add(1);
            self.total += 1;
        }
    }

    /// The smallest value that at least `per_mille` thousandths of all values do not exceed; 0 without values.
    pub fn quantile(&self, per_mille: u64) -> u64 {
        let rank = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                return value_of(bucket);
            }
        }
        0
    }
}

fn bucket_of(value: u64) -> usize {
    let bits = 64 - value.leading_zeros();
    if bits <= SUB_BITS {
        return value as usize;
    }
    let shift = bits - SUB_BITS - 1;
    SUBS * (shift as usize) + (value >> shift) as usize
}

/// The middle of a bucket.
fn value_of(bucket: usize) -> u64 {
    let Some(shift) = (bucket / SUBS).checked_sub(1) else {
        return bucket as u64;
    };
    let mantissa = (bucket - SUBS * shift) as u64;
    (mantissa << shift) + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lands_within_three_per_cent() {
        for value in (0..64).map(|bit| 1_u64 << bit).chain([3, 31, 33, 1000, 123_456_789, u64::MAX]) {
            let found = value_of(bucket_of(value));
            assert!(found.abs_diff(value) <= value / 32, "{value} was read as {found}");
        }
    }

    #[test]
    fn quantiles_of_a_known_set() {
        let mut latencies = Latencies::default();
        (1..=100).for_each(|value| latencies.record(value * 10));
        assert!(latencies.quantile(500).abs_diff(500) <= 16);
        assert!(latencies.quantile(990).abs_diff(990) <= 32);
        assert_eq!(Latencies::default().quantile(500), 0);
    }
}
