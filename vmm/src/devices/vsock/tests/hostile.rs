//! What a guest may do to the device, and what comes of it: it hurts itself.

use proptest::prelude::*;

use super::super::table::MAX_CONNECTIONS;
use super::*;
use crate::virtio::GuestFault;

#[test]
fn packets_for_nobody_are_reset_or_dropped() {
    for (op, answered) in [
        (Op::Response, true),
        (Op::Data, true),
        (Op::Shutdown, true),
        (Op::CreditUpdate, true),
        (Op::CreditRequest, true),
        (Op::Reset, false),
    ] {
        let mut bench = bench();
        bench.say(bench.header(op, 1, 2), b"");
        let heard = bench.hear().map(|(header, _)| (header.op, header.source_port, header.target_port));
        assert_eq!(heard, answered.then_some((Op::Reset as u16, 1, 2)), "{op:?}");
    }
    let mut bench = bench();
    for op in [0, 8, 0xffff] {
        bench.say(Header { op, ..bench.header(Op::Data, 1, 2) }, b"");
        bench.hear_op(Op::Reset);
    }
    // No stream socket: refused as what it is.
    let header = Header { kind: 2, ..bench.header(Op::Request, 1, 2) };
    bench.guest.write(SENT_AT, &header.encode());
    bench.guest.queues[TRANSMIT].add(&[(SENT_AT, 44, false)]);
    bench.turn().unwrap();
    let (head, _) = bench.guest.queues[RECEIVE].used().unwrap();
    let bytes = bench.guest.read(HEARD_AT + u64::from(head) * u64::from(ROOM), HEADER_LEN);
    let answer = Header::decode(bytes.first_chunk().unwrap());
    assert_eq!((answer.op, answer.kind), (Op::Reset as u16, 2));
}

#[test]
fn foreign_context_ids_are_dropped_and_counted() {
    let mut bench = bench();
    for (source_cid, target_cid) in [(4, 2), (CID, 1), (CID, CID), (0, 0), (u64::MAX, u64::MAX)] {
        bench.say(Header { source_cid, target_cid, ..bench.header(Op::Request, 1, 2) }, b"");
        assert_eq!(bench.hear(), None);
    }
    assert_eq!(bench.device.counters()[TRANSMIT].snapshot().errors, 5);
}

#[test]
fn a_second_request_for_the_same_ports_ends_the_connection() {
    let mut bench = bench();
    let mut server = bench.guest_connects(5000, 1);
    bench.say(bench.header(Op::Request, 5000, 1), b"");
    bench.hear_op(Op::Reset);
    assert_eq!(server.read(&mut [0; 8]).unwrap(), 0);
}

