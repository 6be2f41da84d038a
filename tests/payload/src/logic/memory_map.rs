//! The boot loader's memory map, as far as the payload needs it: one piece of RAM for its heap. Pure.

/// A piece of RAM in guest-physical bytes, end exclusive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ram {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
}

/// What is assumed when the loader gives no map: nobody runs the payload with less.
const ASSUMED_END: u64 = 64 << 20;
/// Static page tables end here.
const MAPPED_END: u64 = 4 << 30;

/// The heap: from `image_end` to the end of the RAM that holds it.
pub fn heap(image_end: u64, ram: impl Iterator<Item = Ram>) -> Ram {
    let end = ram
        .filter(|piece| piece.start <= image_end && image_end < piece.end)
        .map(|piece| piece.end.min(MAPPED_END))
        .max()
        .unwrap_or(ASSUMED_END);
    Ram { start: image_end.next_multiple_of(4096), end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heap_is_the_rest_of_the_piece_that_holds_the_image() {
        let map = [
            Ram { start: 0, end: 0x9_fc00 },
            Ram { start: 0x10_0000, end: 0x800_0000 },
            Ram { start: 1 << 32, end: 2 << 32 },
        ];
        assert_eq!(heap(0x21_a001, map.into_iter()), Ram { start: 0x21_b000, end: 0x800_0000 });
        assert_eq!(heap(0x21_a000, core::iter::empty()).end, ASSUMED_END);
    }
}
