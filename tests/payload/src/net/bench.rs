//! Frames a second each way, and the round trip, through hand-made rings.

use alloc::string::String;

use payload_logic::frame::{self, Address};
use payload_logic::latency::Latencies;
use virtio_drivers::transport::DeviceType;

use super::{EVERYBODY, listening, patience};
use crate::clock::ticks;
use crate::dma::Buffer;
use crate::ensure;
use crate::machine::Machine;
use crate::measure::{Measured, measure_ms, warm_ms};
use crate::registers::{EVENT_INDEX, VERSION_1};
use crate::report::{Outcome, Report};
use crate::ring::{Descriptor, Ring, WRITE};

const MAC: u64 = 1 << 5;
const ENTRIES: u16 = 256;
/// Bytes of the header before each frame.
const HEADER: u64 = 12;
/// Where a frame has its number.
const NUMBER: usize = frame::HEAD - 8;
/// Bytes between buffers.
const STEP: u64 = 2048;

/// A started card: both rings with a buffer for each entry.
struct Card {
    receive: Ring,
    transmit: Ring,
    incoming: Buffer,
    outgoing: Buffer,
    address: Address,
}

impl Card {
    fn start(machine: &mut Machine<'_>) -> Result<Self, String> {
        let registers = machine.registers(DeviceType::Network)?;
        let features = registers.begin(VERSION_1 | EVENT_INDEX | MAC)?;
        let receive = Ring::new(&registers, 0, ENTRIES, features)?;
        let transmit = Ring::new(&registers, 1, ENTRIES, features)?;
        registers.go();
        let mut address = [0; 6];
        let words = [registers.config32(0).to_le_bytes(), registers.config32(4).to_le_bytes()];
        address.iter_mut().zip(words.as_flattened()).for_each(|(byte, from)| *byte = *from);
        let buffers = || Buffer::new(usize::from(ENTRIES) * STEP as usize);
        let mut card = Self { receive, transmit, incoming: buffers(), outgoing: buffers(), address };
        for entry in 0..card.receive.size() {
            let address = card.incoming.address() + u64::from(entry) * STEP;
            card.receive.describe(entry, Descriptor { address, length: STEP as u32, flags: WRITE, next: 0 });
            card.receive.offer(entry);
        }
        card.receive.publish();
        Ok(card)
    }

    /// Fills every outgoing buffer with a frame of `length` bytes.
    fn prepare(&self, length: usize) {
        let all = self.outgoing.bytes(usize::from(ENTRIES) * STEP as usize);
        for (entry, buffer) in (0..self.transmit.size()).zip(all.chunks_exact_mut(STEP as usize)) {
            let end = HEADER as usize + length;
            if let Some(bytes) = buffer.get_mut(HEADER as usize..end) {
                frame::write(bytes, EVERYBODY, self.address, u64::from(entry));
            }
            let address = self.outgoing.address() + u64::from(entry) * STEP;
            self.transmit.describe(entry, Descriptor { address, length: end as u32, flags: 0, next: 0 });
        }
    }

    /// The frame in an incoming buffer, if it is one of ours.
    fn is_ours(&self, entry: u16, written: u32) -> bool {
        let start = usize::from(entry) * STEP as usize;
        let bytes = self.incoming.bytes(start + (written as usize).min(STEP as usize));
        bytes.get(start + HEADER as usize..).is_some_and(frame::is_ours)
    }

    /// Puts a number into the first outgoing frame.
    fn set_number(&self, number: u64) {
        let start = HEADER as usize + NUMBER;
        if let Some(bytes) = self.outgoing.bytes(start + 8).get_mut(start..) {
            bytes.copy_from_slice(&number.to_le_bytes());
        }
    }

    /// Gives back all that has come; says whether the frame with this number was among it. Others are late answers.
    fn came_back(&mut self, number: u64) -> bool {
        let mut found = false;
        while let Some((entry, written)) = self.receive.take() {
            let start = usize::from(entry) * STEP as usize + HEADER as usize + NUMBER;
            let bytes = self.incoming.bytes(start + 8);
            found |= self.is_ours(entry, written) && bytes.get(start..) == Some(&number.to_le_bytes());
            self.receive.offer(entry);
        }
        self.receive.publish();
        found
    }
}

