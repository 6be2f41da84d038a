//! Split virtqueues, device side (virtio 1.3 section 2.7).
//!
//! Used by one worker at a time. Ring areas are resolved and bounds-checked once, when the driver enables the queue;
//! each descriptor is read once, into a [`Chain`] whose buffers are known to lie in guest RAM. What the guest does to
//! the rings later can confuse only itself.

use std::num::Wrapping;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::bindings::virtio_ring::{
    VRING_AVAIL_F_NO_INTERRUPT, VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE, VRING_USED_F_NO_NOTIFY,
};
use vm_memory::ByteValued;
use vmm_sys_util::eventfd::EventFd;

use super::device::GuestFault;
use crate::memory::{GuestMemory, GuestSlice, OutsideMemory};

const DESCRIPTOR_SIZE: usize = 16;

/// A descriptor as it lies in guest memory (section 2.7.5).
#[derive(Clone, Copy)]
struct RawDescriptor {
    address: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// Reads descriptor `index` of `table` in one copy.
fn read_descriptor(table: &GuestSlice, index: usize) -> Option<RawDescriptor> {
    let words: [u64; 2] = table.read_obj(index.checked_mul(DESCRIPTOR_SIZE)?)?;
    let [address, rest] = words.map(u64::from_le);
    Some(RawDescriptor { address, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 })
}

/// How a device interrupts its driver. The transport implements it.
pub trait Interrupt: Send + Sync {
    /// Used buffers of this queue are waiting (section 2.7.8).
    fn signal_queue(&self, queue: u16);
    /// The device's configuration changed (section 2.5).
    fn signal_config(&self);
}

/// A list of guest buffers, seen as one run of bytes.
#[derive(Debug, Default, Clone)]
pub struct SliceList {
    slices: Vec<GuestSlice>,
    len: u32,
}

impl SliceList {
    /// Total length in bytes.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is not one byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The buffers in order.
    pub fn slices(&self) -> &[GuestSlice] {
        &self.slices
    }

    /// Forgets all buffers; keeps the allocation.
    pub fn clear(&mut self) {
        self.slices.clear();
        self.len = 0;
    }

    /// Appends a buffer; `None` when the total would pass 2^32 - 1 bytes.
    pub fn push(&mut self, slice: GuestSlice) -> Option<()> {
        self.len = self.len.checked_add(u32::try_from(slice.len()).ok()?)?;
        self.slices.push(slice);
        Some(())
    }

    /// Copies bytes at `offset` into `to`; returns how many were there.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> usize {
        let mut done = 0;
        self.walk(offset, |slice, skip| {
            let Some(rest) = to.get_mut(done..) else { return false };
            done += slice.read(skip, rest);
            done < to.len()
        });
        done
    }

    /// Copies `from` to `offset`; returns how many bytes had room.
    pub fn write(&self, offset: usize, from: &[u8]) -> usize {
        let mut done = 0;
        self.walk(offset, |slice, skip| {
            let Some(rest) = from.get(done..) else { return false };
            done += slice.write(skip, rest);
            done < from.len()
        });
        done
    }

    /// Copies a plain value from `offset`; `None` when the list is too short.
    pub fn read_obj<T: ByteValued>(&self, offset: usize) -> Option<T> {
        let mut value = T::zeroed();
        let bytes = value.as_mut_slice();
        let wanted = bytes.len();
        (self.read(offset, bytes) == wanted).then_some(value)
    }

    /// Copies the buffers of `offset..offset + len` into `out` (cleared first); `None` when the list is too short.
    pub fn sub_into(&self, offset: usize, len: usize, out: &mut SliceList) -> Option<()> {
        out.clear();
        let mut left = len;
        let mut fits = Some(());
        self.walk(offset, |slice, skip| {
            let take = slice.len().saturating_sub(skip).min(left);
            if take > 0 {
                fits = slice.sub(skip, take).and_then(|part| out.push(part));
            }
            left -= take;
            left > 0 && fits.is_some()
        });
        (left == 0).then_some(())?;
        fits
    }

    /// Calls `each(slice, offset in it)` from the slice that holds `offset` on, until it returns false.
    fn walk(&self, offset: usize, mut each: impl FnMut(&GuestSlice, usize) -> bool) {
        let mut skip = offset;
        for slice in &self.slices {
            if skip >= slice.len() {
                skip -= slice.len();
                continue;
            }
            if !each(slice, skip) {
                return;
            }
            skip = 0;
        }
    }
}

