//! The freestanding guest. It runs in ring 3 on one vCPU, polls, and never returns.
#![no_std]
#![no_main]

extern crate alloc;

mod apic;
mod blk;
mod boot_info;
mod clock;
mod commands;
mod compiler_needs;
mod console;
mod dma;
mod entropy;
mod exits;
mod heap;
mod hostile;
mod interrupts;
mod machine;
mod measure;
mod mmio;
mod net;
mod paging;
mod pci;
mod port;
mod power;
mod registers;
mod report;
mod ring;
mod ring0;
mod serial;
mod transport;
mod vsock;

use core::fmt::Write;
use core::panic::PanicInfo;

use boot_info::{BootInfo, LowMemory};
use clock::Clock;
use machine::Machine;
use payload_logic::options::Options;
use payload_logic::{acpi, memory_map};
use power::After;
use report::Report;
use ring0::Protocol;

unsafe extern "C" {
    static image_end: u8;
}

/// First code in ring 3. `protocol` is 0 for PVH, 1 for Linux; `info` is the address of that protocol's structure.
#[unsafe(no_mangle)]
#[unsafe(link_section = ".text.start")]
extern "C" fn ring3_start(protocol: u64, info: u64) -> ! {
    serial::ready();
    ring0::install_gates();
    let protocol = if protocol == 0 { Protocol::Pvh } else { Protocol::Linux };
    let boot = BootInfo::new(protocol, info);
    let heap = memory_map::heap((&raw const image_end) as u64, boot.ram());
    heap::give(heap);
    let options = Options::new(boot.command_line());
    let root_pointer = Some(boot.root_pointer()).filter(|address| *address != 0);
    let acpi = root_pointer
        .or_else(|| acpi::find_root_pointer(&LowMemory))
        .map(|address| acpi::read(&LowMemory, address))
        .unwrap_or_default();
    let clock = Clock::new(&options);
    let mut machine = Machine::new(options, clock, &acpi, heap.end);
    if options.text("info").is_some() {
        describe(&mut machine, protocol);
    }
    commands::run(&mut machine);
    power::end(After::from_option(options.text("after")), &acpi)
}

/// What the payload knows about its machine, for a look at a new VMM.
fn describe(machine: &mut Machine<'_>, protocol: Protocol) {
    let cpus = machine.acpi.cpus.iter().flatten().count();
    let (power_off, reset) = (machine.acpi.power_off, machine.acpi.reset);
    let config = machine.config;
    Report::new("event", "info")
        .text("protocol", format_args!("{protocol:?}"))
        .value("tsc_khz", machine.clock.kilohertz())
        .value("cpus", cpus)
        .text("power_off", format_args!("{power_off:x?}"))
        .text("reset", format_args!("{reset:x?}"))
        .text("config", format_args!("{config:x?}"))
        .text("virtio", format_args!("{:?}", machine.devices()))
        .print();
}

/// Ring 0 sends every fault here.
#[unsafe(no_mangle)]
extern "C" fn report_fault(vector: u64, error: u64, address: u64, cr2: u64) -> ! {
    let _ = writeln!(
        serial::Serial,
        "{{\"event\":\"fault\",\"vector\":{vector},\"error\":{error},\"rip\":\"{address:#x}\",\"cr2\":\"{cr2:#x}\"}}"
    );
    power::end(After::Off, &acpi::Acpi::default())
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let mut report = Report::new("event", "panic");
    if let Some(place) = info.location() {
        report.text("at", place);
    }
    report.text("reason", info.message()).print();
    power::end(After::Off, &acpi::Acpi::default())
}
