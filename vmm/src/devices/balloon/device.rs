//! The face of virtio-balloon: features and configuration (sections 5.5.3 and 5.5.4), and which queue is which.
//!
//! Called by vCPU threads under the transport's lock.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::handle::{BalloonHandle, Shared};
use super::pages::BalloonPages;
use super::worker::{BalloonQueues, BalloonWorker};
use crate::devices::read_config;
use crate::memory::PAGE_SIZE;
use crate::telemetry::QueueCounters;
use crate::virtio::{Activation, Device, DeviceType, GuestFault, HostError, Queue, Worker, WorkerError};

const QUEUE_SIZE: u16 = 128;
const QUEUES: usize = 5;

// Feature bits, section 5.5.3.
pub(super) const F_MUST_TELL_HOST: u64 = 1 << 0;
pub(super) const F_STATS_VQ: u64 = 1 << 1;
const F_DEFLATE_ON_OOM: u64 = 1 << 2;
pub(super) const F_PAGE_REPORTING: u64 = 1 << 5;

/// Offset of `actual` in the configuration, section 5.5.4.
const ACTUAL: u64 = 4;

/// How a balloon is to behave.
#[derive(Clone, Copy, Debug)]
pub struct BalloonOptions {
    /// Size in bytes of the host pages behind guest RAM; a power of two.
    pub page_bytes: u64,
    /// A guest that runs out of memory takes it back from the balloon without asking.
    pub deflate_on_oom: bool,
    /// The guest reports blocks that it does not use, and they go back to the host without any target.
    pub page_reporting: bool,
}

impl Default for BalloonOptions {
    fn default() -> Self {
        Self { page_bytes: PAGE_SIZE, deflate_on_oom: true, page_reporting: true }
    }
}

/// A memory balloon.
pub struct Balloon {
    id: String,
    options: BalloonOptions,
    shared: Arc<Shared>,
    counters: [Arc<QueueCounters>; QUEUES],
}

impl Balloon {
    /// A balloon without a target; an error when the host gives no eventfd or timer.
    pub fn new(id: impl Into<String>, options: BalloonOptions) -> Result<Self, HostError> {
        let counters = std::array::from_fn(|_| Arc::default());
        Ok(Self { id: id.into(), options, shared: Arc::new(Shared::new()?), counters })
    }

    /// The control side's handle.
    pub fn handle(&self) -> BalloonHandle {
        BalloonHandle { shared: self.shared.clone() }
    }

    /// Finds the roles of the enabled queues. Those of features that were not agreed on do not exist, and drivers read
    /// that in two ways: the numbers stay as section 5.5.2 lists them (reporting is 4), or the rest closes up (Linux: 3, or 2).
    fn assign(&self, queues: Vec<Option<Queue>>, features: u64) -> Result<BalloonQueues, GuestFault> {
        let mut counted = queues.into_iter().zip(&self.counters).map(|(queue, c)| Some((queue?, c.clone())));
        let [inflate, deflate, mut second, mut third, mut fourth] = std::array::from_fn(|_| counted.next().flatten());
        let (Some(inflate), Some(deflate)) = (inflate, deflate) else {
            return Err(GuestFault::Protocol("The balloon's queues for pages are not both enabled"));
        };
        let statistics = if features & F_STATS_VQ == 0 { None } else { second.take() };
        let reporting = if features & F_PAGE_REPORTING == 0 {
            None
        } else {
            fourth.take().or_else(|| third.take()).or_else(|| second.take())
        };
        Ok(BalloonQueues { inflate, deflate, statistics, reporting })
    }
}

impl Device for Balloon {
    fn device_type(&self) -> DeviceType {
        DeviceType::Balloon
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn features(&self) -> u64 {
        let on_oom = if self.options.deflate_on_oom { F_DEFLATE_ON_OOM } else { 0 };
        let reporting = if self.options.page_reporting { F_PAGE_REPORTING } else { 0 };
        // Without it a driver may use a page of the balloon before it tells, while that page's huge page is given back.
        let tell = if self.options.page_bytes > PAGE_SIZE { F_MUST_TELL_HOST } else { 0 };
        F_STATS_VQ | on_oom | reporting | tell
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let numbers = [&self.shared.target, &self.shared.actual];
        read_config(&numbers.map(|n| n.load(Relaxed).to_le_bytes()).concat(), offset, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let mut actual = self.shared.actual.load(Relaxed).to_le_bytes();
        for (at, byte) in (ACTUAL..).zip(&mut actual) {
            let index = at.checked_sub(offset).and_then(|i| usize::try_from(i).ok());
            *byte = index.and_then(|i| data.get(i)).copied().unwrap_or(*byte);
        }
        self.shared.actual.store(u32::from_le_bytes(actual), Relaxed);
    }

    fn counters(&self) -> Vec<Arc<QueueCounters>> {
        self.counters.to_vec()
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Box<dyn Worker>>, WorkerError> {
        let Activation { memory, queues, interrupt, features } = activation;
        let queues = self.assign(queues, features)?;
        self.shared.signal.set(Some(interrupt));
        let page_bytes = self.options.page_bytes;
        // A driver that may use pages before it tells gets no huge page taken away under it.
        let collects = page_bytes == PAGE_SIZE || features & F_MUST_TELL_HOST != 0;
        let pages = collects.then(|| BalloonPages::new(memory, page_bytes));
        Ok(vec![Box::new(BalloonWorker::new(queues, pages, page_bytes, self.shared.clone()))])
    }

    fn reset(&mut self) {
        self.shared.signal.set(None);
        self.shared.actual.store(0, Relaxed);
    }
}
