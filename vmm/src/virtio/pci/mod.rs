//! The PCI transport (virtio 1.3 section 4.1): a virtio device as a PCI function.
//!
//! Called by vCPU threads under the function's lock. Reset, feature negotiation and queue set-up are written here once,
//! for every device. Workers live on the reactor; a failing worker sets `DEVICE_NEEDS_RESET` through [`Status`].
//!
//! ```text
//! BAR 0   0x0000 common configuration   0x1000 ISR status   0x2000 device configuration
//!         0x3000 MSI-X table            0x3800 MSI-X pending bits
//!         0x4000 notification: 4 bytes a queue, each an ioeventfd while the device is active
//! ```

mod common_config;
mod status;

pub use status::FaultListener;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::common_config::{CommonConfig, Effect};
use self::status::{Status, needs_reset};
use super::device::{Activation, Device, DeviceType, GuestFault, HostError, WorkerError, WorkerGroup, WorkerHost};
use super::queue::{Queue, QueueWiring};
use crate::bus::pci::{BarKind, BarWindow, ConfigSpace, Identity, MSIX_ENTRY_SIZE, Msix, PciFunction};
use crate::bus::{Doorbells, MsiSink};
use crate::memory::GuestMemory;

/// Bytes of BAR 0.
pub const BAR_SIZE: u64 = 0x8000;

const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const DEVICE: u64 = 0x2000;
const MSIX_TABLE: u64 = 0x3000;
const MSIX_PENDING: u64 = 0x3800;
const NOTIFY: u64 = 0x4000;
/// Distance of two queues' notification addresses in bytes (section 4.1.4.4).
const NOTIFY_MULTIPLIER: u64 = 4;

/// Size of the common configuration structure in bytes (section 4.1.4.3).
const COMMON_LEN: u64 = 0x40;
/// Most MSI-X vectors that fit before the pending bits.
const MAX_VECTORS: u64 = (MSIX_PENDING - MSIX_TABLE) / MSIX_ENTRY_SIZE;

const CAPABILITY_MSIX: u8 = 0x11;
const CAPABILITY_VENDOR: u8 = 0x09;

/// What the transport needs from the machine.
#[derive(Clone)]
pub struct Wiring {
    /// Guest RAM.
    pub memory: GuestMemory,
    /// Where interrupts go.
    pub msi: Arc<dyn MsiSink>,
    /// Where kicks come from.
    pub doorbells: Arc<dyn Doorbells>,
    /// Where workers run.
    pub workers: Arc<dyn WorkerHost>,
}

/// A virtio device on the PCI bus.
pub struct VirtioPci {
    device: Box<dyn Device>,
    wiring: Wiring,
    space: ConfigSpace,
    msix_capability: u16,
    window_capability: u16,
    msix: Arc<Msix>,
    common: CommonConfig,
    status: Arc<Status>,
    kicks: Vec<Arc<EventFd>>,
    /// Queues whose kicks come as doorbells now, and the address that each was attached at.
    doorbells: Vec<(u64, usize)>,
    group: Option<WorkerGroup>,
}

/// The class code by which a guest's tools name the device (PCI code and ID assignment, section 1).
fn class_of(device: DeviceType) -> [u8; 3] {
    match device {
        DeviceType::Net => [0x02, 0x00, 0x00],
        DeviceType::Block => [0x01, 0x80, 0x00],
        DeviceType::Console => [0x07, 0x80, 0x00],
        DeviceType::Rng | DeviceType::Balloon | DeviceType::Vsock => [0x00, 0xff, 0x00],
    }
}

