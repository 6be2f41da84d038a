//! A hostile kernel: accesses to PCI configuration space and to the registers of a virtio device.

use std::sync::{Arc, Mutex, PoisonError};

use quantix_vmm::bus::pci::{ConfigPorts, Ecam, PciRoot};
use quantix_vmm::bus::{BusDevice as _, Doorbells, MsiSink};
use quantix_vmm::virtio::pci::{VirtioPci, Wiring};
use quantix_vmm::virtio::{Device, Worker, WorkerError, WorkerGroup, WorkerHost};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

use crate::driver::{MEMORY_BYTES, memory};

/// Where the first device's BAR 0 is at power-on; the others follow.
pub const FIRST_BAR: u64 = 0xc000_0000;
/// Distance of two devices' BARs in bytes.
const BAR_DISTANCE: u64 = 0x10_0000;

/// One access of a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum BusOp {
    /// Reads ports from 0xcf8 on.
    ReadPort {
        /// Offset from 0xcf8.
        offset: u8,
        /// Width in bytes; 1 to 8, as everywhere below.
        width: u8,
    },
    /// Writes ports from 0xcf8 on.
    WritePort {
        /// Offset from 0xcf8.
        offset: u8,
        /// Width in bytes.
        width: u8,
        /// What is written.
        value: u64,
    },
    /// Reads the ECAM window.
    ReadEcam {
        /// Offset in the window.
        offset: u32,
        /// Width in bytes.
        width: u8,
    },
    /// Writes the ECAM window.
    WriteEcam {
        /// Offset in the window.
        offset: u32,
        /// Width in bytes.
        width: u8,
        /// What is written.
        value: u64,
    },
    /// Reads memory space.
    ReadMemory {
        /// Guest-physical address.
        address: u64,
        /// Width in bytes.
        width: u8,
    },
    /// Writes memory space.
    WriteMemory {
        /// Guest-physical address.
        address: u64,
        /// Width in bytes.
        width: u8,
        /// What is written.
        value: u64,
    },
    /// Writes guest RAM: rings, buffers.
    Ram {
        /// Guest-physical address; modulo the size of memory.
        at: u32,
        /// What is written.
        bytes: Vec<u8>,
    },
    /// A worker's source fires.
    Event(u8),
    /// The machine is reset.
    Reset,
}

type OnError = Arc<dyn Fn(WorkerError) + Send + Sync>;

/// A worker, the activation it belongs to, and whom to tell when it fails.
type Running = (WorkerGroup, Box<dyn Worker>, OnError);

/// Runs workers on the caller's thread, and swallows interrupts and doorbells.
#[derive(Default)]
struct Machine {
    workers: Mutex<Vec<Running>>,
}

impl WorkerHost for Machine {
    fn start(&self, workers: Vec<Box<dyn Worker>>, on_error: OnError) -> WorkerGroup {
        let mut running = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let group = WorkerGroup(running.iter().map(|(group, ..)| group.0 + 1).max().unwrap_or_default());
        running.extend(workers.into_iter().map(|worker| (group, worker, on_error.clone())));
        group
    }

    fn stop(&self, group: WorkerGroup) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).retain(|(of, ..)| *of != group);
    }
}

impl Machine {
    /// Fires one source of the workers that run; one that fails is dropped and its transport told.
    fn fire(&self, source: usize) {
        let mut running = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = running.iter().enumerate();
        let tokens: Vec<_> =
            tokens.flat_map(|(i, (_, w, _))| w.sources().into_iter().map(move |s| (i, s.token))).collect();
        let Some(&(index, token)) = tokens.get(source % tokens.len().max(1)) else { return };
        let Some((_, worker, _)) = running.get_mut(index) else { return };
        if let Err(error) = worker.on_event(token) {
            let (_, worker, on_error) = running.remove(index);
            drop(worker);
            drop(running);
            if let WorkerError::Host(error) = &error {
                panic!("the guest made the host fail: {error}: {:?}", error.source);
            }
            on_error(error);
        }
    }
}

impl MsiSink for Machine {
    fn signal(&self, _address: u64, _data: u32) -> std::io::Result<()> {
        Ok(())
    }
}

impl Doorbells for Machine {
    fn attach(&self, address: u64, _fd: &EventFd) -> std::io::Result<()> {
        // Some addresses are refused, as KVM may.
        if address.is_multiple_of(64) { Err(std::io::ErrorKind::AlreadyExists.into()) } else { Ok(()) }
    }

    fn detach(&self, _address: u64, _fd: &EventFd) -> std::io::Result<()> {
        Ok(())
    }
}

/// Plays `data` against a root complex with `devices` in slots 1, 2, …
pub fn drive(devices: Vec<Box<dyn Device>>, data: &[u8]) {
    memory().slice(0, MEMORY_BYTES).expect("all of memory").zero();
    let machine = Arc::new(Machine::default());
    let wiring =
        Wiring { memory: memory(), msi: machine.clone(), doorbells: machine.clone(), workers: machine.clone() };
    let mut root = PciRoot::default();
    for ((slot, address), device) in (1..).zip((FIRST_BAR..).step_by(BAR_DISTANCE as usize)).zip(devices) {
        let function = VirtioPci::new(device, wiring.clone(), address).expect("a device on the bus");
        root.insert(slot, Arc::new(Mutex::new(function))).expect("a free slot");
    }
    let root = Arc::new(root);
    let (mut ports, mut ecam) = (ConfigPorts(root.clone()), Ecam(root.clone()));
    let mut data_read = [0; 8];
    for op in super::operations(data) {
        match op {
            BusOp::ReadPort { offset, width } => ports.read(u64::from(offset % 8), reading(&mut data_read, width)),
            BusOp::WritePort { offset, width, value } => {
                ports.write(u64::from(offset % 8), writing(&value.to_le_bytes(), width));
            }
            BusOp::ReadEcam { offset, width } => ecam.read(u64::from(offset), reading(&mut data_read, width)),
            BusOp::WriteEcam { offset, width, value } => {
                ecam.write(u64::from(offset), writing(&value.to_le_bytes(), width));
            }
            BusOp::ReadMemory { address, width } => {
                root.read_memory(address, reading(&mut data_read, width));
            }
            BusOp::WriteMemory { address, width, value } => {
                root.write_memory(address, writing(&value.to_le_bytes(), width));
            }
            BusOp::Ram { at, bytes } => {
                let at = u64::from(at) % MEMORY_BYTES;
                let len = (bytes.len() as u64).min(MEMORY_BYTES - at);
                memory().slice(at, len).expect("inside of memory").write(0, &bytes);
            }
            BusOp::Event(source) => machine.fire(usize::from(source)),
            BusOp::Reset => root.reset(),
        }
    }
    // The devices hold the machine, the machine their workers: without this both would stay.
    root.reset();
    machine.workers.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

fn reading(data: &mut [u8; 8], width: u8) -> &mut [u8] {
    &mut data[..=usize::from(width % 8)]
}

fn writing(data: &[u8; 8], width: u8) -> &[u8] {
    &data[..=usize::from(width % 8)]
}
