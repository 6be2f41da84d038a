//! The table of commands: name on the command line, function that does it.

use alloc::string::String;

use crate::blk::{self, Kind, Load};
use crate::machine::Machine;
use crate::report::{Outcome, Report};
use crate::{console, entropy, exits, hostile, interrupts, net, vsock};

type Command = fn(&mut Machine<'_>, &mut Report) -> Outcome;

const TESTS: &[(&str, Command)] = &[
    ("blk-verify", blk::verify),
    ("console-echo", console::echo),
    ("io-pause", blk::steady),
    ("msix", interrupts::msix),
    ("net-answer", net::answer),
    ("net-echo", net::echo),
    ("rng", entropy::rng),
    ("smp", interrupts::smp),
    ("vsock-answer", vsock::answer),
    ("vsock-echo", vsock::echo),
    ("vsock-stream", vsock::stream),
];

const BENCHES: &[(&str, Command)] = &[
    ("blk-randread-qd1", |machine, report| blk::bench(machine, report, Load::random(Kind::Read, 1))),
    ("blk-randread-qd32", |machine, report| blk::bench(machine, report, Load::random(Kind::Read, 32))),
    ("blk-randwrite-qd1", |machine, report| blk::bench(machine, report, Load::random(Kind::Write, 1))),
    ("blk-seqread-128k-qd8", |machine, report| blk::bench(machine, report, Load::sequential(Kind::Read, 8))),
    ("blk-seqwrite-128k-qd8", |machine, report| blk::bench(machine, report, Load::sequential(Kind::Write, 8))),
    ("mmio", exits::memory_read),
    // The peer decides what size is flooded; the names only say what is meant.
    ("net-rx-1514", net::receive),
    ("net-rx-64", net::receive),
    ("net-rtt", net::round_trip),
    ("net-tx-1514", |machine, report| net::transmit(machine, report, 1514)),
    ("net-tx-64", |machine, report| net::transmit(machine, report, 64)),
    ("notify", exits::notify),
    ("pio", exits::port_write),
    ("vsock-rtt", vsock::round_trip),
];

/// Runs what the command line asks for, one line each: tests, then benches; several names are parted by commas.
pub fn run(machine: &mut Machine<'_>) {
    let options = machine.options;
    for (kind, table) in [("test", TESTS), ("bench", BENCHES)] {
        for name in options.text(kind).unwrap_or_default().split(',').filter(|name| !matches!(*name, "" | "none")) {
            let mut report = Report::new(kind, name);
            let command = table.iter().find(|(known, _)| *known == name);
            let outcome = match command {
                Some((_, command)) => command(machine, &mut report),
                None if kind == "test" && name.starts_with("hostile-") => hostile::run(machine, name, &mut report),
                None => Err(String::from("No such command")),
            };
            report.outcome(outcome).print();
        }
    }
}
