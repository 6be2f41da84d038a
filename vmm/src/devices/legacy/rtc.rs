//! Real-time clock with CMOS memory (Motorola MC146818A), at ports 0x70 and 0x71.
//!
//! The time is the host's plus an offset, which a guest changes by setting the clock; a paused or restored guest therefore
//! reads the right time at once. There is no interrupt: alarm, periodic and update interrupts never come, and register C
//! says so. While the guest holds the SET bit, the clock shows frozen registers, which become the new time when it lets go.
//! Called by vCPU threads.

use std::time::Duration;

use super::answer;
use crate::bus::BusDevice;

/// Offset of the index port; the data port is one above.
const INDEX: u64 = 0;
const DATA: u64 = 1;

const SECONDS: u8 = 0x0;
const MINUTES: u8 = 0x2;
const HOURS: u8 = 0x4;
const WEEKDAY: u8 = 0x6;
const DAY: u8 = 0x7;
const MONTH: u8 = 0x8;
const YEAR: u8 = 0x9;
const STATUS_A: u8 = 0xa;
const STATUS_B: u8 = 0xb;
const STATUS_C: u8 = 0xc;
const STATUS_D: u8 = 0xd;
/// Where ACPI's `century` and every PC keep it.
const CENTURY: u8 = 0x32;

/// Status A: an update comes within 244 µs, so registers may change between two reads.
const A_UPDATING: u8 = 1 << 7;
/// Status A as a PC leaves it: 32,768 Hz, 1,024 Hz.
const A_DIVIDERS: u8 = 0x26;
/// Status B: registers are frozen and being set.
const B_SET: u8 = 1 << 7;
/// Status B: binary instead of BCD.
const B_BINARY: u8 = 1 << 2;
/// Status B: 24 hours instead of 12.
const B_24_HOURS: u8 = 1 << 1;
/// Status D: memory and time are valid.
const D_VALID: u8 = 1 << 7;
/// In a 12-hour register: afternoon.
const AFTERNOON: u8 = 1 << 7;

/// Time before an update in which [`A_UPDATING`] shows, in ns (data sheet, "Update cycle").
const UPDATE_NS: u32 = 244_000;
const SECOND_NS: u32 = 1_000_000_000;
const DAY_SECONDS: i64 = 86_400;

/// The host's wall clock: time since 1970-01-01 00:00 UTC.
pub type WallClock = Box<dyn Fn() -> Duration + Send>;

/// The clock.
pub struct Rtc {
    clock: WallClock,
    index: u8,
    memory: [u8; 128],
    /// Guest time less host time, in seconds.
    offset_s: i64,
    /// The time that the guest is setting, as it stands in the registers.
    frozen: Option<Registers>,
}

/// The registers that hold time, in the order of their addresses: seconds to year, and century.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Registers([u8; 8]);

/// Addresses of the time registers, in the order of [`Registers`].
const TIME_REGISTERS: [u8; 8] = [SECONDS, MINUTES, HOURS, WEEKDAY, DAY, MONTH, YEAR, CENTURY];

