//! The newest bytes of an endless stream, each with its number. Pure.

use std::collections::VecDeque;

/// Keeps the newest `capacity` bytes. Grows with what it holds.
#[derive(Debug)]
pub struct Ring {
    bytes: VecDeque<u8>,
    capacity: usize,
    end: u64,
}

impl Ring {
    /// An empty one.
    pub fn new(capacity: usize) -> Self {
        Self { bytes: VecDeque::new(), capacity, end: 0 }
    }

    /// Adds bytes; the oldest make room.
    pub fn write(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let kept = bytes.get(bytes.len().saturating_sub(self.capacity)..).unwrap_or_default();
        let over = (self.bytes.len() + kept.len()).saturating_sub(self.capacity);
        self.bytes.drain(..over.min(self.bytes.len()));
        self.bytes.extend(kept);
    }

    /// Forgets what it holds; numbers go on.
    pub fn clear(&mut self) {
        self.bytes = VecDeque::new();
    }

    /// Number of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Number of the next byte to come.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// At most `most` bytes from number `from` on; from the oldest when that is gone.
    pub fn read(&self, from: u64, most: usize) -> Vec<u8> {
        let skip = usize::try_from(from.saturating_sub(self.start())).unwrap_or(usize::MAX).min(self.bytes.len());
        let last = skip.saturating_add(most).min(self.bytes.len());
        self.bytes.range(skip..last).copied().collect()
    }
}
