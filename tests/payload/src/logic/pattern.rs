//! Reproducible bytes: what a buffer must hold follows from a seed, so that both ends can check without a copy. Pure.

/// A small generator (xorshift64*); the same seed gives the same numbers for ever.
#[derive(Clone, Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// Starts at `seed`; neighbouring seeds give unrelated numbers.
    pub fn new(seed: u64) -> Self {
        let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self((mixed ^ (mixed >> 31)) | 1)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }
}

/// Fills `bytes` with what `seed` stands for.
pub fn fill(bytes: &mut [u8], seed: u64) {
    let mut sequence = Sequence::new(seed);
    for chunk in bytes.chunks_mut(8) {
        let word = sequence.draw().to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// The offset of the first byte that is not what `seed` stands for.
pub fn first_difference(bytes: &[u8], seed: u64) -> Option<usize> {
    let mut sequence = Sequence::new(seed);
    for (index, chunk) in bytes.chunks(8).enumerate() {
        let word = sequence.draw().to_le_bytes();
        if let Some(offset) = chunk.iter().zip(word).position(|(is, should)| *is != should) {
            return Some(index * 8 + offset);
        }
    }
    None
}

/// A running FNV-1a sum of a byte stream, however it is cut into pieces.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StreamSum(u64);

impl Default for StreamSum {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl StreamSum {
    /// Adds the stream's next bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The sum of all bytes so far.
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_recognised_and_a_flipped_bit_is_found() {
        let mut bytes = [0; 1003];
        fill(&mut bytes, 7);
        assert_eq!(first_difference(&bytes, 7), None);
        assert!(first_difference(&bytes, 8).is_some());
        bytes[777] ^= 0x10;
        assert_eq!(first_difference(&bytes, 7), Some(777));
    }

    #[test]
    fn a_stream_sum_does_not_depend_on_the_pieces() {
        let (mut whole, mut pieces) = (StreamSum::default(), StreamSum::default());
        whole.add(b"foobar");
        b"foobar".chunks(4).for_each(|piece| pieces.add(piece));
        assert_eq!(whole, pieces);
        assert_eq!(whole.value(), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn numbers_stay_below_their_bound() {
        let mut sequence = Sequence::new(1);
        assert!((0..1000).all(|_| sequence.below(3) < 3));
    }
}