#[test]
fn malformed_chains_stop_the_device() {
    type Buffers<'a> = &'a [(u64, u32, bool)];
    let cases: [(&str, usize, Buffers<'_>); 5] = [
        ("short header", TRANSMIT, &[(SENT_AT, 43, false)]),
        ("writable packet", TRANSMIT, &[(SENT_AT, 44, false), (SENT_AT, 44, true)]),
        ("length beyond the chain", TRANSMIT, &[(SENT_AT, 44, false), (SENT_AT + 44, 99, false)]),
        ("outside of memory", TRANSMIT, &[(u64::MAX - 4, 44, false)]),
        ("looks like nothing", TRANSMIT, &[]),
    ];
    for (what, queue, buffers) in cases {
        let mut bench = bench();
        let header = Header { len: 100, ..bench.header(Op::Data, 1, 2) };
        bench.guest.write(SENT_AT, &header.encode());
        if buffers.is_empty() {
            bench.guest.queues[queue].set_avail_index(0x8000);
        } else {
            bench.guest.queues[queue].add(buffers);
        }
        assert!(matches!(bench.turn(), Err(WorkerError::Guest(_))), "{what}");
        assert_eq!(bench.device.counters()[queue].snapshot().guest_faults, 1, "{what}");
    }
}

#[test]
fn receive_buffers_without_room_stop_the_device() {
    for buffer in [(HEARD_AT, 44, true), (HEARD_AT, 10, true), (HEARD_AT, 4096, false)] {
        let mut bench = bench();
        bench.guest = FakeGuest::new();
        bench.workers.clear();
        bench.workers = bench.guest.activate(&mut bench.device, 0).unwrap();
        bench.guest.queues[RECEIVE].add(&[buffer]);
        bench.guest.write(SENT_AT, &bench.header(Op::Data, 1, 2).encode());
        bench.guest.queues[TRANSMIT].add(&[(SENT_AT, 44, false)]);
        let error = bench.turn().expect_err("the buffer is of no use");
        let expected = matches!(error, WorkerError::Guest(GuestFault::Length { .. } | GuestFault::Protocol(_)));
        assert!(expected, "{buffer:?}: {error}");
    }
}

#[test]
fn resets_that_the_guest_does_not_take_hold_its_packets_back() {
    let mut bench = bench();
    bench.guest = FakeGuest::new();
    bench.workers.clear();
    bench.workers = bench.guest.activate(&mut bench.device, 0).unwrap();
    bench.given = 0;
    let mut returned = 0;
    for guest in 0..1000 {
        bench.guest.write(SENT_AT, &bench.header(Op::Data, 1, guest).encode());
        if guest < returned + 250 {
            bench.guest.queues[TRANSMIT].add(&[(SENT_AT, 44, false)]);
        }
        bench.turn().unwrap();
        while bench.guest.queues[TRANSMIT].used().is_some() {
            returned += 1;
        }
    }
    assert_eq!(returned, 256, "no more is owed than that");
    // As the guest takes them, its packets go on.
    for _ in 0..300 {
        bench.give(1);
        bench.turn().unwrap();
        bench.guest.queues[RECEIVE].used();
        while bench.guest.queues[TRANSMIT].used().is_some() {
            returned += 1;
        }
    }
    assert!(returned > 400, "{returned}");
}

#[test]
fn there_is_an_end_to_connections() {
    let mut bench = bench();
    for guest in 0..MAX_CONNECTIONS as u32 {
        bench.say(bench.header(Op::Request, 5000, guest), b"");
        bench.request();
        assert_eq!(bench.hear(), None, "{guest}");
    }
    bench.say(bench.header(Op::Request, 5000, 1 << 20), b"");
    bench.hear_op(Op::Reset);
    // The listener is left alone meanwhile, and looked at again when a place is free.
    let mut stream = UnixStream::connect(bench.directory.path().join("v")).unwrap();
    stream.write_all(b"CONNECT 1\n").unwrap();
    bench.turn().unwrap();
    let watched = bench.workers[0].sources().len();
    bench.say(bench.header(Op::Reset, 5000, 7), b"");
    assert_eq!(bench.workers[0].sources().len(), watched + 1);
    bench.turn().unwrap();
    bench.hear_op(Op::Request);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any packets at all, to a few ports on which connections are made and used: no fault, no panic, and whatever the
    /// guest gets is well-formed.
    #[test]
    fn any_packets_are_survived(
        packets in proptest::collection::vec((0..9_u16, 0..3_u32, 0..3_u32, 0..4_u32, any::<u32>(), any::<u32>(), 0..2000_usize), 1..80)
    ) {
        let mut bench = bench();
        let mut programs = Vec::new();
        for (op, host, guest, flags, buf_alloc, fwd_cnt, len) in packets {
            let header = Header { op, flags, buf_alloc, fwd_cnt, ..bench.header(Op::Data, host, guest) };
            bench.say(header, &vec![op as u8; len]);
            let mut packet = [0; 8];
            while recv(bench.broker.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT).is_ok() {
                let (ours, mut far) = UnixStream::pair().unwrap();
                let id = u32::from_le_bytes(*packet.first_chunk().unwrap());
                bench.answer(id, 0, Some(&ours));
                far.write_all(&[5; 100]).unwrap();
                programs.push(far);
            }
            if flags == 3 {
                programs.pop();
            }
            bench.turn().unwrap();
            while let Some((header, _)) = bench.hear() {
                prop_assert!(Op::try_from(header.op).is_ok());
            }
        }
    }
}
