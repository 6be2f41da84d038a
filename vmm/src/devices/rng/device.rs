//! The face of virtio-rng: no features, no configuration, one queue (section 5.4.2).
//!
//! Called by vCPU threads under the transport's lock.

use std::sync::Arc;

use super::worker::{Budget, RngWorker};
use crate::telemetry::QueueCounters;
use crate::virtio::{Activation, Device, DeviceType, GuestFault, HostError, Worker, WorkerError};

const QUEUE_SIZE: u16 = 64;

/// An entropy source.
pub struct Rng {
    id: String,
    // Kept over resets: a guest gains no entropy by resetting the device.
    budget: Arc<Budget>,
    counters: Arc<QueueCounters>,
}

impl Rng {
    /// A device of this name; an error when the host gives no timer.
    pub fn new(id: impl Into<String>) -> Result<Self, HostError> {
        Ok(Self { id: id.into(), budget: Arc::new(Budget::new()?), counters: Arc::default() })
    }
}

impl Device for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn counters(&self) -> Vec<Arc<QueueCounters>> {
        vec![self.counters.clone()]
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Box<dyn Worker>>, WorkerError> {
        let queue = activation.queues.into_iter().next().flatten();
        let queue = queue.ok_or(GuestFault::Protocol("The entropy device's queue is not enabled"))?;
        Ok(vec![Box::new(RngWorker::new(queue, self.budget.clone(), self.counters.clone()))])
    }

    fn reset(&mut self) {}
}
