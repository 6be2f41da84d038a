//! Which warnings of the log become events: so many a second, the rest are counted. Pure; time comes in.
//!
//! A guest can bring warnings about as often as it likes; a client must not drown in them.

use log::{Level, Record};

use crate::control::v1::LogWarning;

/// Warnings that are told in one second.
const A_SECOND: u32 = 10;

/// Longest text of a warning that is told, in characters.
const LONGEST: usize = 2000;

/// What was told in the present second, and what was held back since the last that was told.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    second: u64,
    told: u32,
    suppressed: u64,
}

impl Warnings {
    /// The event for a line of the log, unless there were too many just now. `now_ns` is any clock that only goes forward.
    pub(super) fn admit(&mut self, record: &Record<'_>, now_ns: u64) -> Option<LogWarning> {
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            (self.second, self.told) = (second, 0);
        }
        if self.told >= A_SECOND {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        self.told += 1;
        Some(LogWarning {
            target: record.target().to_owned(),
            message: record.args().to_string().chars().take(LONGEST).collect(),
            error: record.level() == Level::Error,
            suppressed: std::mem::take(&mut self.suppressed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let mut warnings = Warnings::default();
        let mut admit = |now| {
            let record = Record::builder().level(Level::Warn).target("disk").args(format_args!("bad")).build();
            warnings.admit(&record, now)
        };
        let told = (0..25).filter_map(|_| admit(5_000_000_000)).count();
        assert_eq!(told, A_SECOND as usize);
        let next = admit(6_000_000_000).expect("a new second");
        assert_eq!((next.suppressed, next.target.as_str()), (15, "disk"));
        assert_eq!(admit(6_000_000_001).expect("room").suppressed, 0);
    }
}
