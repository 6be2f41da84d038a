//! The face of the network card: features, configuration, activation (virtio 1.3 sections 5.1.3 to 5.1.5).
//!
//! Called by vCPU threads under the transport's lock.

use std::sync::{Arc, Mutex};

use virtio_bindings::bindings::virtio_net as spec;

use super::control::Control;
use super::vhost::{Shelf, VhostPair, Wires};
use super::worker::Pair;
use crate::backend::tap::{Offloads, Tap};
use crate::backend::vhost_net::VhostNet;
use crate::devices::config_space::read_config;
use crate::devices::limits::{Meter, SharedLimits};
use crate::telemetry::QueueCounters;
use crate::virtio::rate_limit::RateLimit;
use crate::virtio::{Activation, Device, DeviceType, GuestFault, HostError, Queue, Worker, WorkerError};

/// Entries of a receive or transmit queue.
const QUEUE_SIZE: u16 = 256;
/// Entries of the control queue.
const CONTROL_QUEUE_SIZE: u16 = 64;

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// A network card on a tap.
pub struct Net {
    id: String,
    mac: Option<MacAddress>,
    tap: Arc<Tap>,
    limits: Arc<SharedLimits>,
    /// One for each pair, or none: the frames are moved here.
    vhost: Vec<Shelf>,
    counters: Vec<Arc<QueueCounters>>,
}

impl Net {
    /// A card on `tap` with as many queue pairs as the tap has queues. Without a `mac` the guest invents one.
    ///
    /// # Errors
    /// The host gives no timer.
    pub fn new(id: impl Into<String>, mac: Option<MacAddress>, tap: Tap) -> Result<Self, HostError> {
        let limits = Arc::new(SharedLimits::new(RateLimit::default(), tap.queues().len() as u16)?);
        let mut card = Self { id: id.into(), mac, tap: Arc::new(tap), limits, vhost: Vec::new(), counters: Vec::new() };
        card.counters = card.queue_sizes().iter().map(|_| Arc::default()).collect();
        Ok(card)
    }

    /// Has the host's kernel move the frames: one device for each queue pair.
    pub fn over_vhost(mut self, devices: Vec<VhostNet>) -> Self {
        self.vhost = devices.into_iter().map(|device| Arc::new(Mutex::new(Some(device)))).collect();
        self
    }

    /// The limits, to be changed while the guest runs; `None` where the host's kernel moves the frames, which knows none.
    pub fn limits(&self) -> Option<Arc<SharedLimits>> {
        self.vhost.is_empty().then(|| self.limits.clone())
    }

    fn pairs(&self) -> u16 {
        self.tap.queues().len() as u16
    }

    /// The configuration space (section 5.1.4) up to `mtu`.
    fn config(&self) -> [u8; 12] {
        let [m0, m1, m2, m3, m4, m5] = self.mac.unwrap_or_default();
        let [s0, s1] = (spec::VIRTIO_NET_S_LINK_UP as u16).to_le_bytes();
        let [p0, p1] = self.pairs().to_le_bytes();
        let [u0, u1] = self.tap.mtu().unwrap_or_default().to_le_bytes();
        [m0, m1, m2, m3, m4, m5, s0, s1, p0, p1, u0, u1]
    }

    /// The worker of one queue pair.
    fn pair(&self, wires: Wires, queues: (Queue, Queue)) -> Result<Box<dyn Worker>, WorkerError> {
        let counters = (self.counter(&queues.0), self.counter(&queues.1));
        if let Some(shelf) = self.vhost.get(wires.index) {
            return Ok(Box::new(VhostPair::new(wires, shelf, queues, counters)?));
        }
        let missing = GuestFault::Protocol("More queue pairs than the network card has");
        let meter = Meter::new(&self.limits, wires.index).ok_or(missing)?;
        let mergeable = has(wires.features, spec::VIRTIO_NET_F_MRG_RXBUF);
        Ok(Box::new(Pair::new((wires.tap, wires.index), meter, queues, counters, mergeable)?))
    }

    fn counter(&self, queue: &Queue) -> Arc<QueueCounters> {
        self.counters.get(usize::from(queue.index())).cloned().unwrap_or_default()
    }
}

