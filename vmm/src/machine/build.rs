//! From opened files to a VM that could run: memory, KVM, buses, devices, boot data, vCPUs.
//!
//! Main thread. The order is KVM's: memory slots before the irqchip, both before any ioeventfd.

use std::sync::{Arc, Mutex};

use super::events::EventSink;
use super::exits::Buses;
use super::open::{Handles, OpenError, Opened, Stream};
use super::output::{FileSink, NoSink};
use crate::arch::x86_64::boot::{self, BootError, BootInfo, MapEntry};
use crate::arch::x86_64::cpuid::{self, Topology};
use crate::arch::x86_64::kernel::{self, Entry, KernelError, Protocol};
use crate::arch::x86_64::{msr, registers};
use crate::board::map;
use crate::bus::pci::{ConfigPorts, Ecam, PciRoot};
use crate::bus::{Bus, BusOverlap, IrqLine, SharedDevice};
use crate::config::{HugePages, Plan};
use crate::devices::console::ConsoleSink;
use crate::devices::legacy::serial::Serial;
use crate::devices::registry::{Opener, ROWS};
use crate::kvm::{Gate, KvmError, Vcpu, VcpuCounters, Vm};
use crate::memory::{Backing, GuestMemory, MemoryError, Pages};
use crate::reactor::Reactor;
use crate::sandbox::FdStore;
use crate::virtio::pci::{BAR_SIZE, VirtioPci, Wiring};
use crate::virtio::{Device, HostError, WorkerHost};

