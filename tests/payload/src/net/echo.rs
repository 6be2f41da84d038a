//! Frames both ways, each byte checked, through the driver crate.

use alloc::format;
use alloc::string::String;

use payload_logic::frame;
use virtio_drivers::device::net::VirtIONet;
use virtio_drivers::transport::DeviceType;

use super::{EVERYBODY, listening, patience};
use crate::dma::Identity;
use crate::ensure;
use crate::machine::Machine;
use crate::report::{Outcome, Report};
use crate::transport::Kicking;

const ENTRIES: usize = 64;
const BUFFER: usize = 2048;

type Card = VirtIONet<Identity, Kicking, ENTRIES>;

fn start(machine: &mut Machine<'_>) -> Result<Card, String> {
    let transport = machine.transport(DeviceType::Network)?;
    VirtIONet::new(transport, BUFFER).map_err(|error| format!("Starting the card failed: {error}"))
}

fn send(card: &mut Card, bytes: &[u8]) -> Outcome {
    let mut buffer = card.new_tx_buffer(bytes.len());
    buffer.packet_mut().copy_from_slice(bytes);
    card.send(buffer).map_err(|error| format!("Sending failed: {error}"))
}

/// The next frame of ours, if one is there; gives its bytes to `use_it`.
fn next<T>(card: &mut Card, use_it: impl FnOnce(&mut [u8]) -> T) -> Result<Option<T>, String> {
    if !card.can_recv() {
        return Ok(None);
    }
    let mut buffer = card.receive().map_err(|error| format!("Receiving failed: {error}"))?;
    let result = frame::is_ours(buffer.packet()).then(|| use_it(buffer.packet_mut()));
    card.recycle_rx_buffer(buffer).map_err(|error| format!("Giving a buffer back failed: {error}"))?;
    Ok(result)
}

/// `net-echo`: sends `frames=` frames (default 500) of all sizes; the peer must send each back whole and in order.
pub fn echo(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    const AHEAD: u64 = 16;
    let frames = machine.options.number("frames").unwrap_or(500);
    let mut card = start(machine)?;
    let address = card.mac_address();
    listening(address);
    let mut deadline = machine.clock.deadline(patience(machine));
    let (mut sent, mut back, mut bytes) = (0, 0, 0);
    let mut outgoing = [0; frame::LARGEST];
    while back < frames {
        if sent < frames && sent < back + AHEAD {
            let outgoing = outgoing.get_mut(..frame::length_of(sent)).unwrap_or_default();
            frame::write(outgoing, EVERYBODY, address, sent);
            send(&mut card, outgoing)?;
            sent += 1;
        }
        let answer = next(&mut card, |bytes| (frame::number(bytes), bytes.len(), bytes.starts_with(&address)))?;
        if let Some((number, length, to_us)) = answer {
            ensure!(number == Some(back), "Frame {number:?} came back instead of {back}");
            ensure!(length == frame::length_of(back) && to_us, "Frame {back} came back with length {length}");
            (back, bytes) = (back + 1, bytes + length);
            deadline = machine.clock.deadline(patience(machine));
        }
        ensure!(!deadline.passed(), "Of {sent} frames {back} came back");
    }
    report.value("frames", back).value("bytes", bytes);
    Ok(())
}

/// `net-answer`: sends back every frame of ours, whole ones only, until `frames=` (default 500) have come.
pub fn answer(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let frames = machine.options.number("frames").unwrap_or(500);
    let mut card = start(machine)?;
    listening(card.mac_address());
    let mut deadline = machine.clock.deadline(patience(machine));
    let (mut answered, mut broken) = (0, 0);
    while answered < frames {
        let answer = next(&mut card, |bytes| {
            frame::turn(bytes);
            frame::number(bytes).map(|_| bytes.to_vec())
        })?;
        match answer {
            Some(Some(bytes)) => {
                send(&mut card, &bytes)?;
                answered += 1;
                deadline = machine.clock.deadline(patience(machine));
            }
            Some(None) => broken += 1,
            None => ensure!(!deadline.passed(), "Of {frames} frames {answered} came"),
        }
    }
    report.value("frames", answered).value("broken", broken);
    ensure!(broken == 0, "{broken} frames were not whole");
    Ok(())
}
