//! A reset of the whole machine, in place: this process can open nothing any more, so it starts the guest again from the
//! files that it kept.

use super::build::{BuildError, Machine};
use crate::kvm::Phase;

impl Machine {
    /// Puts devices, memory and vCPUs back to power-on and loads the guest again. The machine is paused afterwards.
    pub(super) fn power_on_again(&mut self) -> Result<(), BuildError> {
        self.gate.set(Phase::Paused);
        // Workers first: after this nothing but this thread touches guest memory.
        self.buses.reset();
        for (start, _, len) in self.memory.slots() {
            self.memory.discard(start, len).map_err(crate::arch::x86_64::boot::BootError::from)?;
        }
        self.boot_image.load(&self.memory)?;
        self.gate.reset();
        Ok(())
    }
}