/// One request of the driver: the buffers of a descriptor chain, checked.
#[derive(Debug, Default)]
pub struct Chain {
    head: u16,
    /// What the device may read.
    pub readable: SliceList,
    /// What the device may write.
    pub writable: SliceList,
}

impl Chain {
    /// Index of the chain's first descriptor: names the request until it is given back.
    pub fn head(&self) -> u16 {
        self.head
    }
}

/// Where the driver put the rings (section 4.1.4.3), before any check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLayout {
    /// Entries; a power of two.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the available ring (driver area).
    pub available: u64,
    /// Guest-physical address of the used ring (device area).
    pub used: u64,
}

/// A virtqueue that the driver has enabled.
pub struct Queue {
    memory: GuestMemory,
    layout: QueueLayout,
    index: u16,
    size: u16,
    descriptors: GuestSlice,
    available: GuestSlice,
    used: GuestSlice,
    next_avail: Wrapping<u16>,
    next_used: Wrapping<u16>,
    signalled_used: Wrapping<u16>,
    in_flight: u16,
    event_idx: bool,
    polling: bool,
    kick: Arc<EventFd>,
    interrupt: Arc<dyn Interrupt>,
    spare: Vec<Chain>,
}

/// What a queue needs besides its rings.
pub struct QueueWiring {
    /// Its number in the device.
    pub index: u16,
    /// Signalled when the driver kicks it.
    pub kick: Arc<EventFd>,
    /// How it interrupts the driver.
    pub interrupt: Arc<dyn Interrupt>,
    /// Whether `VIRTIO_F_EVENT_IDX` was agreed on.
    pub event_idx: bool,
}

impl Queue {
    /// Resolves the rings of `layout`; an error when they are not in RAM, not aligned (section 2.7) or not a power of two.
    pub fn new(memory: GuestMemory, layout: QueueLayout, wiring: QueueWiring) -> Result<Self, GuestFault> {
        let QueueWiring { index, kick, interrupt, event_idx } = wiring;
        let entries = u64::from(layout.size);
        let aligned = layout.descriptors.is_multiple_of(16)
            && layout.available.is_multiple_of(2)
            && layout.used.is_multiple_of(4);
        if !layout.size.is_power_of_two() || !aligned {
            return Err(GuestFault::Ring { queue: index });
        }
        let slice = |address, len| {
            memory
                .slice(address, len)
                .map_err(|OutsideMemory { address, len }| GuestFault::OutsideMemory { address, len })
        };
        Ok(Self {
            descriptors: slice(layout.descriptors, entries * 16)?,
            available: slice(layout.available, 6 + entries * 2)?,
            used: slice(layout.used, 6 + entries * 8)?,
            memory,
            layout,
            index,
            size: layout.size,
            next_avail: Wrapping(0),
            next_used: Wrapping(0),
            signalled_used: Wrapping(0),
            in_flight: 0,
            event_idx,
            polling: false,
            kick,
            interrupt,
            spare: Vec::new(),
        })
    }

    /// Number of the queue in its device.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Size in entries.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where the rings are.
    pub fn layout(&self) -> QueueLayout {
        self.layout
    }

    /// Where the rings are, for a back end in the kernel: descriptor table, available ring, used ring.
    pub fn rings(&self) -> [GuestSlice; 3] {
        [self.descriptors, self.available, self.used]
    }

    /// How far a back end in the kernel has come: the used index as the driver sees it.
    pub fn used_index(&self) -> Result<u16, GuestFault> {
        self.used.load_u16(2, Ordering::Acquire).ok_or(self.ring_fault())
    }

    /// Interrupts the driver: a back end in the kernel found that it wants to be told.
    pub fn interrupt(&self) {
        self.interrupt.signal_queue(self.index);
    }

    /// The next available and used indices, for back ends in the kernel and for saved state.
    pub fn positions(&self) -> (u16, u16) {
        (self.next_avail.0, self.next_used.0)
    }

    /// Continues at saved indices.
    pub fn set_positions(&mut self, next_avail: u16, next_used: u16) {
        self.next_avail = Wrapping(next_avail);
        self.next_used = Wrapping(next_used);
        self.signalled_used = self.next_used;
    }

    /// The fd that becomes readable when the driver kicks: a [`super::Source`] of the worker.
    pub fn kick_fd(&self) -> RawFd {
        self.kick.as_raw_fd()
    }

