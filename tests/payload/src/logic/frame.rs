//! The test frames: Ethernet with a local experimental type, a sequence number, and a pattern that follows from it. Pure.
//!
//! ```text
//! 0      6      12       14        22
//! | to   | from | 0x88b5 | number  | pattern of the number …
//! ```

use crate::pattern;

/// Ethernet type for local experiments (IEEE 802).
pub const TYPE: [u8; 2] = [0x88, 0xb5];
/// Bytes before the pattern.
pub const HEAD: usize = 22;
/// The smallest frame without its check sequence.
pub const SMALLEST: usize = 60;
/// The largest, for an MTU of 1500.
pub const LARGEST: usize = 1514;

/// An Ethernet address.
pub type Address = [u8; 6];

/// Writes a frame of the buffer's length, which must be at least [`SMALLEST`].
pub fn write(frame: &mut [u8], to: Address, from: Address, number: u64) {
    let (head, body) = frame.split_at_mut(HEAD);
    head[..6].copy_from_slice(&to);
    head[6..12].copy_from_slice(&from);
    head[12..14].copy_from_slice(&TYPE);
    head[14..].copy_from_slice(&number.to_le_bytes());
    pattern::fill(body, number);
}

/// Whether it is one of ours (others are on every network).
pub fn is_ours(frame: &[u8]) -> bool {
    frame.len() >= SMALLEST && frame.get(12..14) == Some(&TYPE)
}

/// The number of a frame of ours, if its pattern is whole.
pub fn number(frame: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*frame.get(14..HEAD)?.first_chunk()?);
    (pattern::first_difference(frame.get(HEAD..)?, number).is_none()).then_some(number)
}

/// Makes an answer of a frame: to where it came from.
pub fn turn(frame: &mut [u8]) {
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        addresses.rotate_left(6);
    }
}

/// The length of the frame with a number: all lengths come up, the shortest and the longest first.
pub fn length_of(number: u64) -> usize {
    match number {
        0 => SMALLEST,
        1 => LARGEST,
        number => SMALLEST + (number as usize * 97) % (LARGEST - SMALLEST + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_as_it_went_or_is_found_out() {
        let (to, from) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let mut frame = [0; 100];
        write(&mut frame, to, from, 42);
        turn(&mut frame);
        assert!(is_ours(&frame));
        assert_eq!(frame[..6], from);
        assert_eq!(frame[6..12], to);
        assert_eq!(number(&frame), Some(42));
        frame[99] ^= 1;
        assert_eq!(number(&frame), None);
    }

    #[test]
    fn lengths_are_legal() {
        assert!((0..10_000).all(|number| (SMALLEST..=LARGEST).contains(&length_of(number))));
    }
}
