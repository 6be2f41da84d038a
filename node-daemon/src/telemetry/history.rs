//! Rings of history in bounded memory: each second for 10 minutes, each 10 s for 24 hours. Pure; slots are seconds of the
//! monotonic clock since the daemon's start.
//!
//! With 200 VMs of 8 series the coarse rings are the bulk: 8,640 values each. They are kept in 16 bits (6 of exponent, 10 of
//! mantissa: 0.05 %), which no chart shows and which makes 28 MiB of 110.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::reading::{NodeReading, VmReading};
use super::series::{self, SeriesInfo};
use crate::model::{Id, Time};

/// Fine values that are kept: 10 minutes.
const FINE: usize = 600;
/// Seconds of a coarse value.
const STEP: u64 = 10;
/// Coarse values that are kept: 24 hours.
const COARSE: usize = 8640;
/// Subjects that are kept; beyond it the one that was silent for longest goes.
const MOST_SUBJECTS: usize = 1024;

/// Whose values these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// The node.
    Node,
    /// A VM, by id.
    Vm(Id),
}

/// Values of one series over time.
#[derive(Clone, Debug, PartialEq)]
pub struct Points {
    /// Which series.
    pub info: SeriesInfo,
    /// Of the first point, as the clock says now.
    pub start_time: Time,
    /// From one point to the next.
    pub step: Duration,
    /// NaN where there is no value.
    pub values: Vec<f64>,
}

/// A value in 16 bits: never negative, 0.05 % exact between 2^-8 and 2^55, NaN is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed(u16);

impl Packed {
    const NAN: u16 = u16::MAX;
    /// An `f32` of 2^-9, its lower mantissa bits cut off; the smallest code is one above.
    const ZERO: u32 = (127 - 9) << 10;

    pub(super) fn new(value: f64) -> Self {
        if value.is_nan() {
            return Self(Self::NAN);
        }
        // Rounded to 10 bits of mantissa; a carry goes into the exponent, as it should.
        let bits = ((value.max(0.0) as f32).to_bits() + (1 << 12)) >> 13;
        let code = bits.saturating_sub(Self::ZERO).min(u32::from(Self::NAN) - 1);
        Self(u16::try_from(code).unwrap_or(Self::NAN - 1))
    }

    pub(super) fn value(self) -> f64 {
        match self.0 {
            Self::NAN => f64::NAN,
            0 => 0.0,
            code => f64::from(f32::from_bits((u32::from(code) + Self::ZERO) << 13)),
        }
    }
}

/// How a ring keeps a value.
trait Cell: Copy {
    fn pack(value: f64) -> Self;
    fn unpack(self) -> f64;
}

impl Cell for f32 {
    fn pack(value: f64) -> Self {
        value as f32
    }

    fn unpack(self) -> f64 {
        self.into()
    }
}

impl Cell for Packed {
    fn pack(value: f64) -> Self {
        Self::new(value)
    }

    fn unpack(self) -> f64 {
        self.value()
    }
}

/// The newest values; `next` is the slot after the last.
struct Ring<C> {
    cells: VecDeque<C>,
    next: u64,
    capacity: usize,
}

impl<C: Cell> Ring<C> {
    fn new(capacity: usize) -> Self {
        Self { cells: VecDeque::new(), next: 0, capacity }
    }

    /// Puts a value; slots that were left out become NaN. A slot that is not new is not touched.
    fn put(&mut self, slot: u64, value: f64) {
        if self.cells.is_empty() {
            self.next = slot;
        }
        let Some(gap) = slot.checked_sub(self.next) else { return };
        let gap = usize::try_from(gap).unwrap_or(usize::MAX).min(self.capacity);
        for value in std::iter::repeat_n(f64::NAN, gap).chain([value]) {
            if self.cells.len() == self.capacity {
                self.cells.pop_front();
            }
            self.cells.push_back(C::pack(value));
        }
        self.next = slot + 1;
    }

    /// The values from `slot` on, and the slot of the first.
    fn since(&self, slot: u64) -> (u64, Vec<f64>) {
        let first = self.next - self.cells.len() as u64;
        let skip = usize::try_from(slot.saturating_sub(first)).unwrap_or(usize::MAX).min(self.cells.len());
        (first + skip as u64, self.cells.iter().skip(skip).map(|cell| cell.unpack()).collect())
    }
}

