//! The DSDT: devices that a guest cannot find by itself, and what happens on their events.
//!
//! Main thread, while a machine is built. It must not do anything that a table can say: no method here has an effect
//! but the one that tells which event came.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, And, Arg, CreateDWordField, Device, EISAName, Else, Equal, Field,
    FieldAccessType, FieldEntry, FieldLockRule, FieldUpdateRule, IO, If, Interrupt, Local, Memory32Fixed, Method, Name,
    Notify, OpRegion, OpRegionSpace, Or, Package, Path, ResourceTemplate, Return, Scope, Store, Uuid, ZERO,
};
use acpi_tables::sdt::Sdt;

use super::{Described, OEM, OEM_REVISION, OEM_TABLE, bytes};
use crate::board::layout::{Layout, Window};
use crate::board::map::{
    COM1_IRQ, COM1_LEN, COM1_PORT, ECAM_LEN, ECAM_START, EVENT_GENERATION, EVENT_POWER_BUTTON, EVENTS_PORT, GED_IRQ,
    PCI_CONFIG_LEN, PCI_CONFIG_PORT, POWER_LEN, POWER_PORT, PVPANIC_PORT, RTC_LEN, RTC_PORT, SLEEP_TYPE_OFF,
    VM_GENERATION_ID,
};

/// Value of a notification: for a button "pressed", for the generation id "changed".
const NOTIFY: u8 = 0x80;

pub(super) fn dsdt(layout: &Layout, described: Described) -> Vec<u8> {
    let mut devices = vec![root_bridge(layout), motherboard(), events(), power_button(), generation_id(), panic_port()];
    if described.serial {
        devices.push(serial());
    }
    if described.rtc {
        devices.push(clock());
    }
    devices.extend((0_u8..).zip(&layout.apic_ids).map(|(index, _)| cpu(index)));
    let mut table = Sdt::new(*b"DSDT", 36, 2, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&sleep_off());
    table.append_slice(&Scope::raw("_SB_".into(), devices.concat()));
    table.as_slice().to_vec()
}

/// `\_S5`: the value for the sleep control register that means off. No other sleep state is there.
fn sleep_off() -> Vec<u8> {
    bytes(&Name::new("_S5_".into(), &Package::new(vec![&SLEEP_TYPE_OFF, &SLEEP_TYPE_OFF, &ZERO, &ZERO])))
}

/// The host bridge: bus 0, its two configuration ports and its memory windows. It has no I/O window, because no device
/// of ours has I/O BARs, and no `_PRT`, because none has an interrupt pin.
fn root_bridge(layout: &Layout) -> Vec<u8> {
    let window = |range: Window| {
        let last = range.end().saturating_sub(1);
        AddressSpace::new_memory(AddressSpaceCacheable::NotCacheable, true, range.start, last, None)
    };
    let bus = AddressSpace::new_bus_number(0_u16, 0);
    let ports = IO::new(PCI_CONFIG_PORT, PCI_CONFIG_PORT, 1, PCI_CONFIG_LEN as u8);
    let low = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout.pci_32.start as u32,
        layout.pci_32.end().saturating_sub(1) as u32,
        None,
    );
    let high = layout.pci_64.map(window);
    let mut resources: Vec<&dyn Aml> = vec![&bus, &ports, &low];
    if let Some(high) = &high {
        resources.push(high);
    }
    let body: [&dyn Aml; 6] = [
        &Name::new("_HID".into(), &EISAName::new("PNP0A08")),
        &Name::new("_CID".into(), &EISAName::new("PNP0A03")),
        &Name::new("_SEG".into(), &ZERO),
        &Name::new("_UID".into(), &ZERO),
        &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
        &Raw(features()),
    ];
    bytes(&Device::new("PCI0".into(), body.to_vec()))
}

/// `_OSC` of the host bridge (PCI Firmware 3.3 section 4.5.1): the guest may have power events, error reporting and the
/// capability structure for itself, but not hotplug, which no slot here has.
fn features() -> Vec<u8> {
    const GRANTED: u8 = 1 << 2 | 1 << 3 | 1 << 4;
    const UNKNOWN_UUID: u8 = 1 << 2;
    let (status, control) = (Path::new("CDW1"), Path::new("CDW3"));
    bytes(&Method::new(
        "_OSC".into(),
        4,
        true,
        vec![
            &CreateDWordField::new(&status, &Arg(3), &0_u8),
            &If::new(
                &Equal::new(&Arg(0), &Uuid::new("33db4d5b-1ff7-401c-9657-7441c03dd766")),
                vec![&CreateDWordField::new(&control, &Arg(3), &8_u8), &And::new(&control, &control, &GRANTED)],
            ),
            &Else::new(vec![&Or::new(&status, &status, &UNKNOWN_UUID)]),
            &Return::new(&Arg(3)),
        ],
    ))
}

