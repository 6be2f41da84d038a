//! The tables of fixed form: FADT, MADT, MCFG, SRAT, SLIT.
//!
//! Main thread, while a machine is built. It must not decide addresses: `map.rs` and `layout.rs` do.

use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::sdt::Sdt;

use super::{Described, OEM, OEM_REVISION, OEM_TABLE, bytes};
use crate::board::layout::{Layout, NodeShape};
use crate::board::map::{
    ECAM_START, IOAPIC_START, LAPIC_START, RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT,
};

/// Length of the header that every table starts with.
const HEADER: u32 = 36;

/// Boot architecture flags (ACPI 6.5 section 5.2.9.3). Clear are "legacy devices" and "8042".
const VGA_NOT_PRESENT: u16 = 1 << 2;
/// Nothing on this bus saves power by link states: the guest need not look.
const NO_ASPM: u16 = 1 << 4;
/// No real-time clock at ports 0x70 and 0x71.
const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// A worst-case latency above this says "no such power state" (ACPI 6.5 table 5.9, `P_LVL2_LAT` and `P_LVL3_LAT`).
const NO_SUCH_STATE: u16 = 0x0fff;

/// FADT (section 5.2.9).
pub(super) fn fadt(dsdt: u64, described: Described) -> Vec<u8> {
    let register = |port: u16| GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, u64::from(port));
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_64(dsdt)
        .preferred_pm_profile(PmProfile::EnterpriseServer)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::Headless)
        // These three say that the feature is not among the fixed ones.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc);
    let no_rtc = if described.rtc { 0 } else { CMOS_RTC_NOT_PRESENT };
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | NO_ASPM | no_rtc).into();
    fadt.p_lvl2_lat = NO_SUCH_STATE.into();
    fadt.p_lvl3_lat = NO_SUCH_STATE.into();
    fadt.reset_reg = register(RESET_PORT);
    fadt.reset_value = RESET_VALUE;
    fadt.sleep_control_reg = register(SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = register(SLEEP_STATUS_PORT);
    bytes(&fadt.finalize())
}

/// MADT (section 5.2.12). Flags are zero: there is no 8259, and nothing for the guest to mask.
pub(super) fn madt(apic_ids: &[u32]) -> Vec<u8> {
    const IO_APIC: [u8; 2] = [1, 12];
    let mut body = Vec::new();
    body.extend((LAPIC_START as u32).to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    for (cpu, id) in (0_u8..).zip(apic_ids) {
        body.extend(local_apic(cpu, *id));
    }
    body.extend(IO_APIC);
    // Id 0, a reserved byte, the registers, first interrupt 0.
    body.extend([0, 0]);
    body.extend((IOAPIC_START as u32).to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    table(*b"APIC", 5, &body)
}

/// A local APIC (section 5.2.12.2), or a local x2APIC (5.2.12.12) where the id needs it.
fn local_apic(cpu: u8, id: u32) -> Vec<u8> {
    const ENABLED: u32 = 1;
    let mut entry = match u8::try_from(id) {
        Ok(id @ ..=254) => vec![0, 8, cpu, id],
        _ => [&[9, 16, 0, 0][..], &id.to_le_bytes()].concat(),
    };
    let long = entry.len() > 4;
    entry.extend(ENABLED.to_le_bytes());
    if long {
        entry.extend(u32::from(cpu).to_le_bytes());
    }
    entry
}

/// MCFG (PCI Firmware 3.3 section 4.1.2): segment 0, bus 0.
pub(super) fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    mcfg.add_ecam(ECAM_START, 0, 0, 0);
    bytes(&mcfg)
}

/// SRAT (section 5.2.16): which node has which vCPUs and which memory.
pub(super) fn srat(layout: &Layout) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(1_u32.to_le_bytes());
    body.extend(0_u64.to_le_bytes());
    for (node, shape) in (0_u32..).zip(&layout.nodes) {
        let ids = layout.apic_ids.get(usize::from(shape.first_cpu)..=usize::from(shape.last_cpu));
        for id in ids.unwrap_or_default() {
            body.extend(cpu_affinity(node, *id));
        }
    }
    for piece in &layout.numa_ranges {
        body.extend(memory_affinity(piece.node, piece.range.start, piece.range.size_bytes));
    }
    table(*b"SRAT", 3, &body)
}

const ENABLED: u32 = 1;

/// Local APIC affinity (section 5.2.16.1), or that of a local x2APIC (5.2.16.3).
fn cpu_affinity(node: u32, id: u32) -> Vec<u8> {
    let mut entry = Vec::new();
    if let Ok(id @ ..=254) = u8::try_from(id) {
        let [low, high @ ..] = node.to_le_bytes();
        entry.extend([0, 16, low, id]);
        entry.extend(ENABLED.to_le_bytes());
        // A reserved byte (no SAPIC), the node's upper bytes, the clock domain.
        entry.push(0);
        entry.extend(high);
        entry.extend(0_u32.to_le_bytes());
    } else {
        entry.extend([2, 24, 0, 0]);
        for word in [node, id, ENABLED, 0, 0] {
            entry.extend(word.to_le_bytes());
        }
    }
    entry
}

/// Memory affinity (section 5.2.16.2).
fn memory_affinity(node: u32, start: u64, size_bytes: u64) -> Vec<u8> {
    let mut entry = vec![1, 40];
    entry.extend(node.to_le_bytes());
    entry.extend(0_u16.to_le_bytes());
    entry.extend(start.to_le_bytes());
    entry.extend(size_bytes.to_le_bytes());
    entry.extend(0_u32.to_le_bytes());
    entry.extend(ENABLED.to_le_bytes());
    entry.extend(0_u64.to_le_bytes());
    entry
}

/// SLIT (section 5.2.17): the distance from each node to each.
pub(super) fn slit(nodes: &[NodeShape]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend((nodes.len() as u64).to_le_bytes());
    for node in nodes {
        body.extend_from_slice(&node.distances);
    }
    table(*b"SLIT", 1, &body)
}

fn table(signature: [u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Sdt::new(signature, HEADER, revision, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(body);
    table.as_slice().to_vec()
}