/// Whether feature bit `bit` is among `features`.
fn has(features: u64, bit: u32) -> bool {
    features & (1 << bit) != 0
}

/// What the driver takes unfinished.
fn offloads(features: u64) -> Offloads {
    Offloads {
        checksum: has(features, spec::VIRTIO_NET_F_GUEST_CSUM),
        tso4: has(features, spec::VIRTIO_NET_F_GUEST_TSO4),
        tso6: has(features, spec::VIRTIO_NET_F_GUEST_TSO6),
        ecn: has(features, spec::VIRTIO_NET_F_GUEST_ECN),
        uso4: has(features, spec::VIRTIO_NET_F_GUEST_USO4),
        uso6: has(features, spec::VIRTIO_NET_F_GUEST_USO6),
    }
}

impl Device for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; usize::from(self.pairs()) * 2];
        if self.pairs() > 1 {
            sizes.push(CONTROL_QUEUE_SIZE);
        }
        sizes
    }

    fn features(&self) -> u64 {
        let always = [
            spec::VIRTIO_NET_F_CSUM,
            spec::VIRTIO_NET_F_GUEST_CSUM,
            spec::VIRTIO_NET_F_GUEST_TSO4,
            spec::VIRTIO_NET_F_GUEST_TSO6,
            spec::VIRTIO_NET_F_GUEST_ECN,
            spec::VIRTIO_NET_F_HOST_TSO4,
            spec::VIRTIO_NET_F_HOST_TSO6,
            spec::VIRTIO_NET_F_HOST_ECN,
            spec::VIRTIO_NET_F_MRG_RXBUF,
            spec::VIRTIO_NET_F_STATUS,
        ];
        let uso = [spec::VIRTIO_NET_F_GUEST_USO4, spec::VIRTIO_NET_F_GUEST_USO6, spec::VIRTIO_NET_F_HOST_USO];
        let multi = [spec::VIRTIO_NET_F_CTRL_VQ, spec::VIRTIO_NET_F_MQ];
        let groups: [(bool, &[u32]); 5] = [
            (true, &always),
            (self.tap.has_uso(), &uso),
            (self.mac.is_some(), &[spec::VIRTIO_NET_F_MAC]),
            (self.tap.mtu().is_some(), &[spec::VIRTIO_NET_F_MTU]),
            (self.pairs() > 1, &multi),
        ];
        let bits = groups.iter().filter(|(on, _)| *on).flat_map(|(_, bits)| bits.iter());
        bits.fold(0, |features, bit| features | 1_u64 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.config(), offset, data);
    }

    fn counters(&self) -> Vec<Arc<QueueCounters>> {
        self.counters.clone()
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Box<dyn Worker>>, WorkerError> {
        let Activation { memory, queues, features, .. } = activation;
        self.tap
            .set_offloads(offloads(features))
            .map_err(|e| HostError::new(format!("Could not set the offloads of tap {}", self.tap.name()), e))?;
        // Section 5.1.2: without MQ there is one pair, and the control queue follows it directly.
        let pairs = if has(features, spec::VIRTIO_NET_F_MQ) { self.pairs() } else { 1 };
        let mut workers: Vec<Box<dyn Worker>> = Vec::new();
        let mut queues = queues.into_iter();
        for index in 0..pairs {
            match (queues.next().flatten(), queues.next().flatten()) {
                (Some(receive), Some(transmit)) => {
                    let wires =
                        Wires { memory, features, tap: self.tap.clone(), index: index.into(), id: self.id.clone() };
                    workers.push(self.pair(wires, (receive, transmit))?);
                }
                (None, None) if index > 0 => {}
                _ => return Err(GuestFault::Protocol("A queue pair of the network card is only half enabled").into()),
            }
        }
        if has(features, spec::VIRTIO_NET_F_CTRL_VQ)
            && let Some(queue) = queues.next().flatten()
        {
            let counters = self.counter(&queue);
            workers.push(Box::new(Control::new(self.tap.clone(), queue, counters, pairs)));
        }
        Ok(workers)
    }

    fn reset(&mut self) {
        // Both worked when the tap was opened. If they fail now the interface is gone, and frames get lost anyway.
        let _ = self.tap.use_pairs(1);
        let _ = self.tap.set_offloads(Offloads::default());
    }
}
