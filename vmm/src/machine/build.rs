//! From opened files to a VM that could run: memory, KVM, buses, devices, boot data, vCPUs.
//!
//! Main thread. The order is KVM's: memory slots before the irqchip, both before any ioeventfd.

use std::sync::{Arc, Mutex};

use kvm_bindings::CpuId;

use super::boot_image::BootImage;
use super::control::ControlSide;
use super::events::EventSink;
use super::exits::Buses;
use super::handles::{ConsoleEnds, Handles};
use super::open::{OpenError, Opened, Stream, open_api_socket};
use super::output::{Printed, printed_to};
use crate::arch::x86_64::boot::BootError;
use crate::arch::x86_64::cpuid::{self, Topology};
use crate::arch::x86_64::kernel::{Entry, KernelError};
use crate::arch::x86_64::{msr, registers};
use crate::board::acpi::AcpiRoom;
use crate::board::{Layout, LayoutError, NodeShape, map};
use crate::bus::pci::{ConfigPorts, Ecam, HostBridge, PciRoot};
use crate::bus::{Bus, BusDevice, BusOverlap, SharedDevice};
use crate::config::{HugePages, Plan};
use crate::control::Server;
use crate::devices::legacy::SignalSink;
use crate::devices::legacy::i8042::I8042;
use crate::devices::legacy::ioapic::{IoApic, IoApicLine};
use crate::devices::legacy::power::{Events, Power};
use crate::devices::legacy::pvpanic::PvPanic;
use crate::devices::legacy::rtc::Rtc;
use crate::devices::legacy::serial::Serial;
use crate::devices::registry::{Opener, ROWS};
use crate::kvm::{Gate, KvmError, Vcpu, VcpuCounters, Vm};
use crate::memory::{Backing, GuestMemory, MemoryError, Pages};
use crate::reactor::Reactor;
use crate::sandbox::FdStore;
use crate::telemetry::{Step, mark};
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
    /// The initrd cannot be read, or does not fit.
    #[error("--initrd {path}")]
    Initrd {
        /// The file.
        path: String,
        /// Why.
        source: BootError,
    },
    /// Boot data do not fit.
    #[error("--memory")]
    Boot(#[from] BootError),
    /// The machine does not fit into the address space.
    #[error("--memory")]
    Layout(#[from] LayoutError),
    /// More tables than room: a mistake of ours.
    #[error("The board is inconsistent")]
    Acpi(#[from] AcpiRoom),
    /// Two devices claim an address: a mistake of ours.
    #[error("The board is inconsistent")]
    Bus(#[from] BusOverlap),
    /// The host lacks something.
    #[error("The host has not enough resources")]
    Host(#[from] HostError),
}

/// A VM with its devices, before its threads run.
pub struct Machine {
    pub(super) memory: GuestMemory,
    pub(super) buses: Arc<Buses>,
    pub(super) vcpus: Vec<(Vcpu, Arc<VcpuCounters>)>,
    pub(super) gate: Arc<Gate>,
    pub(super) events: Arc<EventSink>,
    pub(super) workers: Arc<LateReactor>,
    pub(super) io_threads: usize,
    pub(super) boot_image: BootImage,
    pub(super) reboot: bool,
    pub(super) control: ControlSide,
    pub(super) server: Option<Server>,
}

/// A device on the bus, for whoever looks at it from outside.
pub(super) type SharedFunction = Arc<Mutex<VirtioPci>>;

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

fn backing(plan: &Plan) -> Backing {
    let pages = match plan.memory.hugepages {
        HugePages::None => Pages::Small,
        HugePages::Size2M => Pages::Huge2M,
        HugePages::Size1G => Pages::Huge1G,
    };
    Backing { pages, shared: plan.memory.shared, prefault: plan.memory.prefault }
}

/// One I/O thread, or as many as the device with the most queues has, as far as the host has CPUs for them.
fn io_threads(plan: &Plan) -> usize {
    let queues = plan.disks.iter().map(|disk| disk.queues).chain(plan.nets.iter().map(|net| net.queues));
    let most = queues.map(|queues| usize::from(queues.get())).max().unwrap_or(1);
    most.min(std::thread::available_parallelism().map_or(1, usize::from))
}

fn topology(plan: &Plan) -> Topology {
    let asked = plan.cpus.topology;
    Topology { sockets: asked.sockets.into(), cores: asked.cores.into(), threads: asked.threads.into() }
}

/// Where everything of the machine is.
fn lay_out(plan: &Plan, address_bits: u8) -> Result<Layout, LayoutError> {
    let topology = topology(plan);
    let apic_ids = (0..plan.cpus.count.into()).map(|index| topology.apic_id(index)).collect();
    let nodes = plan.memory.numa.iter().map(|node| NodeShape {
        size_bytes: node.size_bytes,
        first_cpu: node.cpus.first,
        last_cpu: node.cpus.last,
        distances: node.distances.clone(),
    });
    Layout::new(plan.memory.size_bytes, apic_ids, nodes.collect(), address_bits)
}

impl Machine {
    /// Builds the machine that `plan` describes from what was opened for it.
    pub fn build(plan: &Plan, opened: Opened, fds: &mut FdStore) -> Result<Self, BuildError> {
        mark(Step::Fds);
        let vm = Arc::new(Vm::new(opened.kvm)?);
        let supported = vm.supported_cpuid()?;
        let layout = lay_out(plan, cpuid::address_bits(&supported))?;
        let ranges: Vec<_> = layout.ram.iter().map(|range| (range.start, range.size_bytes)).collect();
        let memory = GuestMemory::map(&ranges, backing(plan))?;
        vm.set_memory(&memory)?;
        vm.create_irqchip()?;
        mark(Step::KvmCreate);
        let mut boot_image = BootImage::new(plan, opened.kernel, opened.initrd, layout)?;
        let entry = boot_image.load(&memory)?;
        mark(Step::Load);

        let events = Arc::new(EventSink::new().map_err(|e| HostError::new("Could not make an event fd", e))?);
        let Printed { output, sink, held } = printed_to(&opened.serial)?;
        let io_apic = Arc::new(Mutex::new(IoApic::new(vm.clone())));
        let serial = Serial::new(sink, Arc::new(IoApicLine::new(io_apic.clone(), map::COM1_IRQ)))?;
        let ged = Events::new(Arc::new(IoApicLine::new(io_apic.clone(), map::GED_IRQ)));
        let mut handles = Handles { held: held.into_iter().collect(), ..Handles::default() };
        let devices = open_devices(&mut Opener { plan, fds, handles: &mut handles })?;
        let workers = Arc::new(LateReactor::default());
        let wiring = Wiring { memory, msi: vm.clone(), doorbells: vm.clone(), workers: workers.clone() };
        let (pci, functions) = pci_bus(devices, &wiring)?;
        let legacy = Legacy { io_apic, serial: serial.clone(), ged: ged.clone() };
        let buses = Arc::new(wire(pci, legacy, &events)?);
        handles.power_button = Some(Box::new(move || ged.press_power_button()));
        let vcpus = make_vcpus(&vm, &boot_image.layout().apic_ids, topology(plan), entry, &supported)?;
        if matches!(opened.serial, Stream::Stdio) {
            handles.keyboard = Some(Box::new(serial.clone()));
        }
        handles.serial = Some(ConsoleEnds { output, input: Box::new(serial), stream: opened.serial });
        let api_socket = plan.api_socket.as_ref().map(|source| open_api_socket(fds, source)).transpose()?;
        let mut control = ControlSide::new(plan, functions, handles, fds)?;
        let server = control.serve(api_socket)?;
        Ok(Self {
            memory,
            buses,
            vcpus,
            gate: Arc::default(),
            events,
            workers,
            io_threads: io_threads(plan),
            boot_image,
            reboot: plan.reboot,
            control,
            server: Some(server),
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

/// Puts the devices behind the root complex, from slot 1 on, their BARs side by side.
fn pci_bus(devices: Vec<Box<dyn Device>>, wiring: &Wiring) -> Result<(Arc<PciRoot>, Vec<SharedFunction>), BuildError> {
    let mut root = PciRoot::default();
    let bridge = Arc::new(Mutex::new(HostBridge::default()));
    root.insert(0, bridge).map_err(|_| BusOverlap { start: map::ECAM_START, len: map::ECAM_LEN })?;
    let mut functions = Vec::new();
    for (device, slot) in devices.into_iter().zip(1_u8..) {
        let bar = map::MMIO32_START + u64::from(slot - 1) * BAR_SIZE;
        let function = Arc::new(Mutex::new(VirtioPci::new(device, wiring.clone(), bar)?));
        functions.push(function.clone());
        root.insert(slot, function).map_err(|_| BusOverlap { start: bar, len: BAR_SIZE })?;
    }
    Ok((Arc::new(root), functions))
}

/// The devices that are not on PCI.
struct Legacy {
    io_apic: Arc<Mutex<IoApic>>,
    serial: Serial,
    ged: Events,
}

/// The host's wall clock, for the RTC.
fn wall_clock() -> std::time::Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

fn wire(pci: Arc<PciRoot>, legacy: Legacy, events: &Arc<EventSink>) -> Result<Buses, BusOverlap> {
    fn shared(device: impl BusDevice + 'static) -> SharedDevice {
        Arc::new(Mutex::new(device))
    }
    let events = events.clone();
    let signals: SignalSink = Arc::new(move |signal| events.send(signal.into()));
    let Legacy { io_apic, serial, ged } = legacy;
    let ports_of = [
        (map::COM1_PORT, map::COM1_LEN, shared(serial)),
        (map::I8042_PORT, map::I8042_LEN, shared(I8042::new(signals.clone()))),
        (map::RTC_PORT, map::RTC_LEN, shared(Rtc::new(Box::new(wall_clock)))),
        (map::PVPANIC_PORT, 1, shared(PvPanic::new(signals.clone()))),
        (map::POWER_PORT, map::POWER_LEN, shared(Power::new(ged, signals))),
        (map::PCI_CONFIG_PORT, map::PCI_CONFIG_LEN, shared(ConfigPorts(pci.clone()))),
    ];
    let mut ports = Bus::default();
    for (start, len, device) in ports_of {
        ports.insert(start.into(), len.into(), device)?;
    }
    let mut mmio = Bus::default();
    mmio.insert(map::ECAM_START, map::ECAM_LEN, shared(Ecam(pci.clone())))?;
    let chip = io_apic.clone();
    mmio.insert(map::IOAPIC_START, map::IOAPIC_LEN, io_apic)?;
    Ok(Buses { ports, mmio, pci, io_apic: chip })
}

fn make_vcpus(
    vm: &Arc<Vm>,
    apic_ids: &[u32],
    topology: Topology,
    entry: Entry,
    supported: &CpuId,
) -> Result<Vec<(Vcpu, Arc<VcpuCounters>)>, KvmError> {
    let listed = vm.msr_indices()?;
    let boot_msrs = msr::boot(&listed);
    (0..)
        .zip(apic_ids)
        .map(|(index, apic_id)| {
            let mut vcpu = vm.create_vcpu(*apic_id)?;
            vcpu.set_cpuid(&cpuid::for_vcpu(supported, topology, index, vm.has_tsc_deadline()))?;
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