impl VirtioPci {
    /// Puts `device` behind BAR 0 at `bar_address`.
    pub fn new(device: Box<dyn Device>, wiring: Wiring, bar_address: u64) -> Result<Self, HostError> {
        let kind = device.device_type();
        let sizes = device.queue_sizes();
        let vectors = (sizes.len() as u64 + 1).min(MAX_VECTORS) as u16;
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            // Section 4.1.2.1: 0x1040 plus the device type.
            device: 0x1040 + kind as u16,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1040 + kind as u16,
            class: class_of(kind),
            revision: 1,
        });
        space.add_bar(0, BarKind::Memory64, BAR_SIZE, bar_address);
        let (msix_capability, window_capability) = add_capabilities(&mut space, vectors, sizes.len() as u64);
        let msix = Arc::new(Msix::new(vectors, wiring.msi.clone()));
        let status = Arc::new(Status::new(device.id(), msix.clone(), sizes.len()));
        let kicks = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK).map(Arc::new)).collect::<Result<_, _>>();
        let kicks = kicks.map_err(|e| HostError::new(format!("Could not make kick fds for {}", device.id()), e))?;
        let common = CommonConfig::new(device.features(), &sizes);
        Ok(Self {
            device,
            wiring,
            space,
            msix_capability,
            window_capability,
            msix,
            common,
            status,
            kicks,
            doorbells: Vec::new(),
            group: None,
        })
    }

    /// The device behind the transport.
    pub fn device(&self) -> &dyn Device {
        self.device.as_ref()
    }

    /// Has `listener` told when the device fails, once for each turn from whole to broken. The first one stays.
    pub fn on_fault(&self, listener: FaultListener) {
        self.status.listen(listener);
    }

    /// The feature bits that the driver accepted, 0 before.
    pub fn negotiated_features(&self) -> u64 {
        self.common.driver_features()
    }

    /// Whether the driver has to reset the device.
    pub fn needs_reset(&self) -> bool {
        needs_reset(self.status.get())
    }

    fn notify_address(&self, queue: usize) -> Option<u64> {
        let window = self.space.windows().into_iter().next()?;
        window.address.checked_add(NOTIFY + queue as u64 * NOTIFY_MULTIPLIER)
    }

    /// Attaches the doorbells of active queues where BAR 0 is now; detaches them from where it was.
    fn move_doorbells(&mut self) {
        let wanted: Vec<(u64, usize)> = match self.group {
            Some(_) => self.common.enabled().filter_map(|q| Some((self.notify_address(q)?, q))).collect(),
            None => Vec::new(),
        };
        if wanted == self.doorbells {
            return;
        }
        for (address, queue) in std::mem::take(&mut self.doorbells) {
            let Some(kick) = self.kicks.get(queue) else { continue };
            if let Err(error) = self.wiring.doorbells.detach(address, kick) {
                log::warn!("{}: doorbell at {address:#x} was not detached: {error}", self.device.id());
            }
        }
        for (address, queue) in wanted {
            let Some(kick) = self.kicks.get(queue) else { continue };
            match self.wiring.doorbells.attach(address, kick) {
                Ok(()) => self.doorbells.push((address, queue)),
                // Kicks then come as exits to this process: slower, and right.
                Err(error) => log::debug!("{}: no doorbell at {address:#x}: {error}", self.device.id()),
            }
        }
    }

    fn activate(&mut self) {
        if self.group.is_some() {
            return;
        }
        if let Err(error) = self.try_activate() {
            self.status.fail(&error);
        }
        self.move_doorbells();
    }

    fn try_activate(&mut self) -> Result<(), WorkerError> {
        let features = self.common.driver_features();
        let mut queues = Vec::new();
        for (index, kick) in self.kicks.iter().enumerate() {
            let Some(layout) = self.common.queue_layout(index) else {
                queues.push(None);
                continue;
            };
            let wiring = QueueWiring {
                index: index as u16,
                kick: kick.clone(),
                interrupt: self.status.clone(),
                event_idx: self.common.event_idx(),
            };
            queues.push(Some(Queue::new(self.wiring.memory, layout, wiring)?));
        }
        let activation = Activation { memory: self.wiring.memory, queues, interrupt: self.status.clone(), features };
        let workers = self.device.activate(activation)?;
        let status = self.status.clone();
        let group = self.wiring.workers.start(workers, Arc::new(move |error| status.fail(&error)));
        self.group = Some(group);
        Ok(())
    }

    /// Section 2.4: the device is as it was at power-on.
    fn reset_device(&mut self) {
        if let Some(group) = self.group.take() {
            self.wiring.workers.stop(group);
        }
        self.move_doorbells();
        for kick in &self.kicks {
            // EAGAIN: nobody kicked.
            let _ = kick.read();
        }
        self.device.reset();
        self.common = CommonConfig::new(self.device.features(), &self.device.queue_sizes());
        self.status.reset();
    }

    fn read_register(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match offset {
            COMMON..ISR => self.common.read(offset - COMMON, &self.status, data),
            ISR..DEVICE => {
                if let (ISR, Some(first)) = (offset, data.first_mut()) {
                    *first = self.status.take_isr();
                }
            }
            DEVICE..MSIX_TABLE => self.device.read_config(offset - DEVICE, data),
            MSIX_TABLE..MSIX_PENDING => self.msix.read_table(offset - MSIX_TABLE, data),
            MSIX_PENDING..NOTIFY => self.msix.read_pending(offset - MSIX_PENDING, data),
            _ => {}
        }
    }

    fn write_register(&mut self, offset: u64, data: &[u8]) {
        match offset {
            COMMON..ISR => {
                let effect = self.common.write(offset - COMMON, data, &self.status);
                self.apply(effect);
            }
            DEVICE..MSIX_TABLE => self.device.write_config(offset - DEVICE, data),
            MSIX_TABLE..MSIX_PENDING => self.msix.write_table(offset - MSIX_TABLE, data),
            NOTIFY.. => {
                let queue = ((offset - NOTIFY) / NOTIFY_MULTIPLIER) as usize;
                if let (Some(kick), Some(_)) = (self.kicks.get(queue), self.group) {
                    // EAGAIN: the counter is full, the worker is due anyway.
                    let _ = kick.write(1);
                }
            }
            _ => {}
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Reset => self.reset_device(),
            Effect::DriverOk => self.activate(),
            Effect::Fault(reason) => self.status.fail(&GuestFault::Protocol(reason).into()),
        }
    }

    /// The window of `VIRTIO_PCI_CAP_PCI_CFG` (section 4.1.4.9): BAR, offset, length, as the driver set them.
    fn config_window(&self) -> (u8, u64, usize) {
        let at = self.window_capability;
        let bar = (self.space.u16_at(at + 4) & 0xff) as u8;
        (bar, u64::from(self.space.u32_at(at + 8)), self.space.u32_at(at + 12) as usize)
    }

    /// Whether an access of configuration space starts at the window's data field, with a sane window behind it.
    fn hits_window(&self, offset: u16, len: usize) -> Option<u64> {
        let (bar, target, window) = self.config_window();
        let valid = bar == 0 && matches!(window, 1 | 2 | 4) && len >= window && target < BAR_SIZE;
        (offset == self.window_capability + 16 && valid).then_some(target)
    }
}

