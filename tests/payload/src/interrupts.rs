//! What polling payloads never need, tested once: MSI-X, and other CPUs. Both enter ring 0, which some KVMs emulate.

use alloc::string::String;

use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::ConfigurationAccess;

use crate::apic::Apic;
use crate::dma::Buffer;
use crate::machine::Machine;
use crate::registers::{Msix, VERSION_1, common};
use crate::report::{Outcome, Report};
use crate::ring::{Descriptor, Ring, WRITE};
use crate::{ensure, mmio, ring0};

const PATIENCE_MS: u64 = 2000;

/// Entry 0 of the table.
fn write_entry(msix: &Msix, apic: Apic, masked: bool) {
    const MESSAGES: u32 = 0xfee0_0000;
    let words = [MESSAGES | (apic.id() & 0xff) << 12, 0, u32::from(ring0::INTERRUPT), u32::from(masked)];
    for (index, word) in (0..).zip(words) {
        mmio::write32(msix.table + 4 * index, word);
    }
}

/// Requests of an entropy device, one by one.
struct Source {
    ring: Ring,
    memory: Buffer,
}

impl Source {
    fn request(&mut self) {
        let descriptor = Descriptor { address: self.memory.address(), length: 64, flags: WRITE, next: 0 };
        self.ring.describe(0, descriptor);
        self.ring.offer(0);
        self.ring.publish();
    }
}

/// `msix`: ten requests must raise ten interrupts in ring 3; one while the vector is masked must wait for its unmasking.
pub fn msix(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    const ENABLE: u32 = 1 << 31;
    const REQUESTS: u64 = 10;
    let function = machine.function(DeviceType::EntropySource)?;
    let registers = machine.registers(DeviceType::EntropySource)?;
    let table = registers.msix.ok_or("The device has no MSI-X")?;
    let features = registers.begin(VERSION_1)?;
    let apic = Apic::enable();
    write_entry(&table, apic, false);
    let control = machine.config.read_word(function, table.capability);
    machine.config.write_word(function, table.capability, control | ENABLE);
    registers.set_queue16(0, common::QUEUE_MSIX_VECTOR, 0);
    ensure!(registers.queue16(0, common::QUEUE_MSIX_VECTOR) == 0, "The device refused vector 0");
    let mut source = Source { ring: Ring::new(&registers, 0, 8, features)?, memory: Buffer::new(64) };
    source.ring.ask_for_interrupts();
    registers.go();
    ring0::allow_interrupts(true);
    let outcome = raise(machine, apic, &mut source, REQUESTS).and_then(|()| masked(machine, apic, &table, &mut source));
    ring0::allow_interrupts(false);
    machine.config.write_word(function, table.capability, control);
    report.value("interrupts", ring0::interrupts());
    outcome
}

fn raise(machine: &Machine<'_>, apic: Apic, source: &mut Source, requests: u64) -> Result<(), String> {
    for number in 1..=requests {
        source.request();
        let came = machine.clock.deadline(PATIENCE_MS).wait_for(|| ring0::interrupts() >= number);
        ensure!(came, "Interrupt {number} did not come (request done: {})", source.ring.take().is_some());
        apic.end_of_interrupt();
        ensure!(source.ring.take().is_some(), "Interrupt {number} came before its request was done");
    }
    Ok(())
}

fn masked(machine: &Machine<'_>, apic: Apic, table: &Msix, source: &mut Source) -> Result<(), String> {
    const QUIET_MS: u64 = 20;
    let before = ring0::interrupts();
    write_entry(table, apic, true);
    source.request();
    let done = machine.clock.deadline(PATIENCE_MS).wait_for(|| source.ring.take().is_some());
    ensure!(done, "The masked request was not done");
    let early = machine.clock.deadline(QUIET_MS).wait_for(|| ring0::interrupts() > before);
    ensure!(!early, "A masked vector interrupted");
    write_entry(table, apic, false);
    let came = machine.clock.deadline(PATIENCE_MS).wait_for(|| ring0::interrupts() > before);
    ensure!(came, "The interrupt that waited behind the mask was lost");
    apic.end_of_interrupt();
    Ok(())
}

/// `smp`: starts all other CPUs; as many must come as ACPI names (or `cpus=` says).
pub fn smp(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    const INIT: u32 = 0x4500;
    const START: u32 = 0x4600;
    let named = machine.acpi.cpus.iter().flatten().count() as u64;
    let expected = machine.options.number("cpus").unwrap_or(named).saturating_sub(1);
    ring0::place_other_cpu_code();
    let apic = Apic::enable();
    let came = || ring0::cpus_that_came() >= expected;
    apic.command_others(INIT);
    machine.clock.deadline(10).wait_for(|| false);
    for _ in 0..2 {
        apic.command_others(START | ring0::OTHER_CPU_VECTOR);
        if machine.clock.deadline(PATIENCE_MS / 2).wait_for(came) {
            break;
        }
    }
    // One that nobody named would come late.
    machine.clock.deadline(10).wait_for(|| false);
    let others = ring0::cpus_that_came();
    report.value("named", named).value("came", others + 1);
    ensure!(others == expected, "Of {expected} other CPUs {others} came");
    Ok(())
}