/// A date and a time of day, proleptic Gregorian, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment {
    year: i64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Rtc {
    /// A clock that runs with `clock`.
    pub fn new(clock: WallClock) -> Self {
        let mut memory = [0; 128];
        for (register, value) in [(STATUS_A, A_DIVIDERS), (STATUS_B, B_24_HOURS), (STATUS_D, D_VALID)] {
            memory[usize::from(register)] = value;
        }
        Self { clock, index: 0, memory, offset_s: 0, frozen: None }
    }

    fn cell(&self, register: u8) -> u8 {
        self.memory.get(usize::from(register)).copied().unwrap_or_default()
    }

    /// What the time registers show now.
    fn time(&self) -> Registers {
        self.frozen.unwrap_or_else(|| {
            let host = i64::try_from((self.clock)().as_secs()).unwrap_or(i64::MAX);
            Registers::new(host.saturating_add(self.offset_s), self.cell(STATUS_B))
        })
    }

    fn read_data(&self) -> u8 {
        if let Some(value) = self.time_register(|registers, at| registers.0.get(at).copied()) {
            return value;
        }
        match self.index {
            STATUS_A if self.frozen.is_none() && (self.clock)().subsec_nanos() >= SECOND_NS - UPDATE_NS => {
                self.cell(STATUS_A) | A_UPDATING
            }
            STATUS_C => 0,
            other => self.cell(other),
        }
    }

    fn time_register(&self, read: impl Fn(Registers, usize) -> Option<u8>) -> Option<u8> {
        let at = TIME_REGISTERS.iter().position(|register| *register == self.index)?;
        read(self.time(), at)
    }

    fn write_data(&mut self, value: u8) {
        match self.index {
            STATUS_A => self.store(STATUS_A, value & !A_UPDATING),
            STATUS_B => self.write_status_b(value),
            STATUS_C | STATUS_D => {}
            register => self.write_cell(register, value),
        }
    }

    fn write_cell(&mut self, register: u8, value: u8) {
        let Some(at) = TIME_REGISTERS.iter().position(|time| *time == register) else {
            return self.store(register, value);
        };
        let mut time = self.time();
        if let Some(cell) = time.0.get_mut(at) {
            *cell = value;
        }
        match &mut self.frozen {
            Some(frozen) => *frozen = time,
            None => self.set(time),
        }
    }

    fn write_status_b(&mut self, value: u8) {
        match (self.frozen, value & B_SET != 0) {
            (None, true) => self.frozen = Some(self.time()),
            (Some(time), false) => {
                self.frozen = None;
                self.store(STATUS_B, value);
                self.set(time);
            }
            _ => {}
        }
        self.store(STATUS_B, value);
    }

    /// Makes the registers the time from now on. A date that does not exist leaves the clock as it was.
    fn set(&mut self, time: Registers) {
        let host = i64::try_from((self.clock)().as_secs()).unwrap_or(i64::MAX);
        if let Some(seconds) = time.seconds(self.cell(STATUS_B)) {
            self.offset_s = seconds.saturating_sub(host);
        }
    }

    fn store(&mut self, register: u8, value: u8) {
        if let Some(cell) = self.memory.get_mut(usize::from(register)) {
            *cell = value;
        }
    }
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        match offset {
            // The index cannot be read back on a PC; data can.
            DATA => answer(data, self.read_data()),
            _ => answer(data, super::NOTHING),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Some(value) = data.first().copied() else { return };
        match offset {
            // Bit 7 masks NMIs on a PC; there is none to mask.
            INDEX => self.index = value & 0x7f,
            DATA => self.write_data(value),
            _ => {}
        }
    }
}

impl Registers {
    /// The registers at `seconds` since 1970, in the form that status B asks for.
    fn new(seconds: i64, status_b: u8) -> Self {
        let moment = Moment::at(seconds);
        // 1970-01-01 was a Thursday; Sunday is 1.
        let weekday = seconds.div_euclid(DAY_SECONDS).saturating_add(4).rem_euclid(7).saturating_add(1);
        let (century, year) = (small(moment.year.div_euclid(100).rem_euclid(100)), small(moment.year.rem_euclid(100)));
        let form = |value: u8| if status_b & B_BINARY != 0 { value } else { to_bcd(value) };
        let hour = match (status_b & B_24_HOURS != 0, moment.hour) {
            (true, hour) => form(hour),
            (false, hour @ 0..=11) => form(if hour == 0 { 12 } else { hour }),
            (false, hour) => form(if hour == 12 { 12 } else { hour - 12 }) | AFTERNOON,
        };
        let Moment { month, day, minute, second, .. } = moment;
        Self([
            form(second),
            form(minute),
            hour,
            form(small(weekday)),
            form(day),
            form(month),
            form(year),
            form(century),
        ])
    }

