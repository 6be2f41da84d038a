//! Bytes both ways over a connection, each of them checked.

use alloc::vec;
use alloc::vec::Vec;

use payload_logic::pattern::{self, StreamSum};

use super::{CREDIT, Connection, patience};
use crate::ensure;
use crate::machine::Machine;
use crate::report::{Outcome, Report};

/// `vsock-echo`: messages of many sizes to an echoing host, one at a time.
pub fn echo(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    const SIZES: [usize; 9] = [1, 2, 63, 64, 511, 1500, 4096, 4097, 16384];
    let mut connection = Connection::connect(machine)?;
    let mut bytes = 0;
    for (seed, size) in (0_u64..).zip(SIZES.iter().cycle().take(SIZES.len() * 4)) {
        let mut message = vec![0; *size];
        pattern::fill(&mut message, seed);
        let deadline = machine.clock.deadline(patience(machine));
        while !connection.send(&message)? {
            connection.poll()?;
            ensure!(!deadline.passed(), "The host gives no credit for {size} bytes");
        }
        let mut back = Vec::new();
        while back.len() < *size {
            connection.poll()?;
            let mut piece = [0; 4096];
            let length = connection.receive(&mut piece)?;
            back.extend_from_slice(piece.get(..length).unwrap_or_default());
            if length > 0 {
                connection.update_credit()?;
            }
            ensure!(!deadline.passed(), "Of {size} bytes {} came back", back.len());
            ensure!(!connection.closed, "The host closed the connection");
        }
        ensure!(back == message, "A message of {size} bytes came back changed");
        bytes += size;
    }
    connection.close(machine)?;
    report.value("bytes", bytes);
    Ok(())
}

/// `vsock-answer`: sends back all that a connecting host sends, until it closes.
pub fn answer(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let mut connection = Connection::accept(machine)?;
    let mut deadline = machine.clock.deadline(patience(machine));
    let (mut bytes, mut sum) = (0, StreamSum::default());
    let mut piece = [0; 4096];
    loop {
        connection.poll()?;
        let length = connection.receive(&mut piece)?;
        let piece = piece.get(..length).unwrap_or_default();
        if length == 0 {
            if connection.closed && connection.waiting() == 0 {
                break;
            }
            ensure!(!deadline.passed(), "After {bytes} bytes the host neither sent nor closed");
            continue;
        }
        sum.add(piece);
        bytes += length;
        deadline = machine.clock.deadline(patience(machine));
        while !connection.closed && !connection.send(piece)? {
            connection.poll()?;
            ensure!(!deadline.passed(), "The host gives no credit");
        }
        connection.update_credit()?;
    }
    report.value("bytes", bytes).value("sum", sum.value());
    Ok(())
}

/// `vsock-stream`: `mib=` MiB (default 16) to an echoing host and back at the same time. The guest stops reading again
/// and again until nothing moves, so that both ends run out of credit.
pub fn stream(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    const PIECE: usize = 4096;
    const STALL_MS: u64 = 20;
    let total = (machine.options.number("mib").unwrap_or(16) as usize) << 20;
    let mut connection = Connection::connect(machine)?;
    let (mut sent, mut read, mut stalls) = (0, 0, 0);
    let (mut outgoing, mut incoming) = ([0; PIECE], [0; PIECE]);
    let (mut sum_sent, mut sum_read) = (StreamSum::default(), StreamSum::default());
    let mut quiet = machine.clock.deadline(STALL_MS);
    let mut deadline = machine.clock.deadline(patience(machine));
    while read < total {
        // Bytes, not packets: questions and answers about credit go on while everything is full.
        let before = connection.waiting();
        connection.poll()?;
        let mut moved = connection.waiting() != before;
        if sent < total {
            pattern::fill(&mut outgoing, sent as u64);
            if connection.send(&outgoing)? {
                sum_sent.add(&outgoing);
                sent += PIECE;
                moved = true;
            }
        }
        if moved {
            quiet = machine.clock.deadline(STALL_MS);
        }
        // Everything is full: the host cannot send more than our credit, we not more than its.
        if quiet.passed() || sent == total {
            ensure!(connection.waiting() <= CREDIT as usize, "The host sent more than it may");
            stalls += u32::from(sent < total);
            let before = read;
            loop {
                let length = connection.receive(&mut incoming)?;
                if length == 0 {
                    break;
                }
                sum_read.add(incoming.get(..length).unwrap_or_default());
                read += length;
            }
            if read > before {
                connection.update_credit()?;
                deadline = machine.clock.deadline(patience(machine));
            }
            quiet = machine.clock.deadline(STALL_MS);
        }
        ensure!(!connection.closed, "The host closed the connection after {read} bytes");
        ensure!(!deadline.passed(), "Of {sent} bytes {read} came back");
    }
    connection.close(machine)?;
    report.value("bytes", read).value("stalls", stalls).value("sum", sum_read.value());
    ensure!(sum_sent == sum_read, "The bytes came back changed");
    Ok(())
}