/// `net-tx-*`: frames of `length` bytes, as many as the ring takes, for the measured time.
pub fn transmit(machine: &mut Machine<'_>, report: &mut Report, length: usize) -> Outcome {
    let mut card = Card::start(machine)?;
    card.prepare(length);
    (0..card.transmit.size()).for_each(|entry| card.transmit.offer(entry));
    card.transmit.publish();
    let mut start = ticks();
    let mut frames = 0_u64;
    for (milliseconds, measured) in [(warm_ms(machine), false), (measure_ms(machine), true)] {
        let deadline = machine.clock.deadline(milliseconds);
        (start, frames) = if measured { (ticks(), 0) } else { (start, frames) };
        while !deadline.passed() {
            let before = frames;
            while let Some((entry, _)) = card.transmit.take() {
                card.transmit.offer(entry);
                frames += 1;
            }
            if frames == before {
                core::hint::spin_loop();
            } else {
                card.transmit.publish();
            }
        }
    }
    ensure!(frames > 0, "No frame was taken");
    report.value("frame_bytes", length);
    Measured { operations: frames, ticks: ticks() - start, latencies: None }.report(machine.clock, report);
    Ok(())
}

/// `net-rx-*`: counts what the peer floods, from a moment after the first frame on.
pub fn receive(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let mut card = Card::start(machine)?;
    listening(card.address);
    let wait = machine.clock.deadline(patience(machine));
    let came = wait.wait_for(|| {
        let taken = card.receive.take();
        if let Some((entry, written)) = taken {
            card.receive.offer(entry);
            card.receive.publish();
            return card.is_ours(entry, written);
        }
        false
    });
    ensure!(came, "No frame came");
    let (mut start, mut frames, mut bytes, mut others) = (0, 0_u64, 0, 0_u64);
    for milliseconds in [warm_ms(machine), measure_ms(machine)] {
        let deadline = machine.clock.deadline(milliseconds);
        (start, frames, bytes, others) = (ticks(), 0, 0, 0);
        while !deadline.passed() {
            let before = frames + others;
            while let Some((entry, written)) = card.receive.take() {
                if card.is_ours(entry, written) {
                    frames += 1;
                    bytes += u64::from(written) - HEADER;
                } else {
                    others += 1;
                }
                card.receive.offer(entry);
            }
            if frames + others == before {
                core::hint::spin_loop();
            } else {
                card.receive.publish();
            }
        }
    }
    report.value("frame_bytes", bytes.checked_div(frames).unwrap_or(0)).value("other_frames", others);
    Measured { operations: frames, ticks: ticks() - start, latencies: None }.report(machine.clock, report);
    Ok(())
}

/// `net-rtt`: one frame at a time to the echoing peer and back.
pub fn round_trip(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let mut card = Card::start(machine)?;
    card.prepare(frame::SMALLEST);
    listening(card.address);
    let mut latencies = Latencies::default();
    // A number that no earlier command in this run has used.
    let mut number = ticks();
    let (mut start, mut trips) = (ticks(), 0_u64);
    for milliseconds in [warm_ms(machine), measure_ms(machine)] {
        let over = machine.clock.deadline(milliseconds);
        latencies = Latencies::default();
        (start, trips) = (ticks(), 0);
        while !over.passed() {
            number += 1;
            card.set_number(number);
            let before = ticks();
            card.transmit.offer(0);
            card.transmit.publish();
            let back = machine.clock.deadline(patience(machine)).wait_for(|| card.came_back(number));
            ensure!(back, "After {trips} round trips a frame did not come back");
            latencies.record(ticks() - before);
            trips += 1;
            while card.transmit.take().is_some() {}
        }
    }
    Measured { operations: trips, ticks: ticks() - start, latencies: Some(&latencies) }.report(machine.clock, report);
    Ok(())
}
