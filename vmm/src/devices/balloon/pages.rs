//! Which host pages can be given back for the page numbers that a driver lists.
//!
//! The balloon's worker runs it. A page number is the guest-physical address divided by 4096, whatever the host's page
//! size (section 5.5.6).

use std::collections::HashMap;

use crate::memory::{GuestMemory, PAGE_SIZE};
use crate::virtio::GuestFault;

/// The pages in a balloon, as far as they must be remembered.
pub(super) struct BalloonPages {
    memory: GuestMemory,
    // Adjacent small pages not yet given back, as (first byte, bytes): one system call for all of them.
    run: Option<(u64, u64)>,
    huge: Option<HugePages>,
}

/// Huge pages of which a part is in the balloon: a bit for each small page.
struct HugePages {
    page_bytes: u64,
    // At most one entry for each huge page of RAM: every number is checked to be RAM before it comes here.
    partial: HashMap<u64, Box<[u64]>>,
}

impl BalloonPages {
    /// For guest RAM on host pages of `page_bytes` (a power of two).
    pub(super) fn new(memory: GuestMemory, page_bytes: u64) -> Self {
        let huge = (page_bytes > PAGE_SIZE).then(|| HugePages { page_bytes, partial: HashMap::new() });
        Self { memory, run: None, huge }
    }

    /// The guest gives up page `number`. What can go back to the host goes by [`Self::flush`] at the latest.
    pub(super) fn inflate(&mut self, number: u32) -> Result<(), GuestFault> {
        let address = self.check(number)?;
        if let Some(huge) = &mut self.huge {
            return match huge.insert(address) {
                Some((start, len)) => self.give_back(start, len),
                None => Ok(()),
            };
        }
        // Linux lists neighbours in falling order as often as in rising order.
        let joined = self.run.and_then(|(start, len)| match address {
            _ if start.checked_add(len) == Some(address) => Some((start, len + PAGE_SIZE)),
            _ if address.checked_add(PAGE_SIZE) == Some(start) => Some((address, len + PAGE_SIZE)),
            _ => None,
        });
        // Neighbours in the address space may lie in different regions.
        let joined = joined.filter(|&(start, len)| self.memory.slice(start, len).is_ok());
        if joined.is_none() {
            self.flush()?;
        }
        self.run = joined.or(Some((address, PAGE_SIZE)));
        Ok(())
    }

    /// The guest uses page `number` again.
    pub(super) fn deflate(&mut self, number: u32) -> Result<(), GuestFault> {
        let address = self.check(number)?;
        if let Some(huge) = &mut self.huge {
            huge.remove(address);
        }
        Ok(())
    }

    /// Gives back the pages of the last run.
    pub(super) fn flush(&mut self) -> Result<(), GuestFault> {
        match self.run.take() {
            Some((start, len)) => self.give_back(start, len),
            None => Ok(()),
        }
    }

    fn check(&self, number: u32) -> Result<u64, GuestFault> {
        let (address, len) = (u64::from(number) * PAGE_SIZE, PAGE_SIZE);
        self.memory.slice(address, len).map_err(|_| GuestFault::OutsideMemory { address, len })?;
        Ok(address)
    }

    fn give_back(&self, address: u64, len: u64) -> Result<(), GuestFault> {
        self.memory.discard(address, len).map_err(|_| GuestFault::OutsideMemory { address, len })
    }
}

impl HugePages {
    /// Notes a small page; returns the huge page as (first byte, bytes) when all of it is in the balloon now.
    fn insert(&mut self, address: u64) -> Option<(u64, u64)> {
        let (start, word, bit) = self.place(address);
        let words = usize::try_from((self.page_bytes / PAGE_SIZE).div_ceil(64)).ok()?;
        let bits = self.partial.entry(start).or_insert_with(|| vec![0; words].into());
        *bits.get_mut(word)? |= bit;
        if bits.iter().any(|word| *word != u64::MAX) {
            return None;
        }
        self.partial.remove(&start);
        Some((start, self.page_bytes))
    }

    fn remove(&mut self, address: u64) {
        let (start, word, bit) = self.place(address);
        let Some(bits) = self.partial.get_mut(&start) else { return };
        if let Some(word) = bits.get_mut(word) {
            *word &= !bit;
        }
        if bits.iter().all(|word| *word == 0) {
            self.partial.remove(&start);
        }
    }

    /// First byte of the huge page that holds `address`, and the word and bit of its small page.
    fn place(&self, address: u64) -> (u64, usize, u64) {
        let start = address & !(self.page_bytes - 1);
        let index = (address - start) / PAGE_SIZE;
        (start, (index / 64) as usize, 1 << (index % 64))
    }
}