/// The capability list; returns the offsets of MSI-X and of the configuration access window.
fn add_capabilities(space: &mut ConfigSpace, vectors: u16, queues: u64) -> (u16, u16) {
    let mut msix = [0_u8; 10];
    msix[..2].copy_from_slice(&(vectors - 1).to_le_bytes());
    msix[2..6].copy_from_slice(&(MSIX_TABLE as u32).to_le_bytes());
    msix[6..].copy_from_slice(&(MSIX_PENDING as u32).to_le_bytes());
    let msix_at = space.add_capability(CAPABILITY_MSIX, &msix);
    // Message control: enable and function mask are the driver's.
    space.allow(msix_at + 2, &0xc000_u16.to_le_bytes());

    // Section 4.1.4: capability length, type, BAR 0, offset and length in the BAR.
    let virtio = |kind: u8, offset: u64, len: u64, tail: &[u8]| {
        let mut body = vec![16 + tail.len() as u8, kind, 0, 0, 0, 0];
        body.extend((offset as u32).to_le_bytes());
        body.extend((len as u32).to_le_bytes());
        body.extend(tail);
        body
    };
    let structures: [(u8, u64, u64, &[u8]); 4] = [
        (1, COMMON, COMMON_LEN, &[]),
        (2, NOTIFY, queues * NOTIFY_MULTIPLIER, &(NOTIFY_MULTIPLIER as u32).to_le_bytes()),
        (3, ISR, 1, &[]),
        (4, DEVICE, MSIX_TABLE - DEVICE, &[]),
    ];
    for (kind, offset, len, tail) in structures {
        space.add_capability(CAPABILITY_VENDOR, &virtio(kind, offset, len, tail));
    }
    let window_at = space.add_capability(CAPABILITY_VENDOR, &virtio(5, 0, 0, &[0; 4]));
    space.allow(window_at + 4, &[0xff]);
    space.allow(window_at + 8, &[0xff; 12]);
    (msix_at as u16, window_at as u16)
}

impl PciFunction for VirtioPci {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        if let Some(target) = self.hits_window(offset, data.len()) {
            let (_, _, len) = self.config_window();
            let mut bytes = [0; 4];
            if let Some(part) = bytes.get_mut(..len) {
                self.read_register(target, part);
            }
            self.space.set(usize::from(offset), &bytes);
        }
        self.space.read(offset, data);
    }

    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.space.write(offset, data);
        if let Some(target) = self.hits_window(offset, data.len()) {
            let (_, _, len) = self.config_window();
            self.write_register(target, data.get(..len).unwrap_or(data));
        }
        self.msix.set_control(self.space.u16_at(self.msix_capability + 2));
        self.move_doorbells();
    }

    fn windows(&self) -> Vec<BarWindow> {
        self.space.windows()
    }

    fn read_bar(&mut self, _bar: u8, offset: u64, data: &mut [u8]) {
        self.read_register(offset, data);
    }

    fn write_bar(&mut self, _bar: u8, offset: u64, data: &[u8]) {
        self.write_register(offset, data);
    }

    fn reset(&mut self) {
        self.reset_device();
        self.space.reset();
        self.msix.reset();
    }
}