    /// Takes note of a kick, so that its fd is not readable any more.
    pub fn clear_kick(&self) {
        // An error here is EAGAIN: the kick was cleared already.
        let _ = self.kick.read();
    }

    /// Wakes the queue's own worker, as a kick would.
    pub fn kick_self(&self) {
        // An error here is EAGAIN on a full counter: it is readable all the more.
        let _ = self.kick.write(1);
    }

    fn ring_fault(&self) -> GuestFault {
        GuestFault::Ring { queue: self.index }
    }

    /// How many chains the driver has made available and we have not taken.
    #[inline]
    pub fn pending(&self) -> Result<u16, GuestFault> {
        let index = self.available.load_u16(2, Ordering::Acquire).ok_or(self.ring_fault())?;
        let ahead = Wrapping(index) - self.next_avail;
        if ahead.0 > self.size {
            return Err(GuestFault::AvailIndex { index, next: self.next_avail.0, size: self.size });
        }
        Ok(ahead.0)
    }

    /// Takes the next chain; `None` when the driver has none for us.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Chain>, GuestFault> {
        if self.pending()? == 0 {
            return Ok(None);
        }
        // A driver cannot own fewer descriptors than none; without this bound it could make us hold any number of chains.
        if self.in_flight >= self.size {
            return Err(GuestFault::Protocol("More chains in flight than the queue has entries"));
        }
        let slot = usize::from(self.next_avail.0 & (self.size - 1));
        let head = self.available.load_u16(4 + slot * 2, Ordering::Relaxed).ok_or(self.ring_fault())?;
        let mut chain = self.spare.pop().unwrap_or_default();
        chain.head = head;
        chain.readable.clear();
        chain.writable.clear();
        self.fill(&mut chain)?;
        self.next_avail += 1;
        self.in_flight += 1;
        Ok(Some(chain))
    }

    /// Puts the chain taken last back, to be taken again later.
    pub fn unpop(&mut self, chain: Chain) {
        self.next_avail -= 1;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.spare.push(chain);
    }

    /// Follows the chain's descriptors (section 2.7.5): each is read once and checked.
    fn fill(&self, chain: &mut Chain) -> Result<(), GuestFault> {
        let head = chain.head;
        let mut table = self.descriptors;
        let mut entries = u32::from(self.size);
        let mut index = head;
        let mut seen = 0_u32;
        let mut indirect = false;
        loop {
            if u32::from(index) >= entries {
                return Err(GuestFault::DescriptorIndex { index, size: entries });
            }
            if seen >= entries {
                return Err(GuestFault::Loop { head });
            }
            seen += 1;
            let descriptor = read_descriptor(&table, usize::from(index)).ok_or(self.ring_fault())?;
            let flags = u32::from(descriptor.flags);
            if flags & VRING_DESC_F_INDIRECT != 0 {
                if indirect || flags & VRING_DESC_F_NEXT != 0 {
                    return Err(GuestFault::Indirect { head, len: descriptor.len });
                }
                (table, entries) = self.indirect_table(head, descriptor)?;
                (index, seen, indirect) = (0, 0, true);
                continue;
            }
            self.add_buffer(chain, descriptor)?;
            if flags & VRING_DESC_F_NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    fn indirect_table(&self, head: u16, descriptor: RawDescriptor) -> Result<(GuestSlice, u32), GuestFault> {
        let RawDescriptor { address, len, .. } = descriptor;
        let entries = len / DESCRIPTOR_SIZE as u32;
        // A table longer than the queue is against section 2.7.5.3.1; Linux allows itself more, up to its segment limit.
        if !len.is_multiple_of(DESCRIPTOR_SIZE as u32) || entries == 0 || entries > u32::from(u16::MAX) {
            return Err(GuestFault::Indirect { head, len });
        }
        let table = self.memory.slice(address, u64::from(len));
        Ok((table.map_err(|_| GuestFault::OutsideMemory { address, len: u64::from(len) })?, entries))
    }

    fn add_buffer(&self, chain: &mut Chain, descriptor: RawDescriptor) -> Result<(), GuestFault> {
        let RawDescriptor { address, len, flags, .. } = descriptor;
        let writable = u32::from(flags) & VRING_DESC_F_WRITE != 0;
        if !writable && !chain.writable.slices.is_empty() {
            return Err(GuestFault::Order { head: chain.head });
        }
        if len == 0 {
            return Ok(());
        }
        let buffer = self.memory.slice(address, u64::from(len));
        let buffer = buffer.map_err(|_| GuestFault::OutsideMemory { address, len: u64::from(len) })?;
        let list = if writable { &mut chain.writable } else { &mut chain.readable };
        list.push(buffer).ok_or(GuestFault::Length { head: chain.head, reason: "more than 2^32 bytes" })
    }

    /// Gives a chain back, with `len` bytes written into its writable part (section 2.7.8). The driver sees it at once.
    #[inline]
    pub fn push(&mut self, chain: Chain, len: u32) -> Result<(), GuestFault> {
        self.push_unpublished(chain, len, 0)?;
        self.publish(1)
    }

    /// Writes the used entry `ahead` places behind the last published one, without showing it to the driver yet.
    /// With [`Self::publish`], several chains appear at once (mergeable receive buffers, section 5.1.6.4).
    pub fn push_unpublished(&mut self, chain: Chain, len: u32, ahead: u16) -> Result<(), GuestFault> {
        let slot = usize::from((self.next_used + Wrapping(ahead)).0 & (self.size - 1));
        let element = u64::from(chain.head) | u64::from(len) << 32;
        self.used.write_obj(4 + slot * 8, &element.to_le()).ok_or(self.ring_fault())?;
        self.in_flight = self.in_flight.saturating_sub(1);
        self.spare.push(chain);
        Ok(())
    }

    /// Shows the next `count` used entries to the driver.
    pub fn publish(&mut self, count: u16) -> Result<(), GuestFault> {
        self.next_used += count;
        self.used.store_u16(2, self.next_used.0, Ordering::Release).ok_or(self.ring_fault())
    }

    /// Interrupts the driver if it wants to be told of what was pushed since the last call (section 2.7.10).
    #[inline]
    pub fn signal(&mut self) -> Result<(), GuestFault> {
        let new = self.next_used;
        let old = std::mem::replace(&mut self.signalled_used, new);
        if new == old {
            return Ok(());
        }
        // The used index must be visible before the driver's wish is read.
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.available.load_u16(4 + usize::from(self.size) * 2, Ordering::Relaxed);
            let event = Wrapping(event.ok_or(self.ring_fault())?);
            (new - event - Wrapping(1)) < (new - old)
        } else {
            let flags = self.available.load_u16(0, Ordering::Relaxed).ok_or(self.ring_fault())?;
            u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0
        };
        if wanted {
            self.interrupt.signal_queue(self.index);
        }
        Ok(())
    }

    /// Asks the driver for no kicks (section 2.7.10): the worker is going to look by itself.
    pub fn disable_kicks(&mut self) -> Result<(), GuestFault> {
        if self.polling {
            return Ok(());
        }
        self.polling = true;
        if self.event_idx {
            // The event index stays behind: no kick until it is moved again.
            return Ok(());
        }
        self.used.store_u16(0, VRING_USED_F_NO_NOTIFY as u16, Ordering::Relaxed).ok_or(self.ring_fault())
    }

    /// Asks the driver for kicks; true when chains are waiting already, for which no kick may come.
    pub fn enable_kicks(&mut self) -> Result<bool, GuestFault> {
        self.polling = false;
        let stored = if self.event_idx {
            self.used.store_u16(4 + usize::from(self.size) * 8, self.next_avail.0, Ordering::Relaxed)
        } else {
            self.used.store_u16(0, 0, Ordering::Relaxed)
        };
        stored.ok_or(self.ring_fault())?;
        // The wish must be visible before the available index is read again.
        fence(Ordering::SeqCst);
        Ok(self.pending()? != 0)
    }

    /// Takes chains one after the other until none is left, with kicks asked for again at the end unless the queue is
    /// being polled. `each` gives the chain back by [`Self::push`], keeps it, or returns it to have it put back, which
    /// ends the loop with kicks left alone.
    pub fn drain(
        &mut self,
        mut each: impl FnMut(&mut Self, Chain) -> Result<Option<Chain>, super::WorkerError>,
    ) -> Result<(), super::WorkerError> {
        loop {
            while let Some(chain) = self.pop()? {
                if let Some(back) = each(self, chain)? {
                    self.unpop(back);
                    return Ok(());
                }
            }
            if self.polling || !self.enable_kicks()? {
                return Ok(());
            }
        }
    }
}
