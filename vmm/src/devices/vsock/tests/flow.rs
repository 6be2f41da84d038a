//! Credit in both directions, and slow sides.

use proptest::prelude::*;

use super::super::connection::{BUFFER, Connection, Owed, Phase};
use super::*;
use crate::virtio::Interest;

/// What the device watches the stream of the only connection for.
fn interest(bench: &Bench) -> Interest {
    bench.workers[0].sources().last().unwrap().interest
}

#[test]
fn a_slow_program_is_buffered_up_to_the_credit_and_no_further() {
    let mut bench = bench();
    let mut server = bench.guest_connects(5000, 1);
    assert_eq!(interest(&bench), Interest::ReadableEdge);
    // Until the socket and the credit are used up.
    let (mut sent, mut credit) = (0_u32, BUFFER);
    let data = vec![7; 32 << 10];
    while credit - sent >= data.len() as u32 {
        bench.say(bench.header(Op::Data, 5000, 1), &data);
        sent += data.len() as u32;
        while let Some((header, _)) = bench.hear() {
            assert_eq!(header.op, Op::CreditUpdate as u16);
            credit = header.fwd_cnt + header.buf_alloc;
        }
    }
    assert!(sent > BUFFER, "the socket took some");
    assert_eq!(interest(&bench), Interest::BothEdge, "room is waited for");
    // All of it arrives once the program reads.
    let mut got = 0;
    let mut bytes = vec![0; 1 << 20];
    while got < sent {
        got += server.read(&mut bytes).unwrap() as u32;
        bench.turn().unwrap();
    }
    assert_eq!(got, sent);
    assert_eq!(interest(&bench), Interest::ReadableEdge);
    let mut last = 0;
    while let Some((header, _)) = bench.hear() {
        last = header.fwd_cnt;
    }
    assert!(sent - last < BUFFER / 4, "the guest knows of its credit");
}

#[test]
fn a_guest_that_overdraws_its_credit_is_reset() {
    let mut bench = bench();
    let _server = bench.guest_connects(5000, 1);
    let data = vec![7; 64 << 10];
    let mut header = Header::default();
    for _ in 0..32 {
        bench.say(bench.header(Op::Data, 5000, 1), &data);
        while let Some((next, _)) = bench.hear() {
            header = next;
        }
        if header.op == Op::Reset as u16 {
            return;
        }
    }
    panic!("nothing stopped the guest");
}

#[test]
fn the_guests_credit_is_kept_to_and_asked_for() {
    let mut bench = bench();
    let mut server = bench.guest_connects(5000, 1);
    bench.say(Header { buf_alloc: 10, ..bench.header(Op::CreditUpdate, 5000, 1) }, b"");
    server.write_all(&[1; 25]).unwrap();
    bench.turn().unwrap();
    assert_eq!(bench.hear_op(Op::Data).1.len(), 10);
    bench.hear_op(Op::CreditRequest);
    bench.turn().unwrap();
    assert_eq!(bench.hear(), None, "asked once");
    bench.say(Header { buf_alloc: 10, fwd_cnt: 10, ..bench.header(Op::CreditUpdate, 5000, 1) }, b"");
    assert_eq!(bench.hear_op(Op::Data).1.len(), 10);
    bench.hear_op(Op::CreditRequest);
    // A smaller buffer than what is under way is no credit at all.
    bench.say(Header { buf_alloc: 5, fwd_cnt: 12, ..bench.header(Op::CreditUpdate, 5000, 1) }, b"");
    assert_eq!(bench.hear(), None);
    bench.say(Header { buf_alloc: 10, fwd_cnt: 20, ..bench.header(Op::CreditUpdate, 5000, 1) }, b"");
    assert_eq!(bench.hear_op(Op::Data).1.len(), 5);
    bench.say(bench.header(Op::CreditRequest, 5000, 1), b"");
    assert_eq!(bench.hear_op(Op::CreditUpdate).0.buf_alloc, BUFFER);
}

