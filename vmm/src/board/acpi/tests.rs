//! Checks on the tables as bytes, and by `iasl`, the reference disassembler and compiler, where it is installed.

use std::path::Path;
use std::process::Command;

use super::*;
use crate::board::layout::NodeShape;
use crate::board::map::GIB;

const ALL: Described = Described { serial: true, rtc: true };

fn small() -> Layout {
    Layout::new(GIB / 2, vec![0, 1], Vec::new(), 46).unwrap()
}

/// The most of everything: 125 vCPUs whose ids pass 255, one node each, memory on both sides of the hole.
fn large() -> Layout {
    let node = |cpu| NodeShape { size_bytes: GIB, first_cpu: cpu, last_cpu: cpu, distances: vec![20; 125] };
    // Five sockets of 5 cores of 5 threads, each number in a bit field of 3.
    let ids = (0..125).map(|cpu| (cpu / 25) << 6 | (cpu / 5 % 5) << 3 | (cpu % 5)).collect();
    Layout::new(125 * GIB, ids, (0..125).map(node).collect(), 46).unwrap()
}

/// The table at `address`.
fn table(tables: &Tables, address: u64) -> &[u8] {
    let start = (address - tables.address) as usize;
    let length = u32::from_le_bytes(tables.bytes[start + 4..start + 8].try_into().unwrap()) as usize;
    &tables.bytes[start..start + length]
}

fn quad(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

/// Follows the pointers from the RSDP and gives every table with its signature.
fn walk(tables: &Tables) -> Vec<(String, &[u8])> {
    let rsdp = &tables.bytes[..RSDP_SIZE];
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!(sum(&rsdp[..20]), 0);
    assert_eq!(sum(rsdp), 0);
    let xsdt = table(tables, quad(rsdp, 24));
    let mut found = vec![xsdt];
    found.extend(xsdt[36..].as_chunks::<8>().0.iter().map(|entry| table(tables, u64::from_le_bytes(*entry))));
    let fadt = found.iter().find(|table| table.starts_with(b"FACP")).unwrap();
    found.push(table(tables, quad(fadt, 140)));
    found.into_iter().map(|table| (String::from_utf8_lossy(&table[..4]).into_owned(), table)).collect()
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

#[test]
fn every_table_is_reached_and_sums_to_zero() {
    let names = |tables: &Tables| walk(tables).into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(" ");
    for (layout, wanted) in [(small(), "XSDT FACP APIC MCFG DSDT"), (large(), "XSDT FACP APIC MCFG SRAT SLIT DSDT")] {
        let tables = build(&layout, ALL).unwrap();
        assert_eq!(names(&tables), wanted);
        for (name, bytes) in walk(&tables) {
            assert_eq!(sum(bytes), 0, "{name}");
        }
    }
}

#[test]
fn ids_above_254_get_long_entries() {
    let tables = build(&large(), ALL).unwrap();
    let (_, madt) = walk(&tables).into_iter().find(|(name, _)| name == "APIC").unwrap();
    let (mut offset, mut kinds) = (44, [0_u32; 10]);
    while offset < madt.len() {
        kinds[usize::from(madt[offset])] += 1;
        offset += usize::from(madt[offset + 1]);
    }
    assert_eq!(offset, madt.len());
    // Sockets 0 to 3 have ids up to 3·64 + 36; socket 4 starts at 256.
    assert_eq!((kinds[0], kinds[1], kinds[9]), (100, 1, 25));
}

#[test]
fn the_largest_machine_is_within_the_room() {
    let node = |cpu| NodeShape { size_bytes: GIB, first_cpu: cpu, last_cpu: cpu, distances: vec![20; 128] };
    let layout = Layout::new(128 * GIB, (0..128).collect(), (0..128).map(node).collect(), 46).unwrap();
    build(&layout, ALL).expect("room");
}

#[test]
fn a_device_that_is_not_described_is_not_in_the_tables() {
    let with = build(&small(), ALL).unwrap();
    let without = build(&small(), Described { serial: false, rtc: false }).unwrap();
    let names = |tables: &Tables, name: &[u8]| tables.bytes.windows(4).any(|window| window == name);
    assert!(names(&with, b"COM1") && names(&with, b"RTC_"));
    assert!(!names(&without, b"COM1") && !names(&without, b"RTC_"));
    let boot_flags = |tables: &Tables| {
        let fadt = walk(tables).into_iter().find(|(name, _)| name == "FACP").unwrap().1;
        u16::from_le_bytes([fadt[109], fadt[110]])
    };
    assert_eq!((boot_flags(&with), boot_flags(&without)), (0x14, 0x34));
}

/// Disassembles a table and compiles the result; both must be without errors or warnings.
fn iasl(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let run = |arguments: &[&str]| {
        let output = Command::new("iasl").current_dir(folder).args(arguments).output().expect("iasl runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    std::fs::write(folder.join(format!("{name}.aml")), bytes).unwrap();
    let apart = run(&["-d", &format!("{name}.aml")]);
    assert!(!apart.contains("rror"), "{name}: {apart}");
    let source = std::fs::read_to_string(folder.join(format!("{name}.dsl"))).unwrap();
    let again = run(&["-ve", "-p", "again", &format!("{name}.dsl")]);
    assert!(again.contains("0 Errors"), "{name}: {again}\n{source}");
    assert!(!source.contains("**** ") && !source.contains("Invalid"), "{name}: {source}");
    source
}

#[test]
fn the_reference_compiler_accepts_every_table() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("NOT RUN: iasl is not installed (apt package acpica-tools), so the tables were not checked by it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for layout in [small(), large()] {
        let tables = build(&layout, ALL).unwrap();
        for (name, bytes) in walk(&tables) {
            let source = iasl(folder.path(), &name, bytes);
            if name == "DSDT" {
                for wanted in ["_OSC", "_EVT", "Notify (\\_SB.PWRB, 0x80)", "Notify (\\_SB.VGEN, 0x80)", "_S5", "C001"]
                {
                    assert!(source.contains(wanted), "{wanted} is not in {source}");
                }
            }
        }
    }
}
