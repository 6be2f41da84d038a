//! The common configuration structure (virtio 1.3 section 4.1.4.3), as a table of fields.
//!
//! Accesses of any width and alignment are laid over the fields: drivers write 64-bit queue addresses in one or in two
//! accesses. Pure but for the interrupt vectors, which it hands to [`Status`].

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::status::{DRIVER_OK, FEATURES_OK, Status};
use crate::virtio::queue::QueueLayout;

/// Features of the transport itself, offered with every device.
const TRANSPORT_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// What a write means beyond the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The driver wrote 0 to the status.
    Reset,
    /// The driver set `DRIVER_OK`.
    DriverOk,
    /// The driver broke a rule of initialisation.
    Fault(&'static str),
}

#[derive(Clone, Copy)]
enum Field {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    NumQueues,
    DeviceStatus,
    Generation,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotifyOff,
    QueueDescriptors,
    QueueAvailable,
    QueueUsed,
}

/// Offset and width in bytes of each field.
const FIELDS: [(u64, usize, Field); 16] = [
    (0x00, 4, Field::DeviceFeatureSelect),
    (0x04, 4, Field::DeviceFeature),
    (0x08, 4, Field::DriverFeatureSelect),
    (0x0c, 4, Field::DriverFeature),
    (0x10, 2, Field::ConfigVector),
    (0x12, 2, Field::NumQueues),
    (0x14, 1, Field::DeviceStatus),
    (0x15, 1, Field::Generation),
    (0x16, 2, Field::QueueSelect),
    (0x18, 2, Field::QueueSize),
    (0x1a, 2, Field::QueueVector),
    (0x1c, 2, Field::QueueEnable),
    (0x1e, 2, Field::QueueNotifyOff),
    (0x20, 8, Field::QueueDescriptors),
    (0x28, 8, Field::QueueAvailable),
    (0x30, 8, Field::QueueUsed),
];

#[derive(Clone, Copy, Debug)]
struct QueueSetup {
    layout: QueueLayout,
    max_size: u16,
    enabled: bool,
}

/// The registers' contents.
#[derive(Debug)]
pub struct CommonConfig {
    offered: u64,
    accepted: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    queue_select: u16,
    queues: Vec<QueueSetup>,
}

/// The bytes that an access of `len` bytes at `offset` shares with a field: (start in the access, start in the field, length).
fn overlap(offset: u64, len: usize, field: u64, width: usize) -> Option<(usize, usize, usize)> {
    let start = offset.max(field);
    let end = (offset.saturating_add(len as u64)).min(field + width as u64);
    let shared = end.checked_sub(start).filter(|n| *n > 0)?;
    Some(((start - offset) as usize, (start - field) as usize, shared as usize))
}

/// Half of a 64-bit feature set.
fn half(features: u64, select: u32) -> u64 {
    match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    }
}

impl CommonConfig {
    /// The registers after a reset.
    pub fn new(device_features: u64, queue_sizes: &[u16]) -> Self {
        let setup = |&size: &u16| QueueSetup {
            layout: QueueLayout { size, ..QueueLayout::default() },
            max_size: size,
            enabled: false,
        };
        Self {
            offered: device_features | TRANSPORT_FEATURES,
            accepted: 0,
            device_feature_select: 0,
            driver_feature_select: 0,
            queue_select: 0,
            queues: queue_sizes.iter().map(setup).collect(),
        }
    }

    /// What the driver accepted of what was offered.
    pub fn driver_features(&self) -> u64 {
        self.accepted & self.offered
    }

    /// Whether `VIRTIO_F_EVENT_IDX` was agreed on.
    pub fn event_idx(&self) -> bool {
        self.driver_features() & 1 << VIRTIO_RING_F_EVENT_IDX != 0
    }

    /// Where the driver put an enabled queue.
    pub fn queue_layout(&self, queue: usize) -> Option<QueueLayout> {
        self.queues.get(queue).filter(|q| q.enabled).map(|q| q.layout)
    }