/// One series in both resolutions.
struct Track {
    fine: Ring<f32>,
    coarse: Ring<Packed>,
    /// Of the coarse slot that goes on: which, and sum and number of its values.
    open: (u64, f64, u32),
}

impl Track {
    fn new() -> Self {
        Self { fine: Ring::new(FINE), coarse: Ring::new(COARSE), open: (0, 0.0, 0) }
    }

    fn put(&mut self, slot: u64, value: f64) {
        self.fine.put(slot, value);
        let (open, sum, number) = &mut self.open;
        if *open != slot / STEP {
            if *number > 0 {
                self.coarse.put(*open, *sum / f64::from(*number));
            }
            (*open, *sum, *number) = (slot / STEP, 0.0, 0);
        }
        if !value.is_nan() {
            *sum += value;
            *number += 1;
        }
    }
}

/// All series of one subject.
struct Tracks<R> {
    last: R,
    slot: u64,
    series: Vec<Track>,
}

impl<R: Clone> Tracks<R> {
    fn put(known: Option<Self>, slot: u64, reading: &R, table: &[series::Series<R>]) -> Self {
        let Some(mut known) = known else {
            // The first reading has none before it: levels are known, rates are not.
            let mut tracks = Self { last: reading.clone(), slot, series: table.iter().map(|_| Track::new()).collect() };
            tracks.add(slot, reading, table);
            return tracks;
        };
        known.add(slot, reading, table);
        known
    }

    fn add(&mut self, slot: u64, reading: &R, table: &[series::Series<R>]) {
        for (track, series) in self.series.iter_mut().zip(table) {
            track.put(slot, (series.value)(&self.last, reading));
        }
        self.last = reading.clone();
        self.slot = slot;
    }
}

/// The history of all subjects.
#[derive(Default)]
pub(super) struct History {
    node: Option<Tracks<NodeReading>>,
    vms: HashMap<Id, Tracks<VmReading>>,
}

impl History {
    /// Takes the readings of one slot.
    pub(super) fn put(&mut self, slot: u64, node: &NodeReading, vms: &[VmReading]) {
        self.node = Some(Tracks::put(self.node.take(), slot, node, &series::NODE));
        for vm in vms {
            let tracks = Tracks::put(self.vms.remove(&vm.id), slot, vm, &series::VM);
            self.vms.insert(vm.id.clone(), tracks);
        }
        // What is older than the longest ring shows nothing any more.
        let oldest = slot.saturating_sub(COARSE as u64 * STEP);
        self.vms.retain(|_, tracks| tracks.slot >= oldest);
        while self.vms.len() > MOST_SUBJECTS {
            let Some(silent) = self.vms.iter().min_by_key(|(_, tracks)| tracks.slot).map(|(id, _)| id.clone()) else {
                break;
            };
            self.vms.remove(&silent);
        }
    }

    /// Forgets a subject.
    pub(super) fn forget(&mut self, subject: &Subject) {
        if let Subject::Vm(id) = subject {
            self.vms.remove(id);
        }
    }

    /// The values of the last `window`: fine ones when it is short enough. `now` is a slot and the clock's time in it.
    pub(super) fn read(
        &self,
        subject: &Subject,
        chosen: &[(usize, SeriesInfo)],
        window: Duration,
        now: (u64, Time),
    ) -> Vec<Points> {
        let tracks = match subject {
            Subject::Node => self.node.as_ref().map(|tracks| &tracks.series),
            Subject::Vm(id) => self.vms.get(id).map(|tracks| &tracks.series),
        };
        let fine = window <= Duration::from_secs(FINE as u64);
        let step = if fine { 1 } else { STEP };
        let from = (now.0 + 1).saturating_sub(window.as_secs()).div_ceil(step);
        let points = |(at, info): &(usize, SeriesInfo)| {
            let (first, values) = match tracks.and_then(|tracks| tracks.get(*at)) {
                Some(track) if fine => track.fine.since(from),
                Some(track) => track.coarse.since(from),
                None => (from, Vec::new()),
            };
            let ago = i64::try_from(now.0.saturating_sub(first * step)).unwrap_or(0);
            let start_time = Time::from_micros(now.1.micros().saturating_sub(ago.saturating_mul(1_000_000)));
            Points { info: *info, start_time, step: Duration::from_secs(step), values }
        };
        chosen.iter().map(points).collect()
    }
}