    /// Seconds since 1970, or nothing when the registers hold no date.
    fn seconds(self, status_b: u8) -> Option<i64> {
        let form = |value: u8| if status_b & B_BINARY != 0 { Some(value) } else { from_bcd(value) };
        let [second, minute, hour, _weekday, day, month, year, century] = self.0;
        let hour = if status_b & B_24_HOURS != 0 {
            form(hour)?
        } else {
            let twelve = form(hour & !AFTERNOON).filter(|hour| (1..=12).contains(hour))?;
            twelve % 12 + if hour & AFTERNOON != 0 { 12 } else { 0 }
        };
        let moment = Moment {
            year: i64::from(form(century)?) * 100 + i64::from(form(year)?),
            month: form(month)?,
            day: form(day)?,
            hour,
            minute: form(minute)?,
            second: form(second)?,
        };
        moment.seconds()
    }
}

impl Moment {
    /// The moment at `seconds` since 1970.
    fn at(seconds: i64) -> Self {
        // Years are counted from March, so that a leap day is the last of its year; 400 of them have 146,097 days.
        let (days, time) = (seconds.div_euclid(DAY_SECONDS), seconds.rem_euclid(DAY_SECONDS));
        let days = days.saturating_add(DAYS_TO_1970);
        let (era, of_era) = (days.div_euclid(DAYS_OF_ERA), days.rem_euclid(DAYS_OF_ERA));
        // Takes out the leap days that came before, so that every year has 365 days.
        let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (year * 365 + year / 4 - year / 100);
        let month = (of_year * 5 + 2) / 153;
        let day = small(of_year - (month * 153 + 2) / 5 + 1);
        let (year, month) = if month < 10 { (year, month + 3) } else { (year + 1, month - 9) };
        Self {
            year: era.saturating_mul(400).saturating_add(year),
            month: small(month),
            day,
            hour: small(time / 3_600),
            minute: small(time / 60 % 60),
            second: small(time % 60),
        }
    }

    /// Seconds since 1970, or nothing when there is no such date or time.
    fn seconds(self) -> Option<i64> {
        let Self { year, month, day, hour, minute, second } = self;
        if !(1..=12).contains(&month) || day == 0 || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (shifted_year, shifted_month) =
            if month > 2 { (year, i64::from(month) - 3) } else { (year - 1, i64::from(month) + 9) };
        let (era, of_era) = (shifted_year.div_euclid(400), shifted_year.rem_euclid(400));
        let of_year = (shifted_month * 153 + 2) / 5 + i64::from(day) - 1;
        let days = era * DAYS_OF_ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - DAYS_TO_1970;
        let seconds = days * DAY_SECONDS + i64::from(hour) * 3_600 + i64::from(minute) * 60 + i64::from(second);
        // The 31st of a shorter month would be a day of the next.
        (Self::at(seconds) == self).then_some(seconds)
    }
}

/// Days in 400 years.
const DAYS_OF_ERA: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const DAYS_TO_1970: i64 = 719_468;

/// A part of a date or time, all of which are below 100.
fn small(part: i64) -> u8 {
    u8::try_from(part).unwrap_or_default()
}

fn to_bcd(value: u8) -> u8 {
    ((value / 10) << 4) | (value % 10)
}