#[test]
fn without_receive_buffers_packets_wait_and_a_kick_is_asked_for() {
    let mut bench = bench();
    let mut server = bench.guest_connects(5000, 1);
    bench.say(Header { buf_alloc: 1 << 20, ..bench.header(Op::CreditUpdate, 5000, 1) }, b"");
    bench.given = 0;
    // Uses the driver's buffers up without giving new ones.
    server.write_all(&vec![1; 32 * ROOM as usize]).unwrap();
    bench.turn().unwrap();
    bench.turn().unwrap();
    assert!(!bench.guest.queues[RECEIVE].kicks_unwanted());
    while bench.guest.queues[RECEIVE].used().is_some() {}
    bench.give(1);
    bench.workers[0].on_event(0).unwrap();
    assert!(bench.guest.queues[RECEIVE].used().is_some());
}

#[test]
fn a_long_stream_arrives_whole() {
    let mut bench = bench();
    let mut server = bench.guest_connects(5000, 1);
    let data: Vec<u8> = (0..300_000_u32).map(|i| ((i * 31) >> 3) as u8).collect();
    let (mut written, mut heard) = (0, Vec::new());
    while heard.len() < data.len() {
        if written < data.len() {
            written += server.write(&data[written..(written + 50_000).min(data.len())]).unwrap_or(0);
        }
        bench.turn().unwrap();
        while let Some((header, bytes)) = bench.hear() {
            heard.extend(bytes);
            if header.op == Op::CreditRequest as u16 {
                bench.forwarded = heard.len() as u32;
                bench.say(bench.header(Op::CreditUpdate, 5000, 1), b"");
            }
        }
    }
    assert!(heard == data);
}

/// A step in the life of an open connection.
#[derive(Clone, Debug)]
enum Step {
    Guest(u16, u32, u32, u32, u32),
    HostReadable,
    HostEnds(bool),
    Forward(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let small = || prop_oneof![0..10_u32, Just(BUFFER), Just(BUFFER + 1), any::<u32>()];
    prop_oneof![
        (0..9_u16, small(), small(), small(), 0..4_u32).prop_map(|(op, len, a, f, x)| Step::Guest(op, len, a, f, x)),
        Just(Step::HostReadable),
        any::<bool>().prop_map(Step::HostEnds),
        small().prop_map(Step::Forward),
    ]
}

proptest! {
    /// Whatever the guest claims: it is never sent more than it offered, never lets us hold more than we offered, and a
    /// connection that is owed something comes to owe nothing.
    #[test]
    fn credit_holds_whatever_happens(steps in proptest::collection::vec(step(), 1..60)) {
        let mut state = Connection::new(Phase::Connecting);
        state.connected();
        let (mut held, mut sent) = (0_u32, 0_u32);
        let mut offered = (0_u32, 0_u32);
        for step in steps {
            match step {
                Step::Guest(op, len, buf_alloc, fwd_cnt, flags) => {
                    let Ok(op) = Op::try_from(op) else { continue };
                    let header = Header { len, flags, buf_alloc, fwd_cnt, ..Header::default() };
                    offered = (buf_alloc, fwd_cnt);
                    match state.take(op, &header) {
                        super::super::connection::Reaction::Write => held += len,
                        super::super::connection::Reaction::Forget | super::super::connection::Reaction::Reset => return Ok(()),
                        _ => {}
                    }
                    prop_assert!(held <= BUFFER);
                }
                Step::HostReadable => state.readable = true,
                Step::HostEnds(true) => state.host_sends_no_more(),
                Step::HostEnds(false) => state.host_receives_no_more(),
                Step::Forward(n) => {
                    let n = n.min(held);
                    held -= n;
                    state.forwarded(n);
                }
            }
            for turn in 0.. {
                prop_assert!(turn < 8, "it always owes something");
                let mut header = Header::default();
                let op = match state.owed() {
                    Owed::Nothing => break,
                    Owed::Control(op) => op,
                    Owed::Shutdown(flags) => { header.flags = flags; Op::Shutdown }
                    Owed::Data(most) => {
                        let under_way = sent.wrapping_sub(offered.1);
                        prop_assert!(u64::from(under_way) + u64::from(most) <= u64::from(offered.0));
                        sent = sent.wrapping_add(most);
                        state.sent(most);
                        state.readable = false;
                        Op::Data
                    }
                };
                state.stamp(&mut header, op);
            }
        }
    }
}
