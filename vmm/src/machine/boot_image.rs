//! What a guest starts from, kept as open files: loaded at the start, and again at every reset, when nothing can be opened
//! any more.

use std::fs::File;

use super::build::BuildError;
use crate::arch::x86_64::boot::{self, BootError, BootInfo};
use crate::arch::x86_64::kernel::{self, Entry, Protocol};
use crate::board::Layout;
use crate::board::acpi::{self, Described};
use crate::board::map;
use crate::config::{Endpoint, Plan};
use crate::memory::GuestMemory;
use crate::virtio::HostError;

/// Length of a VM generation id in bytes (Microsoft, "Virtual Machine Generation ID").
const GENERATION_ID_LEN: u64 = 16;

/// Kernel, initrd, command line and firmware tables.
pub(super) struct BootImage {
    kernel: File,
    kernel_name: String,
    initrd: Option<(String, File)>,
    command_line: String,
    layout: Layout,
    described: Described,
    generation_id: [u8; GENERATION_ID_LEN as usize],
}

impl BootImage {
    /// The image that `plan` names, from its open files.
    pub(super) fn new(plan: &Plan, kernel: File, initrd: Option<File>, layout: Layout) -> Result<Self, HostError> {
        let mut generation_id = [0; GENERATION_ID_LEN as usize];
        crate::backend::entropy::fill(&mut generation_id)
            .map_err(|e| HostError::new("Could not draw a generation id", e))?;
        Ok(Self {
            kernel,
            kernel_name: plan.boot.kernel.to_string(),
            initrd: plan.boot.initrd.as_ref().map(ToString::to_string).zip(initrd),
            command_line: plan.boot.cmdline.as_str().to_owned(),
            layout,
            described: Described { serial: plan.serial != Endpoint::Off, rtc: true },
            generation_id,
        })
    }

    /// Where everything of the machine is.
    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Puts everything into memory, which holds zeros. The entry point is the same every time.
    pub(super) fn load(&mut self, memory: &GuestMemory) -> Result<Entry, BuildError> {
        let name = &self.kernel_name;
        let kernel = kernel::load(memory, &mut self.kernel, Protocol::Auto)
            .map_err(|source| BuildError::Kernel { path: name.clone(), source })?;
        let low_end = self.layout.ram.first().map_or(0, |range| range.size_bytes);
        let initrd = match &mut self.initrd {
            Some((path, file)) => {
                let loaded = boot::load_initrd(memory, file, &kernel, low_end);
                Some(loaded.map_err(|source| BuildError::Initrd { path: path.clone(), source })?)
            }
            None => None,
        };
        let info = BootInfo {
            kernel: &kernel,
            command_line: &self.command_line,
            initrd,
            memory_map: &self.layout.e820(),
            rsdp: self.write_tables(memory)?,
        };
        boot::write(memory, &info)?;
        Ok(kernel.entry)
    }

    /// Firmware tables, for a guest that looks for them and for boot protocols that pass them on.
    fn write_tables(&self, memory: &GuestMemory) -> Result<u64, BuildError> {
        let tables = acpi::build(&self.layout, self.described)?;
        let room = memory.slice(tables.address, tables.bytes.len() as u64).map_err(BootError::from)?;
        room.write(0, &tables.bytes);
        let generation = memory.slice(map::VM_GENERATION_ID, GENERATION_ID_LEN).map_err(BootError::from)?;
        generation.write(0, &self.generation_id);
        Ok(tables.rsdp_address)
    }
}
