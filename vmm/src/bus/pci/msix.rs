//! MSI-X: the vector table, the pending bits, and delivery (PCI 3.0 section 6.8.2).
//!
//! The guest's accesses come from vCPU threads, signals from I/O threads. A message goes straight to the sink: no
//! interrupt routing table has to be kept in the kernel, which would be rewritten at every change of a vector.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bus::MsiSink;

/// Bytes of a table entry (section 6.8.2.4).
pub const MSIX_ENTRY_SIZE: u64 = 16;
/// The vector number that means "no interrupt" (virtio 1.3 section 4.1.4.3).
pub const NO_VECTOR: u16 = 0xffff;

const VECTOR_MASKED: u8 = 1;
const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_FUNCTION_MASK: u16 = 1 << 14;

#[derive(Clone, Copy)]
struct Entry {
    bytes: [u8; MSIX_ENTRY_SIZE as usize],
    pending: bool,
}

/// Entries start masked (section 6.8.2.9).
const INITIAL: Entry = {
    let mut bytes = [0; MSIX_ENTRY_SIZE as usize];
    bytes[12] = VECTOR_MASKED;
    Entry { bytes, pending: false }
};

impl Entry {
    fn masked(&self) -> bool {
        self.bytes[12] & VECTOR_MASKED != 0
    }

    fn message(&self) -> (u64, u32) {
        let (address, rest) = self.bytes.split_at(8);
        let (data, _control) = rest.split_at(4);
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        (number(address), number(data) as u32)
    }
}

struct State {
    control: u16,
    entries: Vec<Entry>,
}

/// A function's MSI-X vectors.
pub struct Msix {
    state: Mutex<State>,
    sink: Arc<dyn MsiSink>,
}

impl Msix {
    /// `vectors` vectors, all masked, delivering to `sink`.
    pub fn new(vectors: u16, sink: Arc<dyn MsiSink>) -> Self {
        let entries = vec![INITIAL; usize::from(vectors)];
        Self { state: Mutex::new(State { control: 0, entries }), sink }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.lock().entries.len() as u16
    }

    /// Raises a vector: delivered now, or kept pending while masked. [`NO_VECTOR`] and unknown vectors are dropped.
    pub fn signal(&self, vector: u16) {
        let mut state = self.lock();
        let enabled = state.control & CONTROL_ENABLE != 0;
        let masked = state.control & CONTROL_FUNCTION_MASK != 0;
        let Some(entry) = state.entries.get_mut(usize::from(vector)) else { return };
        if !enabled {
            return;
        }
        if masked || entry.masked() {
            entry.pending = true;
            return;
        }
        let (address, data) = entry.message();
        drop(state);
        self.send(address, data);
    }

    fn send(&self, address: u64, data: u32) {
        if let Err(error) = self.sink.signal(address, data) {
            // A guest can put any address there; the message then goes nowhere, as on hardware.
            log::debug!("MSI-X message {data:#x} to {address:#x} was not delivered: {error}");
        }
    }

    /// Reads the table at `offset`.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (byte, at) in data.iter_mut().zip(offset..) {
            let entry = state.entries.get((at / MSIX_ENTRY_SIZE) as usize);
            *byte = entry.and_then(|e| e.bytes.get((at % MSIX_ENTRY_SIZE) as usize)).copied().unwrap_or(0);
        }
    }

    /// Writes the table at `offset`; a vector that becomes unmasked delivers what was pending.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        let mut state = self.lock();
        for (new, at) in data.iter().zip(offset..) {
            let entry = state.entries.get_mut((at / MSIX_ENTRY_SIZE) as usize);
            if let Some(byte) = entry.and_then(|e| e.bytes.get_mut((at % MSIX_ENTRY_SIZE) as usize)) {
                *byte = *new;
            }
        }
        self.deliver_pending(state);
    }

    /// Reads the pending bits at `offset` (section 6.8.2.10).
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let state = self.lock();
        for (byte, at) in data.iter_mut().zip(offset..) {
            let first = (at as usize).saturating_mul(8);
            let bits = state.entries.iter().skip(first).take(8).enumerate();
            *byte = bits.fold(0, |sum, (bit, entry)| sum | u8::from(entry.pending) << bit);
        }
    }

    /// Takes note of the message control register (section 6.8.2.3).
    pub fn set_control(&self, control: u16) {
        let mut state = self.lock();
        state.control = control;
        self.deliver_pending(state);
    }

    fn deliver_pending(&self, mut state: MutexGuard<'_, State>) {
        if state.control & CONTROL_ENABLE == 0 || state.control & CONTROL_FUNCTION_MASK != 0 {
            return;
        }
        let ready = state.entries.iter_mut().filter(|e| e.pending && !e.masked());
        let messages: Vec<_> = ready
            .map(|entry| {
                entry.pending = false;
                entry.message()
            })
            .collect();
        drop(state);
        for (address, data) in messages {
            self.send(address, data);
        }
    }

    /// Back to power-on: disabled, every vector masked, nothing pending.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.control = 0;
        state.entries.fill(INITIAL);
    }
}
