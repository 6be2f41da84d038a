//! The face of the socket device: its context id and its worker (virtio 1.3 sections 5.10.3 and 5.10.4).
//!
//! Called by vCPU threads under the transport's lock.

use std::sync::Arc;

use super::worker::{Queues, VsockWorker};
use crate::backend::vsock_unix::Host;
use crate::devices::config_space::read_config;
use crate::telemetry::QueueCounters;
use crate::virtio::{Activation, Device, DeviceType, GuestFault, Worker, WorkerError};

/// Entries of each queue: receive, transmit, event.
const QUEUE_SIZES: [u16; 3] = [256, 256, 16];
/// `VIRTIO_VSOCK_F_STREAM`.
const STREAM: u64 = 1 << 0;

/// A socket device.
pub struct Vsock {
    id: String,
    cid: u64,
    host: Arc<Host>,
    counters: [Arc<QueueCounters>; 3],
    /// Ids of connections go on over resets, so that an answer to an old request finds nobody.
    next_id: u32,
}

impl Vsock {
    /// A device for the guest with context id `cid` (at least 3), with `host` as the other side.
    pub fn new(id: impl Into<String>, cid: u32, host: Host) -> Self {
        let counters = std::array::from_fn(|_| Arc::default());
        Self { id: id.into(), cid: cid.into(), host: Arc::new(host), counters, next_id: 0 }
    }
}

impl Device for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn queue_sizes(&self) -> Vec<u16> {
        QUEUE_SIZES.to_vec()
    }

    fn features(&self) -> u64 {
        STREAM
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.cid.to_le_bytes(), offset, data);
    }

    fn counters(&self) -> Vec<Arc<QueueCounters>> {
        self.counters.to_vec()
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Box<dyn Worker>>, WorkerError> {
        let mut queues = activation.queues.into_iter();
        let (Some(receive), Some(transmit)) = (queues.next().flatten(), queues.next().flatten()) else {
            return Err(GuestFault::Protocol("The socket device lacks its receive or its transmit queue").into());
        };
        let [receive_counters, transmit_counters, _] = self.counters.clone();
        let queues = Queues {
            receive: (receive, receive_counters),
            transmit: (transmit, transmit_counters),
            _event: queues.next().flatten(),
        };
        // A worker can hand out no more ids than this before it is reset.
        self.next_id = self.next_id.wrapping_add(0x1000_0000);
        Ok(vec![Box::new(VsockWorker::new(self.cid, self.host.clone(), queues, self.next_id)?)])
    }

    fn reset(&mut self) {
        // The worker is gone, and with it every connection. The listener and the connector stay for the next one.
    }
}
