//! PCI tests: sizing, moving and decoding of BARs, the two ways to configuration space, MSI-X masking.

use std::sync::{Arc, Mutex};

use super::*;
use crate::bus::{BusDevice as _, MsiSink};

struct Plain(ConfigSpace);

impl PciFunction for Plain {
    fn read_config(&mut self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }
    fn write_config(&mut self, offset: u16, data: &[u8]) {
        self.0.write(offset, data);
    }
    fn windows(&self) -> Vec<BarWindow> {
        self.0.windows()
    }
    fn read_bar(&mut self, bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(bar + offset as u8);
    }
    fn write_bar(&mut self, _bar: u8, _offset: u64, _data: &[u8]) {}
    fn reset(&mut self) {
        self.0.reset();
    }
}

const IDENTITY: Identity = Identity {
    vendor: 0x1af4,
    device: 0x1042,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
    class: [1, 0x80, 0],
    revision: 1,
};

fn root() -> Arc<PciRoot> {
    let mut space = ConfigSpace::new(IDENTITY);
    space.add_bar(0, BarKind::Memory64, 0x8000, 0xc000_0000);
    let mut root = PciRoot::default();
    root.insert(1, Arc::new(Mutex::new(Plain(space)))).unwrap();
    Arc::new(root)
}

fn port_read(ports: &mut ConfigPorts, slot: u32, register: u32) -> u32 {
    ports.write(0, &(1 << 31 | slot << 11 | register).to_le_bytes());
    let mut data = [0; 4];
    ports.read(4, &mut data);
    u32::from_le_bytes(data)
}

fn port_write(ports: &mut ConfigPorts, slot: u32, register: u32, value: u32) {
    ports.write(0, &(1 << 31 | slot << 11 | register).to_le_bytes());
    ports.write(4, &value.to_le_bytes());
}

#[test]
fn ports_and_ecam_show_the_same_space() {
    let root = root();
    let (mut ports, mut ecam) = (ConfigPorts(root.clone()), Ecam(root));
    for register in (0..256).step_by(4) {
        let mut data = [0; 4];
        ecam.read(0x8000 + u64::from(register), &mut data);
        assert_eq!(port_read(&mut ports, 1, register), u32::from_le_bytes(data), "register {register:#x}");
    }
    assert_eq!(port_read(&mut ports, 1, 0), 0x1042_1af4);
    assert_eq!(port_read(&mut ports, 2, 0), u32::MAX);
}

#[test]
fn a_bar_tells_its_size_and_moves() {
    let root = root();
    let mut ports = ConfigPorts(root.clone());
    port_write(&mut ports, 1, 0x10, u32::MAX);
    port_write(&mut ports, 1, 0x14, u32::MAX);
    assert_eq!(port_read(&mut ports, 1, 0x10), 0xffff_8004);
    assert_eq!(port_read(&mut ports, 1, 0x14), u32::MAX);
    port_write(&mut ports, 1, 0x10, 0x4000_0000);
    port_write(&mut ports, 1, 0x14, 0x80);
    let mut data = [0; 1];
    assert!(!root.read_memory(0xc000_0000, &mut data));
    assert!(root.read_memory(0x80_4000_0003, &mut data));
    assert_eq!(data, [3]);
    port_write(&mut ports, 1, 0x04, 0);
    assert!(!root.read_memory(0x80_4000_0003, &mut data), "memory decoding is off");
    root.reset();
    assert!(root.read_memory(0xc000_0000, &mut data), "reset puts the BAR back");
}

#[test]
fn identity_is_read_only_and_capabilities_are_linked() {
    let mut space = ConfigSpace::new(IDENTITY);
    let first = space.add_capability(9, &[16, 1, 2]);
    let second = space.add_capability(0x11, &[0; 10]);
    space.write(0, &[0xff; 16]);
    assert_eq!(space.u32_at(0), 0x1042_1af4);
    assert_eq!(usize::from(space.u16_at(0x34)), first);
    assert_eq!(usize::from(space.u16_at(first as u16) >> 8), second);
    assert_eq!(space.u16_at(second as u16) >> 8, 0);
}

#[derive(Default)]
struct Messages(Mutex<Vec<(u64, u32)>>);

impl MsiSink for Messages {
    fn signal(&self, address: u64, data: u32) -> std::io::Result<()> {
        self.0.lock().unwrap().push((address, data));
        Ok(())
    }
}

#[test]
fn a_masked_vector_waits_until_it_is_unmasked() {
    let messages = Arc::new(Messages::default());
    let msix = Msix::new(2, messages.clone());
    msix.write_table(16, &0xfee0_0000_u64.to_le_bytes());
    msix.write_table(24, &0x41_u32.to_le_bytes());
    msix.signal(1);
    msix.set_control(1 << 15);
    msix.signal(1);
    let mut pending = [0];
    msix.read_pending(0, &mut pending);
    assert_eq!(pending, [0b10]);
    assert!(messages.0.lock().unwrap().is_empty());
    msix.write_table(28, &0_u32.to_le_bytes());
    assert_eq!(*messages.0.lock().unwrap(), [(0xfee0_0000, 0x41)]);
    msix.read_pending(0, &mut pending);
    assert_eq!(pending, [0]);
    msix.signal(1);
    msix.signal(NO_VECTOR);
    assert_eq!(messages.0.lock().unwrap().len(), 2);
}
