//! Medians and `/proc/PID/smaps`: pure.

/// What repeated runs of one measurement came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The smallest figure.
    pub min: f64,
    /// The middle one; of an even number the mean of the middle two.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

/// Sums up the figures; nothing if there are none.
pub fn summary(figures: &[f64]) -> Option<Summary> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    let half = sorted.len() / 2;
    let median = if sorted.len() % 2 == 1 { sorted[half] } else { f64::midpoint(sorted[half - 1], sorted[half]) };
    Some(Summary { min, median, max })
}

/// What a process keeps in memory besides its guest's memory, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Overhead {
    /// Resident set.
    pub rss_kib: u64,
    /// Its proportional share: pages that others map as well count in part.
    pub pss_kib: u64,
}

/// Adds up all mappings of an `smaps` file but those that are at least as large as the guest's memory.
pub fn overhead(smaps: &str, guest_kib: u64) -> Overhead {
    let mut sum = Overhead::default();
    let mut is_guest = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(Ok(kib))) = (words.next(), words.next().map(str::parse::<u64>)) else { continue };
        match name {
            // The first field of a mapping.
            "Size:" => is_guest = kib >= guest_kib,
            "Rss:" if !is_guest => sum.rss_kib += kib,
            "Pss:" if !is_guest => sum.pss_kib += kib,
            _ => {}
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_middle_two() {
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[3.0, 1.0, 9.0]), Some(Summary { min: 1.0, median: 3.0, max: 9.0 }));
        assert!((summary(&[4.0, 1.0, 2.0, 8.0]).unwrap().median - 3.0).abs() < f64::EPSILON);
    }

    #[test]
    fn guest_memory_is_no_overhead() {
        let smaps = "7f00-8f00 rw-p 00000000 00:00 0\nSize:  131072 kB\nRss: 4096 kB\nPss: 4096 kB\n\
                     9f00-9f10 r-xp 00000000 fe:00 56 /usr/bin/vmm\nSize:  64 kB\nRss: 40 kB\nPss: 20 kB\nVmFlags: rd ex\n\
                     af00-af10 rw-p 00000000 00:00 0 [heap]\nSize:  64 kB\nRss: 8 kB\nPss: 8 kB\n";
        assert_eq!(overhead(smaps, 131_072), Overhead { rss_kib: 48, pss_kib: 28 });
        assert_eq!(overhead("", 131_072), Overhead::default());
    }
}
