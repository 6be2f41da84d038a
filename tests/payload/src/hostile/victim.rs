//! A device of any kind, started, with the queue that a guest can harm it through and one good request for it.

use alloc::string::String;
use alloc::vec::Vec;

use virtio_drivers::transport::DeviceType;

use crate::dma::Buffer;
use crate::ensure;
use crate::machine::Machine;
use crate::registers::{INDIRECT, Registers, VERSION_1};
use crate::ring::{Descriptor, NEXT, Ring, WRITE};

const ENTRIES: u16 = 64;
/// Bytes of memory for requests; cases may use what lies behind the good request.
const MEMORY: usize = 128 << 10;
/// The vsock header of the good request: a reset from an unused port of ours to one of the host.
const VSOCK_HEADER: usize = 44;

/// A started device.
pub struct Victim {
    /// What it is.
    pub kind: DeviceType,
    /// Its registers.
    pub registers: Registers,
    /// Features agreed on.
    pub features: u64,
    /// The queue that is attacked.
    pub ring: Ring,
    /// That queue's index.
    pub queue: u16,
    /// Memory for requests.
    pub memory: Buffer,
    /// The device's other queues, enabled and empty.
    _others: Vec<Ring>,
}

impl Victim {
    /// Resets and starts the device.
    pub fn start(machine: &mut Machine<'_>, kind: DeviceType) -> Result<Self, String> {
        let registers = machine.registers(kind)?;
        let features = registers.begin(VERSION_1 | INDIRECT)?;
        let (queues, attacked) = match kind {
            DeviceType::Network | DeviceType::Console => (2, 1),
            DeviceType::Socket => (3, 1),
            _ => (1, 0),
        };
        let mut rings = (0..queues)
            .map(|queue| Ring::new(&registers, queue, ENTRIES, features))
            .collect::<Result<Vec<_>, String>>()?;
        registers.go();
        let ring = rings.swap_remove(usize::from(attacked));
        Ok(Self { kind, registers, features, ring, queue: attacked, memory: Buffer::new(MEMORY), _others: rings })
    }

    /// Writes the device's good request into the start of its memory and returns the chain that says it. The
    /// descriptor in the middle (the only one, if there is one) carries the data.
    pub fn good_request(&self) -> Vec<Descriptor> {
        let memory = self.memory.address();
        let piece = |offset: u64, length, flags| Descriptor { address: memory + offset, length, flags, next: 0 };
        self.memory.bytes(512).fill(0);
        match self.kind {
            // A read of sector 0.
            DeviceType::Block => Vec::from([piece(0, 16, 0), piece(4096, 512, WRITE), piece(16, 1, WRITE)]),
            // A frame to nobody.
            DeviceType::Network => Vec::from([piece(0, 12, 0), piece(64, 60, 0)]),
            DeviceType::Socket => {
                self.memory.bytes(VSOCK_HEADER).copy_from_slice(&super::vsock::Header::reset(self).bytes());
                Vec::from([piece(0, VSOCK_HEADER as u32, 0)])
            }
            DeviceType::Console => Vec::from([piece(0, 1, 0)]),
            _ => Vec::from([piece(4096, 64, WRITE)]),
        }
    }

    /// Index of the descriptor with the data in a good request.
    pub fn data_index(chain: &[Descriptor]) -> usize {
        chain.len() / 2
    }

    /// Writes a chain at the first descriptors, linked in order.
    pub fn write_chain(&self, chain: &[Descriptor]) {
        let last = chain.len().saturating_sub(1);
        for (index, descriptor) in (0_u16..).zip(chain) {
            let more = if usize::from(index) < last { NEXT } else { 0 };
            self.ring.describe(index, Descriptor { flags: descriptor.flags | more, next: index + 1, ..*descriptor });
        }
    }

    /// Writes a chain, offers it and kicks.
    pub fn submit(&mut self, chain: &[Descriptor]) {
        self.write_chain(chain);
        self.offer(0);
    }

    /// Offers what starts at descriptor `head`, and kicks whether wanted or not.
    pub fn offer(&mut self, head: u16) {
        self.ring.offer(head);
        self.ring.show();
        self.ring.kick();
    }

    /// What came back.
    pub fn take(&mut self) -> Option<(u16, u32)> {
        self.ring.take()
    }

    /// Does the good request and looks at its result.
    pub fn prove(&mut self, machine: &Machine<'_>) -> Result<(), String> {
        const PATIENCE_MS: u64 = 5000;
        let chain = self.good_request();
        self.memory.bytes(17)[16] = 0xff;
        self.submit(&chain);
        let mut taken = None;
        machine.clock.deadline(PATIENCE_MS).wait_for(|| {
            taken = self.take();
            taken.is_some()
        });
        let Some((head, written)) = taken else {
            return Err(alloc::format!("A good request did not come back, status {}", self.registers.status()));
        };
        ensure!(head == 0, "Another chain came back: {head}");
        match self.kind {
            DeviceType::Block => ensure!(self.memory.bytes(17)[16] == 0, "A good request failed"),
            DeviceType::EntropySource => ensure!(written != 0, "A good request brought nothing"),
            _ => {}
        }
        Ok(())
    }
}
