//! The face of virtio-blk: features, configuration, activation (virtio 1.3 sections 5.2.3 to 5.2.5).
//!
//! Made by the main thread before the sandbox is entered; called by vCPU threads under the transport's lock.

use std::sync::{Arc, Mutex, PoisonError};

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::request::SEGMENT_SECTORS_MAX;
use super::worker::{BlockWorker, Parts, Tools};
use super::{QUEUE_SIZE, SERIAL_BYTES};
use crate::backend::disk::{Disk, DiskError, DiskShape, SECTOR};
use crate::devices::limits::SharedLimits;
use crate::devices::read_config;
use crate::telemetry::QueueCounters;
use crate::virtio::rate_limit::RateLimit;
use crate::virtio::{Activation, Device, DeviceType, HostError, Worker, WorkerError};

const CONFIG_BYTES: usize = 60;

/// What a disk of the guest is made from.
pub struct BlockOptions {
    /// Instance name.
    pub id: String,
    /// Serial number; at most [`SERIAL_BYTES`] are shown.
    pub serial: String,
    /// Number of queues, at least 1.
    pub queues: u16,
    /// Limits over all queues together.
    pub limit: RateLimit,
}

/// A place from which a worker takes its queue's tools, and to which it gives them back.
pub(super) type Shelf = Arc<Mutex<Option<Tools>>>;

/// A disk of the guest.
pub struct Block {
    id: String,
    serial: [u8; SERIAL_BYTES],
    shape: DiskShape,
    config: [u8; CONFIG_BYTES],
    shelves: Vec<Shelf>,
    limits: Arc<SharedLimits>,
    counters: Vec<Arc<QueueCounters>>,
    // Holds the lock on the image.
    _disk: Box<dyn Disk>,
}

/// Why a disk could not be attached.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The back end gave no queue.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The host gave no timer.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Block {
    /// A device on an opened disk. Makes every ring, timer and buffer that its queues will ever need.
    pub fn new(disk: Box<dyn Disk>, options: BlockOptions) -> Result<Self, BlockError> {
        let queues = options.queues.max(1);
        let shape = disk.shape();
        let limits = Arc::new(SharedLimits::new(options.limit, queues)?);
        let shelf = |_| Ok(Arc::new(Mutex::new(Some(Tools::new(disk.open_queue(QUEUE_SIZE)?)))));
        let shelves = (0..queues).map(shelf).collect::<Result<_, DiskError>>()?;
        let mut serial = [0; SERIAL_BYTES];
        serial.iter_mut().zip(options.serial.bytes()).for_each(|(to, byte)| *to = byte);
        Ok(Self {
            id: options.id,
            serial,
            shape,
            config: config(&shape, queues),
            shelves,
            limits,
            counters: (0..queues).map(|_| Arc::default()).collect(),
            _disk: disk,
        })
    }

    /// The limits, to be changed while the guest runs.
    pub fn limits(&self) -> Arc<SharedLimits> {
        self.limits.clone()
    }
}

/// `struct virtio_blk_config` (section 5.2.4).
fn config(shape: &DiskShape, queues: u16) -> [u8; CONFIG_BYTES] {
    let mut config = [0; CONFIG_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| {
        config.iter_mut().skip(offset).zip(bytes).for_each(|(to, byte)| *to = *byte);
    };
    let exponent = (shape.physical_block_size / shape.block_size.max(1)).checked_ilog2().unwrap_or(0);
    let discard_sectors = shape.physical_block_size / SECTOR as u32;
    put(0, &(shape.capacity_bytes / SECTOR).to_le_bytes());
    // A chain has a header and a status beside its segments.
    put(12, &u32::from(QUEUE_SIZE - 2).to_le_bytes());
    put(20, &shape.block_size.to_le_bytes());
    put(24, &[exponent as u8, 0]);
    put(26, &1_u16.to_le_bytes());
    put(34, &queues.to_le_bytes());
    if shape.discard {
        put(36, &SEGMENT_SECTORS_MAX.to_le_bytes());
        put(40, &1_u32.to_le_bytes());
        put(44, &discard_sectors.to_le_bytes());
        put(48, &SEGMENT_SECTORS_MAX.to_le_bytes());
        put(52, &1_u32.to_le_bytes());
        put(56, &[1]);
    }
    config
}

impl Device for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.shelves.len()]
    }

    fn features(&self) -> u64 {
        let mut bits = vec![VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_FLUSH];
        if self.shape.read_only {
            bits.push(VIRTIO_BLK_F_RO);
        }
        if self.shape.discard {
            bits.extend([VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]);
        }
        if self.shelves.len() > 1 {
            bits.push(VIRTIO_BLK_F_MQ);
        }
        bits.into_iter().fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        read_config(&self.config, offset, data);
    }

    fn counters(&self) -> Vec<Arc<QueueCounters>> {
        self.counters.clone()
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Box<dyn Worker>>, WorkerError> {
        let missing = || HostError::new("A disk queue has no back end", std::io::ErrorKind::NotFound.into());
        // Without FLUSH the driver takes each write for durable once it is answered (section 5.2.6.2).
        let write_through = activation.features & 1 << VIRTIO_BLK_F_FLUSH == 0;
        let mut workers: Vec<Box<dyn Worker>> = Vec::new();
        for (index, queue) in activation.queues.into_iter().enumerate() {
            let Some(queue) = queue else { continue };
            let shelf = self.shelves.get(index).ok_or_else(missing)?.clone();
            let tools = shelf.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(missing)?;
            let parts = Parts {
                id: format!("{} queue {index}", self.id),
                shape: self.shape,
                serial: self.serial,
                write_through,
                limits: self.limits.clone(),
                alarm: self.limits.alarm(index).ok_or_else(missing)?,
                counters: self.counters.get(index).ok_or_else(missing)?.clone(),
            };
            workers.push(Box::new(BlockWorker::new(queue, parts, tools, shelf)));
        }
        Ok(workers)
    }

    fn reset(&mut self) {}
}
