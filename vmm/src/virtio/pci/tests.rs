//! Transport tests: a driver written as plain register accesses, an honest one and a wild one.

use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vmm_sys_util::eventfd::EventFd;

use super::*;
use crate::memory::Backing;
use crate::telemetry::QueueCounters;
use crate::virtio::{Source, Worker};

/// Echoes the length of each readable buffer; faults when asked to by an empty chain.
struct Echo(Queue);

impl Worker for Echo {
    fn sources(&self) -> Vec<Source> {
        Vec::new()
    }
    fn on_event(&mut self, _token: u32) -> Result<(), WorkerError> {
        while let Some(chain) = self.0.pop()? {
            let len = chain.readable.len();
            self.0.push(chain, len)?;
        }
        Ok(self.0.signal()?)
    }
    fn quiesce(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }
    fn resume(&mut self) -> Result<(), WorkerError> {
        Ok(())
    }
}

struct EchoDevice;

impl Device for EchoDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }
    fn id(&self) -> &'static str {
        "echo"
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![16]
    }
    fn features(&self) -> u64 {
        0b100
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        data.fill(offset as u8);
    }
    fn counters(&self) -> Vec<Arc<QueueCounters>> {
        Vec::new()
    }
    fn activate(&mut self, mut activation: Activation) -> Result<Vec<Box<dyn Worker>>, WorkerError> {
        let queue = activation.queues.pop().flatten().ok_or(GuestFault::Protocol("Queue 0 is not enabled"))?;
        Ok(vec![Box::new(Echo(queue))])
    }
    fn reset(&mut self) {}
}

/// Runs a worker when told to, on the test's own thread.
#[derive(Default)]
struct OneThread(Mutex<Vec<(Box<dyn Worker>, OnError)>>);
type OnError = Arc<dyn Fn(WorkerError) + Send + Sync>;

impl WorkerHost for OneThread {
    fn start(&self, workers: Vec<Box<dyn Worker>>, on_error: OnError) -> WorkerGroup {
        self.0.lock().unwrap().extend(workers.into_iter().map(|w| (w, on_error.clone())));
        WorkerGroup(0)
    }
    fn stop(&self, _group: WorkerGroup) {
        self.0.lock().unwrap().clear();
    }
}

impl OneThread {
    fn turn(&self) {
        self.0.lock().unwrap().retain_mut(|(worker, on_error)| match worker.on_event(0) {
            Ok(()) => true,
            Err(error) => {
                on_error(error);
                false
            }
        });
    }
}

#[derive(Default)]
struct Host {
    messages: Mutex<Vec<u32>>,
    doorbells: Mutex<Vec<u64>>,
}

impl MsiSink for Host {
    fn signal(&self, _address: u64, data: u32) -> std::io::Result<()> {
        self.messages.lock().unwrap().push(data);
        Ok(())
    }
}

impl Doorbells for Host {
    fn attach(&self, address: u64, _fd: &EventFd) -> std::io::Result<()> {
        self.doorbells.lock().unwrap().push(address);
        Ok(())
    }
    fn detach(&self, address: u64, _fd: &EventFd) -> std::io::Result<()> {
        self.doorbells.lock().unwrap().retain(|a| *a != address);
        Ok(())
    }
}

struct Setup {
    function: VirtioPci,
    host: Arc<Host>,
    threads: Arc<OneThread>,
    memory: GuestMemory,
}

const BAR: u64 = 0xc000_0000;

fn setup() -> Setup {
    let host = Arc::new(Host::default());
    let threads = Arc::new(OneThread::default());
    let memory = GuestMemory::map(&[(0, 0x10000)], Backing::default()).unwrap();
    let wiring = Wiring { memory, msi: host.clone(), doorbells: host.clone(), workers: threads.clone() };
    let function = VirtioPci::new(Box::new(EchoDevice), wiring, BAR).unwrap();
    Setup { function, host, threads, memory }
}

impl Setup {
    fn write(&mut self, offset: u64, value: u64, width: usize) {
        self.function.write_bar(0, offset, &value.to_le_bytes()[..width]);
    }
    fn read(&mut self, offset: u64, width: usize) -> u64 {
        let mut bytes = [0; 8];
        self.function.read_bar(0, offset, &mut bytes[..width]);
        u64::from_le_bytes(bytes)
    }
    /// Section 3.1.1, up to `DRIVER_OK`, with MSI-X vector 1 for queue 0.
    fn initialise(&mut self) {
        self.write(0x14, 0, 1);
        self.write(0x14, 3, 1);
        self.write(0x08, 1, 4);
        self.write(0x0c, 1, 4);
        self.write(0x14, 11, 1);
        assert_eq!(self.read(0x14, 1), 11);
        self.function.write_config(self.function.msix_capability + 2, &0x8000_u16.to_le_bytes());
        self.write(MSIX_TABLE + 16, 0xfee0_0000, 8);
        self.write(MSIX_TABLE + 24, 0x77, 8);
        self.write(0x16, 0, 2);
        self.write(0x1a, 1, 2);
        self.write(0x20, 0x1000, 8);
        // The driver area in two halves, as some drivers do.
        self.write(0x28, 0x2000, 4);
        self.write(0x2c, 0, 4);
        self.write(0x30, 0x3000, 8);
        self.write(0x1c, 1, 2);
        self.write(0x14, 15, 1);
    }
    /// Offers one readable buffer of `len` bytes at `address`.
    fn offer(&self, address: u64, len: u32) {
        let memory = self.memory.slice(0, 0x10000).unwrap();
        memory.write_obj(0x1000, &address.to_le()).unwrap();
        memory.write_obj(0x1008, &u64::from(len).to_le()).unwrap();
        let index: u16 = memory.read_obj(0x2002).unwrap();
        memory.write_obj(0x2002, &(index + 1)).unwrap();
    }
}