fn from_bcd(value: u8) -> Option<u8> {
    let (tens, ones) = (value >> 4, value & 0xf);
    (tens < 10 && ones < 10).then_some(tens * 10 + ones)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use proptest::prelude::*;

    use super::super::testing::batter;
    use super::*;

    /// 2026-11-22 22:41:07 UTC, a Sunday.
    const NOW: u64 = 1_795_387_267;

    fn rtc(now: u64) -> (Rtc, Arc<AtomicU64>) {
        let clock = Arc::new(AtomicU64::new(now * 1_000_000_000));
        let source = clock.clone();
        (Rtc::new(Box::new(move || Duration::from_nanos(source.load(Ordering::Relaxed)))), clock)
    }

    fn get(rtc: &mut Rtc, register: u8) -> u8 {
        super::super::testing::write(rtc, INDEX, register);
        super::super::testing::read(rtc, DATA)
    }

    fn put(rtc: &mut Rtc, register: u8, value: u8) {
        super::super::testing::write(rtc, INDEX, register);
        super::super::testing::write(rtc, DATA, value);
    }

    fn all(rtc: &mut Rtc) -> [u8; 8] {
        TIME_REGISTERS.map(|register| get(rtc, register))
    }

    #[test]
    fn the_time_is_shown_in_each_form() {
        let (mut rtc, _) = rtc(NOW);
        assert_eq!(all(&mut rtc), [0x07, 0x41, 0x22, 0x01, 0x22, 0x11, 0x26, 0x20]);
        put(&mut rtc, STATUS_B, B_24_HOURS | B_BINARY);
        assert_eq!(all(&mut rtc), [7, 41, 22, 1, 22, 11, 26, 20]);
        put(&mut rtc, STATUS_B, 0);
        assert_eq!(get(&mut rtc, HOURS), AFTERNOON | 0x10);
    }

    #[test]
    fn a_guest_sets_the_clock_and_it_runs_on() {
        let (mut rtc, clock) = rtc(NOW);
        put(&mut rtc, STATUS_B, B_SET | B_24_HOURS);
        let new = [0x58, 0x59, 0x23, 0x04, 0x29, 0x02, 0x28, 0x20];
        for (register, value) in TIME_REGISTERS.into_iter().zip(new) {
            put(&mut rtc, register, value);
        }
        clock.fetch_add(60_000_000_000, Ordering::Relaxed);
        assert_eq!(all(&mut rtc), new, "frozen while it is set");
        put(&mut rtc, STATUS_B, B_24_HOURS);
        clock.fetch_add(3_000_000_000, Ordering::Relaxed);
        // 2028-02-29 23:59:58, a Tuesday, and three seconds more.
        assert_eq!(all(&mut rtc), [0x01, 0x00, 0x00, 0x04, 0x01, 0x03, 0x28, 0x20]);
    }

    #[test]
    fn one_register_can_be_set_by_itself() {
        let (mut rtc, _) = rtc(NOW);
        put(&mut rtc, YEAR, 0x27);
        assert_eq!(get(&mut rtc, YEAR), 0x27);
        put(&mut rtc, MONTH, 0x13);
        put(&mut rtc, MINUTES, 0x6a);
        assert_eq!((get(&mut rtc, MONTH), get(&mut rtc, MINUTES)), (0x11, 0x41), "what is no date changes nothing");
    }

    #[test]
    fn the_update_flag_shows_just_before_the_second() {
        let (mut rtc, clock) = rtc(NOW);
        assert_eq!(get(&mut rtc, STATUS_A), A_DIVIDERS);
        clock.fetch_add(999_800_000, Ordering::Relaxed);
        assert_eq!(get(&mut rtc, STATUS_A), A_DIVIDERS | A_UPDATING);
        clock.fetch_add(200_000, Ordering::Relaxed);
        assert_eq!(get(&mut rtc, STATUS_A), A_DIVIDERS);
    }

    #[test]
    fn memory_keeps_what_is_written_and_status_does_not() {
        let (mut rtc, _) = rtc(NOW);
        for (register, value, wanted) in [(0x0f, 0xab, 0xab), (0x7f, 1, 1), (STATUS_C, 0xff, 0), (STATUS_D, 0, D_VALID)]
        {
            put(&mut rtc, register, value);
            assert_eq!(get(&mut rtc, register), wanted, "{register:#x}");
        }
    }

    #[test]
    fn any_access_is_answered() {
        let (mut rtc, _) = rtc(NOW);
        for index in 0..=255 {
            super::super::testing::write(&mut rtc, INDEX, index);
            batter(&mut rtc, 2);
        }
    }

    proptest! {
        #[test]
        fn registers_are_the_time_and_back(seconds in -62_135_596_800_i64..253_402_300_800, form in 0_u8..4) {
            let status_b = form << 1;
            prop_assert_eq!(Registers::new(seconds, status_b).seconds(status_b), Some(seconds));
        }

        #[test]
        fn no_registers_break_the_calendar(registers: [u8; 8], status_b: u8) {
            let _ = Registers(registers).seconds(status_b);
        }
    }
}
