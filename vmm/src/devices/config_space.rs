//! What devices share about their configuration space (section 2.5): a guest's reads of it, and the interrupt by which
//! the host tells of a change.
//!
//! Reads come from vCPU threads. The control thread raises the interrupt; the transport's calls of `activate` and
//! `reset` (vCPU threads) attach and detach it.

use std::sync::{Arc, Mutex, PoisonError};

use crate::virtio::Interrupt;

/// Answers a guest's read of `config` at any `offset`: what lies beyond the end reads as zero.
pub(super) fn read_config(config: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let from = usize::try_from(offset).ok().and_then(|at| config.get(at..)).unwrap_or_default();
    data.iter_mut().zip(from).for_each(|(to, byte)| *to = *byte);
}

/// Raises the interrupt of the driver that is active now, if there is one.
#[derive(Default)]
pub(super) struct ConfigSignal {
    active: Mutex<Option<Arc<dyn Interrupt>>>,
}

impl ConfigSignal {
    /// A driver is there, or gone.
    pub(super) fn set(&self, interrupt: Option<Arc<dyn Interrupt>>) {
        *self.active.lock().unwrap_or_else(PoisonError::into_inner) = interrupt;
    }

    /// Tells the driver that the configuration changed (section 2.5); without a driver nobody needs to be told.
    pub(super) fn raise(&self) {
        // Cloned out of the lock: the transport may hold its own lock while it calls `set`.
        let active = self.active.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(interrupt) = active {
            interrupt.signal_config();
        }
    }
}
