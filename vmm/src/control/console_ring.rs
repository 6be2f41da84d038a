//! What a console printed since power-on, as far as it is remembered.
//!
//! A ring of bytes with a number for each: byte `n` is the `n`-th that was ever printed. A reader keeps nothing but the
//! number of the byte that it wants next, so any number of readers cost nothing, none of them can hold the
//! writer up, and one that is too slow learns how many bytes it missed. Pure; callers lock.

use std::ops::Range;

/// How much is remembered, in bytes.
pub const RING_BYTES: usize = 256 * 1024;

/// The ring. It takes only as much memory as was printed, up to [`RING_BYTES`].
#[derive(Debug, Default)]
pub struct ConsoleRing {
    /// Byte `n` is at `n % RING_BYTES`.
    bytes: Vec<u8>,
    written: u64,
}

/// What [`ConsoleRing::read`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingRead {
    /// Bytes that were forgotten before this reader came for them.
    pub skipped: u64,
    /// Bytes that were copied.
    pub length: usize,
}

impl ConsoleRing {
    /// A ring in which nothing was printed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends bytes, over the oldest if need be.
    pub fn write(&mut self, printed: &[u8]) {
        // Of a text longer than the ring only the end can stay.
        let forgotten = printed.len().saturating_sub(RING_BYTES);
        self.written = self.written.saturating_add(forgotten as u64);
        let mut rest = printed.get(forgotten..).unwrap_or_default();
        while !rest.is_empty() {
            let start = index(self.written);
            let (now, later) = rest.split_at(rest.len().min(RING_BYTES - start));
            self.put(start, now);
            self.written = self.written.saturating_add(now.len() as u64);
            rest = later;
        }
    }

    /// Number of the next byte that will be printed: how many were.
    pub fn end(&self) -> u64 {
        self.written
    }

    /// Number of the oldest byte that is remembered.
    pub fn start(&self) -> u64 {
        self.written.saturating_sub(RING_BYTES as u64)
    }

    /// Copies bytes from number `position` on into `buffer`, and moves `position` behind them.
    pub fn read(&self, position: &mut u64, buffer: &mut [u8]) -> RingRead {
        let from = (*position).clamp(self.start(), self.end());
        let skipped = from.saturating_sub(*position);
        let mut next = from;
        let mut length = 0;
        while let Some(piece) = self.piece(next).filter(|_| length < buffer.len()) {
            let room = buffer.get_mut(length..).unwrap_or_default();
            let count = piece.len().min(room.len());
            for (to, byte) in room.iter_mut().zip(piece) {
                *to = *byte;
            }
            length += count;
            next += count as u64;
        }
        *position = next;
        RingRead { skipped, length }
    }

    /// The longest piece in a row that begins with byte `from`; none when nothing is there yet.
    fn piece(&self, from: u64) -> Option<&[u8]> {
        let left = usize::try_from(self.end().checked_sub(from)?).ok()?;
        let start = index(from);
        let range: Range<usize> = start..RING_BYTES.min(start.checked_add(left)?);
        self.bytes.get(range).filter(|piece| !piece.is_empty())
    }

    fn put(&mut self, start: usize, bytes: &[u8]) {
        let end = start + bytes.len();
        if self.bytes.len() < end {
            // Grow as a vector does, but never beyond the ring.
            let wanted = end.next_power_of_two().min(RING_BYTES);
            self.bytes.reserve_exact(wanted.saturating_sub(self.bytes.len()));
            self.bytes.resize(end, 0);
        }
        if let Some(place) = self.bytes.get_mut(start..end) {
            place.copy_from_slice(bytes);
        }
    }
}

fn index(position: u64) -> usize {
    // The remainder is below RING_BYTES, so it fits.
    (position % RING_BYTES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(ring: &ConsoleRing, position: &mut u64, step: usize) -> (u64, Vec<u8>) {
        let (mut skipped, mut bytes, mut buffer) = (0, Vec::new(), vec![0; step]);
        loop {
            let read = ring.read(position, &mut buffer);
            skipped += read.skipped;
            bytes.extend_from_slice(&buffer[..read.length]);
            if read.length == 0 {
                return (skipped, bytes);
            }
        }
    }

    proptest! {
        #[test]
        fn every_reader_gets_all_or_learns_what_it_missed(
            writes in proptest::collection::vec((0_usize..RING_BYTES * 5 / 2, any::<bool>()), 1..12),
            step in 1_usize..70_000,
        ) {
            let mut ring = ConsoleRing::new();
            let mut printed = Vec::new();
            let (mut position, mut got, mut missed) = (0, Vec::new(), 0);
            for (length, reads) in writes {
                let text: Vec<u8> = (0..length).map(|i| ((printed.len() + i) % 251) as u8).collect();
                ring.write(&text);
                printed.extend_from_slice(&text);
                if reads {
                    let before = position;
                    let (skipped, bytes) = read_all(&ring, &mut position, step);
                    let from = (before + skipped) as usize;
                    prop_assert_eq!(&printed[from..], &bytes[..]);
                    missed += skipped;
                    got.extend(bytes);
                }
            }
            prop_assert_eq!(ring.end(), printed.len() as u64);
            prop_assert_eq!(missed + got.len() as u64, position);
            let (_, newest) = read_all(&ring, &mut 0, step);
            prop_assert_eq!(&newest[..], &printed[printed.len().saturating_sub(RING_BYTES)..]);
            prop_assert!(ring.bytes.capacity() <= RING_BYTES);
        }
    }

    #[test]
    fn a_position_of_the_future_reads_nothing_and_is_put_right() {
        let mut ring = ConsoleRing::new();
        ring.write(b"abc");
        let mut position = 100;
        assert_eq!(ring.read(&mut position, &mut [0; 8]), RingRead { skipped: 0, length: 0 });
        assert_eq!(position, 3);
    }

    #[test]
    fn a_quiet_console_costs_no_memory() {
        let mut ring = ConsoleRing::new();
        ring.write(&[b'x'; 100]);
        assert!(ring.bytes.capacity() <= 128);
    }
}