/// A machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Something named by the plan could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No guest memory.
    #[error("--memory")]
    Memory(#[from] MemoryError),
    /// KVM refused.
    #[error("The VM could not be made")]
    Kvm(#[from] KvmError),
    /// The kernel cannot be booted.
    #[error("--kernel {path}")]
    Kernel {
        /// The image.
        path: String,
        /// Why.
        source: KernelError,
    },
    /// The initrd or boot data do not fit.
    #[error("--initrd")]
    Boot(#[from] BootError),
    /// Two devices claim an address: a mistake of ours.
    #[error("The board is inconsistent")]
    Bus(#[from] BusOverlap),
    /// The host lacks something.
    #[error("The host has not enough resources")]
    Host(#[from] HostError),
}

/// A VM with its devices, before its threads run.
pub struct Machine {
    pub(super) vm: Arc<Vm>,
    pub(super) memory: GuestMemory,
    pub(super) buses: Arc<Buses>,
    pub(super) vcpus: Vec<(Vcpu, Arc<VcpuCounters>)>,
    pub(super) gate: Arc<Gate>,
    pub(super) events: Arc<EventSink>,
    pub(super) workers: Arc<LateReactor>,
    pub(super) serial: Serial,
    pub(super) serial_stream: Stream,
    pub(super) io_threads: usize,
    pub(super) handles: Handles,
}

/// The reactor's place: its threads start after the sandbox is entered, the transports that use it exist before.
#[derive(Default)]
pub struct LateReactor(std::sync::OnceLock<Reactor>);

impl LateReactor {
    pub(super) fn set(&self, reactor: Reactor) {
        // Set once, by the main loop's start.
        let _ = self.0.set(reactor);
    }

    pub(super) fn get(&self) -> Option<&Reactor> {
        self.0.get()
    }
}

impl WorkerHost for LateReactor {
    fn start(
        &self,
        workers: Vec<Box<dyn crate::virtio::Worker>>,
        on_error: Arc<dyn Fn(crate::virtio::WorkerError) + Send + Sync>,
    ) -> crate::virtio::WorkerGroup {
        match self.0.get() {
            Some(reactor) => reactor.start(workers, on_error),
            None => crate::virtio::WorkerGroup(u64::MAX),
        }
    }

    fn stop(&self, group: crate::virtio::WorkerGroup) {
        if let Some(reactor) = self.0.get() {
            reactor.stop(group);
        }
    }
}

/// Stands for an IOAPIC pin until the line is wired.
struct NoLine;

impl IrqLine for NoLine {
    fn pulse(&self) {}
}

fn backing(plan: &Plan) -> Backing {
    let pages = match plan.memory.hugepages {
        HugePages::None => Pages::Small,
        HugePages::Size2M => Pages::Huge2M,
        HugePages::Size1G => Pages::Huge1G,
    };
    Backing { pages, shared: plan.memory.shared, prefault: plan.memory.prefault }
}

/// RAM below and above the MMIO hole.
fn ram_ranges(size: u64) -> Vec<(u64, u64)> {
    let low = size.min(map::LOW_RAM_END);
    let mut ranges = vec![(0, low)];
    if size > low {
        ranges.push((map::HIGH_RAM_START, size - low));
    }
    ranges
}

fn memory_map(ranges: &[(u64, u64)]) -> Vec<MapEntry> {
    let ram = |start, end: u64| MapEntry { start, len: end.saturating_sub(start), kind: 1 };
    let mut entries = vec![
        ram(0, map::EBDA_START),
        MapEntry { start: map::EBDA_START, len: map::HIGH_LOAD - map::EBDA_START, kind: 2 },
        MapEntry { start: map::ECAM_START, len: map::ECAM_LEN, kind: 2 },
    ];
    for &(start, len) in ranges {
        entries.push(ram(start.max(map::HIGH_LOAD), start + len));
    }
    entries
}

impl Machine {
    /// Builds the machine that `plan` describes from what was opened for it.
    pub fn build(plan: &Plan, mut opened: Opened, fds: &mut FdStore) -> Result<Self, BuildError> {
        let ranges = ram_ranges(plan.memory.size_bytes);
        let memory = GuestMemory::map(&ranges, backing(plan))?;
        let vm = Arc::new(Vm::new(opened.kvm)?);
        vm.set_memory(&memory)?;
        vm.create_irqchip()?;
        let path = plan.boot.kernel.to_string();
        let kernel = kernel::load(&memory, &mut opened.kernel, Protocol::Auto)
            .map_err(|source| BuildError::Kernel { path, source })?;
        let low_end = ranges.first().map_or(0, |(_, len)| *len);
        let initrd = match &mut opened.initrd {
            Some(file) => Some(boot::load_initrd(&memory, file, &kernel, low_end)?),
            None => None,
        };
        let entry = kernel.entry;
        let map = memory_map(&ranges);
        let info = BootInfo {
            kernel: &kernel,
            command_line: plan.boot.cmdline.as_str(),
            initrd,
            memory_map: &map,
            rsdp: map::ACPI_START,
        };
        boot::write(&memory, &info)?;

        let events = Arc::new(EventSink::new().map_err(|e| HostError::new("Could not make an event fd", e))?);
        let sink = serial_sink(&opened.serial)?;
        let serial = Serial::new(sink, Arc::new(NoLine));
        let mut handles = Handles::default();
        let devices = open_devices(&mut Opener { plan, fds, handles: &mut handles })?;
        let io_threads = devices.iter().map(|d| d.queue_sizes().len()).max().unwrap_or(1).clamp(1, 1);
        let workers = Arc::new(LateReactor::default());
        let wiring = Wiring { memory, msi: vm.clone(), doorbells: vm.clone(), workers: workers.clone() };
        let pci = Arc::new(pci_bus(devices, &wiring)?);
        let buses = Arc::new(wire(pci, &serial, &events)?);
        let vcpus = make_vcpus(plan, &vm, entry)?;
        Ok(Self {
            vm,
            memory,
            buses,
            vcpus,
            gate: Arc::default(),
            events,
            workers,
            serial,
            serial_stream: opened.serial,
            io_threads,
            handles,
        })
    }
}

fn open_devices(opener: &mut Opener<'_>) -> Result<Vec<Box<dyn Device>>, OpenError> {
    let mut devices = Vec::new();
    for (_, open) in ROWS {
        devices.extend(open(opener)?);
    }
    Ok(devices)
}

fn serial_sink(stream: &Stream) -> Result<Arc<dyn ConsoleSink>, HostError> {
    let doubled = |result: std::io::Result<std::os::fd::OwnedFd>| {
        result.map(std::fs::File::from).map_err(|e| HostError::new("Could not duplicate the serial output", e))
    };
    Ok(match stream {
        Stream::Off | Stream::Listener(_) => Arc::new(NoSink),
        Stream::Stdio => {
            use std::os::fd::AsFd as _;
            Arc::new(FileSink::new(doubled(std::io::stdout().as_fd().try_clone_to_owned())?))
        }
        Stream::Fd { file, .. } => Arc::new(FileSink::new(doubled(file.try_clone().map(Into::into))?)),
    })
}

/// Puts the devices behind the root complex, from slot 1 on, their BARs side by side.
fn pci_bus(devices: Vec<Box<dyn Device>>, wiring: &Wiring) -> Result<PciRoot, BuildError> {
    let mut root = PciRoot::default();
    for (device, slot) in devices.into_iter().zip(1_u8..) {
        let bar = map::MMIO32_START + u64::from(slot - 1) * BAR_SIZE;
        let function = VirtioPci::new(device, wiring.clone(), bar)?;
        root.insert(slot, Arc::new(Mutex::new(function))).map_err(|_| BusOverlap { start: bar, len: BAR_SIZE })?;
    }
    Ok(root)
}

fn wire(pci: Arc<PciRoot>, serial: &Serial, _events: &Arc<EventSink>) -> Result<Buses, BuildError> {
    let shared = |device| -> SharedDevice { Arc::new(Mutex::new(device)) };
    let mut ports = Bus::default();
    ports.insert(u64::from(map::COM1_PORT), 8, shared(serial.clone()))?;
    ports.insert(u64::from(map::PCI_CONFIG_PORT), 8, Arc::new(Mutex::new(ConfigPorts(pci.clone()))))?;
    let mut mmio = Bus::default();
    mmio.insert(map::ECAM_START, map::ECAM_LEN, Arc::new(Mutex::new(Ecam(pci.clone()))))?;
    Ok(Buses { ports, mmio, pci })
}

fn make_vcpus(plan: &Plan, vm: &Arc<Vm>, entry: Entry) -> Result<Vec<(Vcpu, Arc<VcpuCounters>)>, KvmError> {
    let supported = vm.supported_cpuid()?;
    let listed = vm.msr_indices()?;
    let topology = plan.cpus.topology;
    let topology =
        Topology { sockets: topology.sockets.into(), cores: topology.cores.into(), threads: topology.threads.into() };
    let boot_msrs = msr::boot(&listed);
    (0..u32::from(plan.cpus.count))
        .map(|index| {
            let mut vcpu = vm.create_vcpu(topology.apic_id(index))?;
            vcpu.set_cpuid(&cpuid::for_vcpu(&supported, topology, index, vm.has_tsc_deadline()))?;
            vcpu.set_msrs(&boot_msrs)?;
            if index == 0 {
                vcpu.set_sregs(&registers::special(entry, &vcpu.sregs()?))?;
                vcpu.set_regs(&registers::general(entry))?;
            }
            vcpu.keep_power_on_state(msr::reset(&listed))?;
            Ok((vcpu, Arc::default()))
        })
        .collect()
}
