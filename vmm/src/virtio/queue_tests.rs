//! Queue tests on the fake guest: what an honest driver sees, and what a hostile one cannot do.

use super::testing::{BUFFERS, FakeDescriptor, FakeGuest};
use super::*;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

#[test]
fn a_chain_comes_and_goes_with_its_length() {
    for event_idx in [false, true] {
        let mut guest = FakeGuest::new();
        let mut queue = guest.add_queue(8, event_idx);
        guest.write(BUFFERS, b"ping");
        let head = guest.queues[0].add(&[(BUFFERS, 4, false), (BUFFERS + 64, 16, true)]);
        let chain = queue.pop().unwrap().unwrap();
        let mut bytes = [0; 8];
        assert_eq!(chain.readable.read(0, &mut bytes), 4);
        assert_eq!(&bytes[..4], b"ping");
        assert_eq!(chain.writable.write(0, b"pong"), 4);
        queue.push(chain, 4).unwrap();
        queue.signal().unwrap();
        assert_eq!(guest.queues[0].used(), Some((u32::from(head), 4)));
        assert_eq!(guest.interrupt.queue_count(), 1);
        assert_eq!(guest.read(BUFFERS + 64, 4), b"pong");
        assert!(queue.pop().unwrap().is_none());
    }
}

#[test]
fn many_turns_wrap_around_the_ring() {
    let mut guest = FakeGuest::new();
    let mut queue = guest.add_queue(4, false);
    for turn in 0..70_000_u32 {
        guest.queues[0].add(&[(BUFFERS, 8, true)]);
        let chain = queue.pop().unwrap().unwrap();
        queue.push(chain, turn).unwrap();
        assert_eq!(guest.queues[0].used().unwrap().1, turn);
    }
}

#[test]
fn event_index_holds_interrupts_back() {
    let mut guest = FakeGuest::new();
    let mut queue = guest.add_queue(8, true);
    // used_event = 2: tell me when the third buffer has been used.
    guest.memory.slice(0x8000, 64).unwrap().store_u16(4 + 16, 2, std::sync::atomic::Ordering::SeqCst).unwrap();
    for (turn, interrupts) in [(1, 0), (2, 0), (3, 1), (4, 1)] {
        guest.queues[0].add(&[(BUFFERS, 8, true)]);
        let chain = queue.pop().unwrap().unwrap();
        queue.push(chain, 0).unwrap();
        queue.signal().unwrap();
        assert_eq!(guest.interrupt.queue_count(), interrupts, "after buffer {turn}");
    }
}

#[test]
fn enabling_kicks_reports_what_slipped_in() {
    let mut guest = FakeGuest::new();
    let mut queue = guest.add_queue(8, false);
    queue.disable_kicks().unwrap();
    assert!(guest.queues[0].kicks_unwanted());
    guest.queues[0].add(&[(BUFFERS, 8, true)]);
    assert!(queue.enable_kicks().unwrap());
    assert!(!guest.queues[0].kicks_unwanted());
}

/// Lays raw descriptors, offers head 0 and returns the fault.
fn fault_of(descriptors: &[FakeDescriptor]) -> GuestFault {
    let mut guest = FakeGuest::new();
    let mut queue = guest.add_queue(8, false);
    for (i, d) in descriptors.iter().enumerate() {
        guest.queues[0].write_descriptor(i as u16, *d);
    }
    guest.queues[0].offer(0);
    queue.pop().expect_err("the chain is malformed")
}

fn descriptor(address: u64, len: u32, flags: u16, next: u16) -> FakeDescriptor {
    FakeDescriptor { address, len, flags, next }
}

#[test]
fn malformed_chains_are_faults() {
    assert_eq!(fault_of(&[descriptor(BUFFERS, 8, NEXT, 0)]), GuestFault::Loop { head: 0 });
    assert_eq!(fault_of(&[descriptor(BUFFERS, 8, NEXT, 9)]), GuestFault::DescriptorIndex { index: 9, size: 8 });
    let len = u64::from(u32::MAX);
    assert_eq!(
        fault_of(&[descriptor(BUFFERS, u32::MAX, WRITE, 0)]),
        GuestFault::OutsideMemory { address: BUFFERS, len }
    );
    assert_eq!(
        fault_of(&[descriptor(u64::MAX - 4, 8, 0, 0)]),
        GuestFault::OutsideMemory { address: u64::MAX - 4, len: 8 }
    );
    let backwards = [descriptor(BUFFERS, 8, WRITE | NEXT, 1), descriptor(BUFFERS, 8, 0, 0)];
    assert_eq!(fault_of(&backwards), GuestFault::Order { head: 0 });
    for len in [0, 8, 17, 16 * 0x10000] {
        assert_eq!(fault_of(&[descriptor(BUFFERS, len, INDIRECT, 0)]), GuestFault::Indirect { head: 0, len });
    }
    assert_eq!(fault_of(&[descriptor(BUFFERS, 16, INDIRECT | NEXT, 1)]), GuestFault::Indirect { head: 0, len: 16 });
}

#[test]
fn a_nested_indirect_table_is_a_fault() {
    let mut guest = FakeGuest::new();
    let mut queue = guest.add_queue(8, false);
    guest.queues[0].write_descriptor(0, descriptor(BUFFERS, 16, INDIRECT, 0));
    let inner = (u64::from(16_u32) | u64::from(INDIRECT) << 32).to_le_bytes();
    guest.write(BUFFERS, &BUFFERS.to_le_bytes());
    guest.write(BUFFERS + 8, &inner);
    guest.queues[0].offer(0);
    assert_eq!(queue.pop().unwrap_err(), GuestFault::Indirect { head: 0, len: 16 });
}

#[test]
fn an_available_index_that_jumps_is_a_fault() {
    let mut guest = FakeGuest::new();
    let mut queue = guest.add_queue(8, false);
    guest.queues[0].set_avail_index(9);
    assert_eq!(queue.pop().unwrap_err(), GuestFault::AvailIndex { index: 9, next: 0, size: 8 });
}

#[test]
fn a_driver_cannot_make_the_device_hold_more_chains_than_the_queue_is_long() {
    let mut guest = FakeGuest::new();
    let mut queue = guest.add_queue(4, false);
    let mut held = Vec::new();
    for _ in 0..4 {
        guest.queues[0].add(&[(BUFFERS, 8, true)]);
        held.push(queue.pop().unwrap().unwrap());
    }
    guest.queues[0].add(&[(BUFFERS, 8, true)]);
    assert!(matches!(queue.pop(), Err(GuestFault::Protocol(_))));
}

#[test]
fn rings_outside_memory_or_misaligned_are_refused() {
    let mut guest = FakeGuest::new();
    let good = guest.add_queue(8, false).layout();
    let try_layout = |layout| {
        let kick = std::sync::Arc::new(vmm_sys_util::eventfd::EventFd::new(0).unwrap());
        let wiring = QueueWiring { index: 0, kick, interrupt: guest.interrupt.clone(), event_idx: false };
        Queue::new(guest.memory, layout, wiring).is_ok()
    };
    assert!(try_layout(good));
    assert!(!try_layout(QueueLayout { size: 7, ..good }));
    assert!(!try_layout(QueueLayout { size: 0, ..good }));
    assert!(!try_layout(QueueLayout { descriptors: 8, ..good }));
    assert!(!try_layout(QueueLayout { available: 1, ..good }));
    assert!(!try_layout(QueueLayout { used: testing::MEMORY_SIZE - 8, ..good }));
    assert!(!try_layout(QueueLayout { used: u64::MAX - 3, ..good }));
}
