//! `rng`: random bytes come, in any amount, and look random.

use alloc::format;
use alloc::vec;

use virtio_drivers::device::rng::VirtIORng;
use virtio_drivers::transport::DeviceType;

use crate::dma::Identity;
use crate::ensure;
use crate::machine::Machine;
use crate::report::{Outcome, Report};

/// Asks for 1 byte up to 64 KiB; every amount must come, and half of all bits must be set, give or take.
pub fn rng(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let transport = machine.transport(DeviceType::EntropySource)?;
    let mut device = VirtIORng::<Identity, _>::new(transport).map_err(|error| format!("Starting failed: {error}"))?;
    let (mut bytes, mut ones) = (0, 0);
    for size in [1, 7, 64, 4096, 65536] {
        let mut buffer = vec![0; size];
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let length = device.request_entropy(rest).map_err(|error| format!("A request failed: {error}"))?;
            ensure!(length > 0 && length <= rest.len(), "A request for {} bytes brought {length}", rest.len());
            filled += length;
        }
        bytes += size;
        ones += buffer.iter().map(|byte| byte.count_ones() as usize).sum::<usize>();
    }
    report.value("bytes", bytes).value("ones", ones);
    ensure!((bytes * 4).abs_diff(ones) < bytes / 8, "Of {} bits {ones} are set", bytes * 8);
    Ok(())
}