/// What belongs to the board itself. Linux refuses ECAM that no such device reserves.
fn motherboard() -> Vec<u8> {
    let ecam = Memory32Fixed::new(true, ECAM_START as u32, ECAM_LEN as u32);
    let ports = IO::new(POWER_PORT, POWER_PORT, 1, POWER_LEN as u8);
    simple("MRES", &EISAName::new("PNP0C02"), vec![&ecam, &ports])
}

/// Generic event device (ACPI 6.5 section 5.6.9.2): its interrupt says that the event register has something.
fn events() -> Vec<u8> {
    let interrupt = Interrupt::new(true, true, false, false, GED_IRQ.into());
    let body: [&dyn Aml; 6] = [
        &Name::new("_HID".into(), &"ACPI0013"),
        &Name::new("_UID".into(), &ZERO),
        &Name::new("_CRS".into(), &ResourceTemplate::new(vec![&interrupt])),
        &OpRegion::new("EVTS".into(), OpRegionSpace::SystemIO, &EVENTS_PORT, &4_u8),
        &Field::new(
            "EVTS".into(),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::Preserve,
            vec![FieldEntry::Named(*b"PEND", 32)],
        ),
        &Raw(on_event()),
    ];
    bytes(&Device::new("GED_".into(), body.to_vec()))
}

/// `_EVT`: reads the pending events, once, because reading clears them, and passes them on.
fn on_event() -> Vec<u8> {
    let (button, generation) = (Path::new("\\_SB_.PWRB"), Path::new("\\_SB_.VGEN"));
    let (pressed, changed) = (Notify::new(&button, &NOTIFY), Notify::new(&generation, &NOTIFY));
    bytes(&Method::new(
        "_EVT".into(),
        1,
        true,
        vec![
            &Store::new(&Local(0), &Path::new("PEND")),
            &If::new(&And::new(&ZERO, &Local(0), &EVENT_POWER_BUTTON), vec![&pressed]),
            &If::new(&And::new(&ZERO, &Local(0), &EVENT_GENERATION), vec![&changed]),
        ],
    ))
}

fn power_button() -> Vec<u8> {
    let body: [&dyn Aml; 2] = [&Name::new("_HID".into(), &EISAName::new("PNP0C0C")), &Name::new("_UID".into(), &ZERO)];
    bytes(&Device::new("PWRB".into(), body.to_vec()))
}

/// VM generation id: where the guest finds the number that changes when the machine is restored or cloned. Guests match
/// `_CID`; the `_HID` is the maker's own.
fn generation_id() -> Vec<u8> {
    let (low, high) = (VM_GENERATION_ID as u32, (VM_GENERATION_ID >> 32) as u32);
    let body: [&dyn Aml; 4] = [
        &Name::new("_HID".into(), &"QNTX0001"),
        &Name::new("_CID".into(), &"VM_Gen_Counter"),
        &Name::new("_DDN".into(), &"VM_Gen_Counter"),
        &Name::new("ADDR".into(), &Package::new(vec![&low, &high])),
    ];
    bytes(&Device::new("VGEN".into(), body.to_vec()))
}

/// pvpanic: the guest's last word.
fn panic_port() -> Vec<u8> {
    simple("PEVT", &"QEMU0001", vec![&IO::new(PVPANIC_PORT, PVPANIC_PORT, 1, 1)])
}

fn serial() -> Vec<u8> {
    let ports = IO::new(COM1_PORT, COM1_PORT, 1, COM1_LEN as u8);
    let interrupt = Interrupt::new(true, true, false, false, COM1_IRQ.into());
    simple("COM1", &EISAName::new("PNP0501"), vec![&ports, &interrupt])
}

/// The clock has no interrupt: alarms and periodic ticks are not there.
fn clock() -> Vec<u8> {
    simple("RTC_", &EISAName::new("PNP0B00"), vec![&IO::new(RTC_PORT, RTC_PORT, 1, RTC_LEN as u8)])
}

/// A processor; its `_UID` is the one in the MADT.
fn cpu(index: u8) -> Vec<u8> {
    let body: [&dyn Aml; 2] = [&Name::new("_HID".into(), &"ACPI0007"), &Name::new("_UID".into(), &index)];
    bytes(&Device::new(Path::new(&format!("C{index:03X}")), body.to_vec()))
}

/// A device with a name, an id and resources.
fn simple(name: &str, id: &dyn Aml, resources: Vec<&dyn Aml>) -> Vec<u8> {
    let body: [&dyn Aml; 3] = [
        &Name::new("_HID".into(), id),
        &Name::new("_UID".into(), &ZERO),
        &Name::new("_CRS".into(), &ResourceTemplate::new(resources)),
    ];
    bytes(&Device::new(Path::new(name), body.to_vec()))
}

/// AML that is made already.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}