#[test]
fn a_driver_finds_features_queues_and_an_interrupt() {
    let mut s = setup();
    assert_eq!(s.read(0x12, 2), 1);
    assert_eq!(s.read(0x04, 4) & 0b100, 0b100);
    assert_eq!(s.read(0x18, 2), 16);
    assert_eq!(s.read(DEVICE + 9, 1), 9);
    s.initialise();
    assert_eq!(*s.host.doorbells.lock().unwrap(), [BAR + NOTIFY]);
    s.offer(0x4000, 123);
    s.threads.turn();
    assert_eq!(s.memory.slice(0x3000, 16).unwrap().read_obj::<u64>(4), Some(123 << 32));
    assert_eq!(*s.host.messages.lock().unwrap(), [0x77]);
}

#[test]
fn a_fault_needs_a_reset_and_the_reset_heals() {
    let mut s = setup();
    s.initialise();
    s.offer(0xffff_0000, 123);
    s.threads.turn();
    assert!(s.function.needs_reset());
    assert!(s.threads.0.lock().unwrap().is_empty());
    s.write(0x14, 0, 1);
    assert_eq!(s.read(0x14, 1), 0);
    assert!(s.host.doorbells.lock().unwrap().is_empty());
    s.memory.slice(0, 0x10000).unwrap().zero();
    s.initialise();
    s.offer(0x4000, 5);
    s.threads.turn();
    assert!(!s.function.needs_reset());
}

#[test]
fn features_that_were_not_offered_are_not_accepted() {
    let mut s = setup();
    s.write(0x08, 0, 4);
    s.write(0x0c, 0xffff_ffff, 4);
    s.write(0x08, 1, 4);
    s.write(0x0c, 1, 4);
    s.write(0x14, 11, 1);
    assert_eq!(s.read(0x14, 1), 3);
}

#[test]
fn rings_outside_of_memory_need_a_reset_not_a_crash() {
    let mut s = setup();
    for (register, value) in [(0x20, u64::MAX - 15), (0x28, 0xfff0_0000), (0x30, 0x10000)] {
        s.initialise();
        s.write(0x14, 0, 1);
        s.write(0x14, 3, 1);
        s.write(0x08, 1, 4);
        s.write(0x0c, 1, 4);
        s.write(0x14, 11, 1);
        s.write(register, value, 8);
        s.write(0x1c, 1, 2);
        s.write(0x14, 15, 1);
        assert!(s.function.needs_reset(), "register {register:#x}");
    }
}

#[test]
fn doorbells_follow_the_bar() {
    let mut s = setup();
    s.initialise();
    s.function.write_config(0x10, &0xd000_0000_u32.to_le_bytes());
    assert_eq!(*s.host.doorbells.lock().unwrap(), [0xd000_0000 + NOTIFY]);
    s.function.write_config(0x04, &0_u16.to_le_bytes());
    assert!(s.host.doorbells.lock().unwrap().is_empty());
}

#[test]
fn the_configuration_window_reaches_the_registers() {
    let mut s = setup();
    let at = s.function.window_capability;
    s.function.write_config(at + 8, &0x12_u32.to_le_bytes());
    s.function.write_config(at + 12, &2_u32.to_le_bytes());
    let mut data = [0; 4];
    s.function.read_config(at + 16, &mut data);
    assert_eq!(data, [1, 0, 0, 0]);
}

proptest! {
    #[test]
    fn wild_accesses_change_nothing_but_the_device(
        accesses in prop::collection::vec((0_u64..BAR_SIZE + 8, any::<u64>(), 1_usize..9, any::<bool>(), any::<bool>()), 0..200)
    ) {
        let mut s = setup();
        s.initialise();
        for (offset, value, width, write, config) in accesses {
            match (write, config) {
                (true, true) => s.function.write_config(offset as u16 % 4096, &value.to_le_bytes()[..width]),
                (false, true) => s.function.read_config(offset as u16 % 4096, &mut [0; 8][..width]),
                (true, false) => s.write(offset, value, width),
                (false, false) => { s.read(offset, width); }
            }
            s.threads.turn();
        }
        s.write(0x14, 0, 1);
        prop_assert_eq!(s.read(0x14, 1), 0);
    }
}
