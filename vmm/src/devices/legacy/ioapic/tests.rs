//! The I/O APIC by its registers, its pins and its messages. No KVM is needed.

use std::io;

use super::*;
use crate::devices::legacy::testing::batter;

#[derive(Default)]
struct Sink(Mutex<Vec<Message>>);

impl MsiSink for Sink {
    fn signal(&self, address: u64, data: u32) -> io::Result<()> {
        self.0.lock().unwrap().push(Message { address, data });
        Ok(())
    }
}

impl Sink {
    fn taken(&self) -> Vec<u32> {
        self.0.lock().unwrap().drain(..).map(|message| message.data).collect()
    }
}

fn io_apic() -> (IoApic, Arc<Sink>) {
    let sink = Arc::new(Sink::default());
    (IoApic::new(sink.clone()), sink)
}

fn get(io_apic: &mut IoApic, register: u8) -> u32 {
    io_apic.write(SELECT, &[register]);
    let mut data = [0; 4];
    io_apic.read(WINDOW, &mut data);
    u32::from_le_bytes(data)
}

fn put(io_apic: &mut IoApic, register: u8, value: u32) {
    io_apic.write(SELECT, &u32::from(register).to_le_bytes());
    io_apic.write(WINDOW, &value.to_le_bytes());
}

/// Sets the lower half of a pin's entry.
fn set(io_apic: &mut IoApic, pin: u8, entry: u64) {
    put(io_apic, REDIRECTION + 2 * pin, entry as u32);
}

#[test]
fn entries_become_messages() {
    // entry, address, data
    let table = [
        (0x31, 0xfee0_0000, 0x31),
        (0x0300_0000_0000_0931, 0xfee0_3004, 0x131),
        (0x0000_0000_0000_8041, 0xfee0_0000, 0xc041),
        (0xff00_0000_0000_0400, 0xfeef_f000, 0x400),
        (0x2c02_0000_0000_0031, 0xfee2_c020, 0x31),
    ];
    for (entry, address, data) in table {
        assert_eq!(Message::new(entry), Message { address, data }, "{entry:#x}");
    }
}

#[test]
fn the_extension_of_a_destination_moves_up_for_kvm() {
    assert_eq!(with_wide_destination(0xfee2_c020), 0x0100_fee2_c000);
    assert_eq!(with_wide_destination(0xfeef_fff4), 0x7f00_feef_f014);
    assert_eq!(with_wide_destination(0xfee0_3004), 0xfee0_3004);
}

#[test]
fn registers_read_back_and_keep_what_is_the_hardwares() {
    let (mut io_apic, _) = io_apic();
    assert_eq!(get(&mut io_apic, VERSION), 0x0007_0020);
    put(&mut io_apic, VERSION, 0);
    assert_eq!(get(&mut io_apic, VERSION), 0x0007_0020);
    put(&mut io_apic, ID, u32::MAX);
    assert_eq!(get(&mut io_apic, ID), 0x0f00_0000);
    put(&mut io_apic, 0x10, u32::MAX);
    put(&mut io_apic, 0x11, u32::MAX);
    assert_eq!((get(&mut io_apic, 0x10), get(&mut io_apic, 0x11)), (0x0001_afff, 0xffff_0000));
    assert_eq!(get(&mut io_apic, 0x1f), 0);
    assert_eq!(get(&mut io_apic, 0x20), 0, "there is no such pin");
}

#[test]
fn an_edge_on_an_open_pin_is_one_message_and_on_a_masked_pin_none() {
    let (mut io_apic, sink) = io_apic();
    io_apic.pulse(4);
    set(&mut io_apic, 4, 0x31);
    assert_eq!(sink.taken(), [] as [u32; 0], "an edge on a masked pin is forgotten");
    io_apic.pulse(4);
    io_apic.pulse(4);
    io_apic.pulse(PINS);
    assert_eq!(sink.taken(), [0x31, 0x31]);
    io_apic.set_line(4, true);
    io_apic.set_line(4, true);
    assert_eq!(sink.taken(), [0x31], "a line that stays high has one edge");
}

#[test]
fn a_level_is_sent_again_after_its_end_while_the_line_is_high() {
    let (mut io_apic, sink) = io_apic();
    set(&mut io_apic, 6, LEVEL | 0x41);
    io_apic.set_line(6, true);
    io_apic.set_line(6, true);
    assert_eq!(sink.taken(), [0xc041]);
    assert_ne!(u64::from(get(&mut io_apic, 0x1c)) & REMOTE_IRR, 0);
    io_apic.end_of_interrupt(0x42);
    assert_eq!(sink.taken(), [] as [u32; 0], "another vector's end");
    io_apic.end_of_interrupt(0x41);
    assert_eq!(sink.taken(), [0xc041]);
    io_apic.set_line(6, false);
    io_apic.write(EOI, &[0x41]);
    assert_eq!(sink.taken(), [] as [u32; 0]);
    assert_eq!(u64::from(get(&mut io_apic, 0x1c)) & REMOTE_IRR, 0);
}

#[test]
fn a_level_waits_behind_the_mask() {
    let (mut io_apic, sink) = io_apic();
    set(&mut io_apic, 6, MASKED | LEVEL | 0x41);
    io_apic.set_line(6, true);
    assert_eq!(sink.taken(), [] as [u32; 0]);
    set(&mut io_apic, 6, LEVEL | 0x41);
    assert_eq!(sink.taken(), [0xc041]);
}

#[test]
fn a_switch_to_edge_clears_a_remote_irr_that_nobody_ends() {
    let (mut io_apic, sink) = io_apic();
    set(&mut io_apic, 6, LEVEL | 0x41);
    io_apic.set_line(6, true);
    io_apic.set_line(6, false);
    set(&mut io_apic, 6, MASKED | 0x41);
    set(&mut io_apic, 6, LEVEL | 0x41);
    io_apic.set_line(6, true);
    assert_eq!(sink.taken(), [0xc041, 0xc041]);
}

#[test]
fn what_is_saved_goes_on_where_it_was() {
    let (mut saved, _) = io_apic();
    set(&mut saved, 6, LEVEL | 0x41);
    saved.set_line(6, true);
    let (mut restored, sink) = io_apic();
    restored.restore(saved.state());
    assert_eq!(restored.state(), saved.state());
    assert_eq!(sink.taken(), [] as [u32; 0], "it was sent before");
    restored.end_of_interrupt(0x41);
    assert_eq!(sink.taken(), [0xc041]);
}

#[test]
fn any_access_is_answered() {
    let (mut io_apic, _) = io_apic();
    for register in 0..=255 {
        io_apic.write(SELECT, &[register]);
        batter(&mut io_apic, 0x48);
    }
}
