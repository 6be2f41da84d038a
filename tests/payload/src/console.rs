//! `console-echo`: what is typed on the virtio console comes back.

use alloc::format;

use virtio_drivers::device::console::VirtIOConsole;
use virtio_drivers::transport::DeviceType;

use crate::dma::Identity;
use crate::ensure;
use crate::machine::Machine;
use crate::report::{Outcome, Report};

/// Says `hello`, then sends back each line until one is `quit` or nothing comes for `wait_ms=` (default 10,000).
pub fn echo(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    const LONGEST: usize = 4096;
    let words = |error| format!("The console failed: {error}");
    let transport = machine.transport(DeviceType::Console)?;
    let mut console = VirtIOConsole::<Identity, _>::new(transport).map_err(words)?;
    console.send_bytes(b"hello\n").map_err(words)?;
    let patience = machine.options.number("wait_ms").unwrap_or(10_000);
    let mut line = alloc::vec::Vec::with_capacity(LONGEST);
    let (mut lines, mut bytes) = (0, 0);
    let mut deadline = machine.clock.deadline(patience);
    loop {
        let Some(byte) = console.recv(true).map_err(words)? else {
            ensure!(!deadline.passed(), "After {bytes} bytes nothing more was typed");
            continue;
        };
        line.push(byte);
        bytes += 1;
        deadline = machine.clock.deadline(patience);
        if byte == b'\n' || line.len() == LONGEST {
            console.send_bytes(&line).map_err(words)?;
            lines += 1;
            if line == b"quit\n" {
                break;
            }
            line.clear();
        }
    }
    report.value("lines", lines).value("bytes", bytes);
    Ok(())
}
