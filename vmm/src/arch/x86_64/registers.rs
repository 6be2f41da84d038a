//! Registers with which a vCPU starts, for each boot protocol.
//!
//! Linux boot protocol: Documentation/arch/x86/boot.rst, "64-bit Boot Protocol". PVH: Xen's `docs/misc/pvh.pandoc`.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

use super::kernel::Entry;
use crate::board::map;
use crate::memory::{GuestMemory, OutsideMemory};

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Present, writable, user: the identity map may be used from ring 3 as well.
const PAGE_TABLE: u64 = 0b111;
/// As [`PAGE_TABLE`], and a 2 MiB page.
const PAGE_2M: u64 = 0b1000_0111;

/// Selectors as the 64-bit protocol wants them: `__BOOT_CS`, `__BOOT_DS`; the TSS behind them.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TSS: u16 = 0x20;

/// A flat 4 GiB data segment.
fn data() -> kvm_segment {
    kvm_segment { limit: 0xffff_ffff, selector: DATA, type_: 3, present: 1, db: 1, s: 1, g: 1, ..Default::default() }
}

/// A flat code segment, 64-bit or 32-bit.
fn code(long: bool) -> kvm_segment {
    kvm_segment { selector: CODE, type_: 0xb, db: u8::from(!long), l: u8::from(long), ..data() }
}

/// A busy TSS; processors insist on one.
fn tss() -> kvm_segment {
    kvm_segment { limit: 0x67, selector: TSS, type_: 0xb, present: 1, ..Default::default() }
}

/// General registers at the entry point.
pub fn general(entry: Entry) -> kvm_regs {
    let start = kvm_regs { rip: entry.address(), rflags: 2, ..Default::default() };
    match entry {
        Entry::Linux64(_) => kvm_regs { rsi: map::ZERO_PAGE, rsp: map::BOOT_STACK, rbp: map::BOOT_STACK, ..start },
        Entry::Pvh(_) => kvm_regs { rbx: map::PVH_START_INFO, ..start },
    }
}

/// Segment and control registers at the entry point; `initial` is what KVM gave the vCPU.
pub fn special(entry: Entry, initial: &kvm_sregs) -> kvm_sregs {
    let long = matches!(entry, Entry::Linux64(_));
    let data = data();
    let mut sregs = *initial;
    sregs.cs = code(long);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = tss();
    sregs.gdt.base = map::BOOT_GDT;
    sregs.gdt.limit = (GDT.len() * 8 - 1) as u16;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    if long {
        sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
        sregs.cr3 = map::BOOT_PAGE_TABLES;
        sregs.cr4 = CR4_PAE;
        sregs.efer = EFER_LME | EFER_LMA;
    } else {
        sregs.cr0 = CR0_PE | CR0_ET;
        sregs.cr4 = 0;
    }
    sregs
}

/// Null, unused, code (long mode), data, TSS (two entries).
const GDT: [u64; 6] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067, 0];

/// Writes what the 64-bit protocol needs in memory: a GDT, and page tables that map the first 4 GiB to themselves.
pub fn write_tables(memory: &GuestMemory) -> Result<(), OutsideMemory> {
    let put = |address: u64, words: &mut dyn Iterator<Item = u64>| {
        words.zip(0_u64..).try_for_each(|(word, i)| {
            let address = address + i * 8;
            memory.slice(address, 8).map(|slot| slot.write_obj(0, &word.to_le()).unwrap_or(()))
        })
    };
    put(map::BOOT_GDT, &mut GDT.into_iter())?;
    let directories = map::BOOT_PAGE_TABLES + 0x2000;
    put(map::BOOT_PAGE_TABLES, &mut std::iter::once((map::BOOT_PAGE_TABLES + 0x1000) | PAGE_TABLE))?;
    put(map::BOOT_PAGE_TABLES + 0x1000, &mut (0..4).map(|i| (directories + i * 0x1000) | PAGE_TABLE))?;
    put(directories, &mut (0..4 * 512).map(|i| i << 21 | PAGE_2M))
}