    /// Indices of the enabled queues.
    pub fn enabled(&self) -> impl Iterator<Item = usize> + '_ {
        self.queues.iter().enumerate().filter(|(_, q)| q.enabled).map(|(i, _)| i)
    }

    fn selected(&self) -> Option<&QueueSetup> {
        self.queues.get(usize::from(self.queue_select))
    }

    fn get(&self, field: Field, status: &Status) -> u64 {
        let queue = self.selected();
        match field {
            Field::DeviceFeatureSelect => self.device_feature_select.into(),
            Field::DeviceFeature => half(self.offered, self.device_feature_select),
            Field::DriverFeatureSelect => self.driver_feature_select.into(),
            Field::DriverFeature => half(self.accepted, self.driver_feature_select),
            Field::ConfigVector => status.config_vector().into(),
            Field::NumQueues => self.queues.len() as u64,
            Field::DeviceStatus => status.get().into(),
            Field::Generation => status.generation().into(),
            Field::QueueSelect => self.queue_select.into(),
            Field::QueueSize => queue.map_or(0, |q| q.layout.size.into()),
            Field::QueueVector => status.queue_vector(usize::from(self.queue_select)).into(),
            Field::QueueEnable => queue.map_or(0, |q| q.enabled.into()),
            Field::QueueNotifyOff => queue.map_or(0, |_| self.queue_select.into()),
            Field::QueueDescriptors => queue.map_or(0, |q| q.layout.descriptors),
            Field::QueueAvailable => queue.map_or(0, |q| q.layout.available),
            Field::QueueUsed => queue.map_or(0, |q| q.layout.used),
        }
    }

    /// Reads; what belongs to no field stays as it is in `data`.
    pub fn read(&self, offset: u64, status: &Status, data: &mut [u8]) {
        for (at, width, field) in FIELDS {
            let Some((in_access, in_field, len)) = overlap(offset, data.len(), at, width) else { continue };
            let value = self.get(field, status).to_le_bytes();
            let to = data.get_mut(in_access..in_access + len);
            if let (Some(to), Some(from)) = (to, value.get(in_field..in_field + len)) {
                to.copy_from_slice(from);
            }
        }
    }

    /// Writes; the effect is the caller's to apply.
    pub fn write(&mut self, offset: u64, data: &[u8], status: &Status) -> Effect {
        let mut effect = Effect::None;
        for (at, width, field) in FIELDS {
            let Some((in_access, in_field, len)) = overlap(offset, data.len(), at, width) else { continue };
            let mut value = self.get(field, status).to_le_bytes();
            let to = value.get_mut(in_field..in_field + len);
            if let (Some(to), Some(from)) = (to, data.get(in_access..in_access + len)) {
                to.copy_from_slice(from);
            }
            let done = self.set(field, u64::from_le_bytes(value), status);
            if done != Effect::None {
                effect = done;
            }
        }
        effect
    }

    fn set(&mut self, field: Field, value: u64, status: &Status) -> Effect {
        let queue = usize::from(self.queue_select);
        match field {
            Field::DeviceFeatureSelect => self.device_feature_select = value as u32,
            Field::DriverFeatureSelect => self.driver_feature_select = value as u32,
            Field::DriverFeature => self.accept(value, status),
            Field::ConfigVector => status.set_config_vector(value as u16),
            Field::DeviceStatus => return self.set_status(value as u8, status),
            Field::QueueSelect => self.queue_select = value as u16,
            Field::QueueVector => status.set_queue_vector(queue, value as u16),
            Field::QueueEnable => return self.enable(value, status),
            Field::QueueSize | Field::QueueDescriptors | Field::QueueAvailable | Field::QueueUsed => {
                self.place(field, value);
            }
            Field::DeviceFeature | Field::NumQueues | Field::Generation | Field::QueueNotifyOff => {}
        }
        Effect::None
    }

    /// Features are fixed once the driver has set `FEATURES_OK` (section 3.1.1).
    fn accept(&mut self, value: u64, status: &Status) {
        if status.get() & FEATURES_OK != 0 {
            return;
        }
        let (mask, value) = match self.driver_feature_select {
            0 => (0xffff_ffff, value & 0xffff_ffff),
            1 => (0xffff_ffff << 32, value << 32),
            _ => return,
        };
        self.accepted = self.accepted & !mask | value;
    }

    fn set_status(&mut self, value: u8, status: &Status) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        let before = status.get();
        let mut value = value;
        let legal = self.accepted & !self.offered == 0 && self.accepted & 1 << VIRTIO_F_VERSION_1 != 0;
        if value & FEATURES_OK != 0 && before & FEATURES_OK == 0 && !legal {
            // Section 2.2.2: the driver sees by the missing bit that its choice is not accepted.
            value &= !FEATURES_OK;
        }
        status.set(value);
        if value & DRIVER_OK == 0 || before & DRIVER_OK != 0 {
            return Effect::None;
        }
        if value & FEATURES_OK == 0 {
            return Effect::Fault("DRIVER_OK before FEATURES_OK");
        }
        Effect::DriverOk
    }

    fn enable(&mut self, value: u64, status: &Status) -> Effect {
        let active = status.get() & DRIVER_OK != 0;
        match self.queues.get_mut(usize::from(self.queue_select)) {
            _ if value != 1 => Effect::Fault("Queue enable written with something else than 1"),
            Some(queue) if active && !queue.enabled => Effect::Fault("Queue enabled after DRIVER_OK"),
            Some(queue) => {
                queue.enabled = true;
                Effect::None
            }
            None => Effect::None,
        }
    }

    /// An enabled queue stays where it is (section 4.1.4.3.2).
    fn place(&mut self, field: Field, value: u64) {
        let Some(queue) = self.queues.get_mut(usize::from(self.queue_select)).filter(|q| !q.enabled) else { return };
        match field {
            Field::QueueSize => {
                let size = value as u16;
                if size.is_power_of_two() && size <= queue.max_size {
                    queue.layout.size = size;
                }
            }
            Field::QueueDescriptors => queue.layout.descriptors = value,
            Field::QueueAvailable => queue.layout.available = value,
            Field::QueueUsed => queue.layout.used = value,
            _ => {}
        }
    }
}
