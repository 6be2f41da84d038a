//! What must go on working: the work of each role, as the product's crates and the standard library do it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::mpsc;

use io_uring::{IoUring, opcode, types};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuExit, VcpuFd, VmFd};
use quantix_vmm::sandbox::{Role, enter_process, enter_thread};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use crate::child::{End, command, end, inside};

pub const TESTS: &[crate::Test] = &[
    ("allowed::the_run_time_of_every_role", || every_role("run-time")),
    ("allowed::threads_allocate_and_free_a_lot", || every_role("allocate")),
    ("allowed::the_control_loop_receives_files", || works(Role::Main, "files")),
    ("allowed::an_io_thread_does_disk_work", || works(Role::Io, "disk")),
    ("allowed::an_io_thread_uses_a_ring_that_was_made_before", || works(Role::Io, "ring")),
    ("allowed::an_io_thread_serves_streams", || works(Role::Io, "streams")),
    ("allowed::a_vcpu_thread_runs_a_guest", || works(Role::Vcpu, "guest")),
    ("allowed::a_panic_says_why", panic_says_why),
];

fn works(role: Role, name: &str) {
    let end = end(&mut command(&format!("allow {role:?} {name}")));
    assert!(matches!(end, End::Exit(0, _)), "{role:?} {name}: {end:?}");
}

fn every_role(name: &str) {
    for role in Role::ALL {
        works(role, name);
    }
}

/// The message is printed before the process aborts; in this test build, a panic ends the thread and `inside` reports it.
fn panic_says_why() {
    for role in Role::ALL {
        let end = end(&mut command(&format!("allow {role:?} panic")));
        let End::Exit(101, text) = end else { panic!("{role:?}: {end:?}") };
        assert!(text.contains("the guest is fine, I am not"), "{text}");
    }
}

/// The child's side.
pub fn run(role: Role, name: &str) {
    match name {
        "run-time" => inside(role, || EventFd::new(0).unwrap(), |event| run_time(&event)),
        "allocate" => allocate(role),
        "files" => inside(role, || UnixStream::pair().unwrap(), |(ours, theirs)| files(&ours, theirs)),
        "disk" => inside(role, || tempfile::tempfile().unwrap(), |file| disk(&file)),
        "ring" => inside(
            role,
            || (IoUring::new(8).unwrap(), tempfile::tempfile().unwrap()),
            |(ring, file)| use_ring(ring, &file),
        ),
        "streams" => streams(role),
        "guest" => inside(role, guest, run_guest),
        "panic" => inside(role, || (), |()| panic!("the guest is fine, I am not")),
        _ => panic!("no case {name}"),
    }
}

fn run_time(event: &EventFd) {
    event.write(1).unwrap();
    assert_eq!(event.read().unwrap(), 1);
    let map: HashMap<u32, u32> = (0..1000).map(|i| (i, i)).collect();
    assert_eq!(map.len(), 1000);
    let mut grown = vec![0_u8; 1 << 20];
    for _ in 0..4 {
        grown.resize(grown.len() * 4, 1);
    }
    let (sender, receiver) = mpsc::channel();
    sender.send(grown.len()).unwrap();
    assert_eq!(receiver.recv(), Ok(256 << 20));
    assert!(receiver.recv_timeout(std::time::Duration::from_millis(1)).is_err());
    std::thread::yield_now();
    eprintln!("{:?}", std::time::SystemTime::now());
}

/// Every thread fills and empties the heap, so that its arena has a reason to shrink.
fn allocate(role: Role) {
    enter_process().unwrap();
    let churn = || {
        for _ in 0..4 {
            drop((0..2000).map(|i| vec![1_u8; 5000 + i]).collect::<Vec<_>>());
        }
    };
    let (ready, wait) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let ready = ready.clone();
            scope.spawn(move || {
                enter_thread(role).unwrap();
                ready.send(()).unwrap();
                churn();
            });
        }
        (0..3).for_each(|_| wait.recv().unwrap());
        enter_thread(Role::Main).unwrap();
        churn();
    });
}

fn files(ours: &UnixStream, theirs: UnixStream) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let rights = [theirs.as_raw_fd()];
    let bytes = [std::io::IoSlice::new(b"migration\n")];
    sendmsg::<()>(theirs.as_raw_fd(), &bytes, &[ControlMessage::ScmRights(&rights)], MsgFlags::empty(), None).unwrap();
    let mut store = quantix_vmm::sandbox::FdStore::new();
    let names = store.receive(std::os::fd::AsFd::as_fd(ours)).unwrap();
    drop(theirs);
    let passed: OwnedFd = store.take(&names[0]).unwrap();
    UnixStream::from(passed).write_all(b"hello").unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut bytes = [0; 5];
    (&mut &*ours).read_exact(&mut bytes).unwrap();
}

fn disk(mut file: &File) {
    file.write_all_at(&[7; 4096], 4096).unwrap();
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 8192);
    file.rewind().unwrap();
    // The standard library would like a size hint by statx; it must do without.
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 8192);
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    assert_eq!(nix::sys::uio::preadv(file, &mut parts, 4096).unwrap(), 4096);
    assert_eq!(nix::sys::uio::pwritev(file, &[std::io::IoSlice::new(b"abc")], 0).unwrap(), 3);
    let hole = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
    nix::fcntl::fallocate(file, hole, 0, 4096).unwrap();
    file.set_len(1 << 20).unwrap();
    file.sync_all().unwrap();
    file.sync_data().unwrap();
}

fn use_ring(mut ring: IoUring, file: &File) {
    let data = [9_u8; 512];
    let write = opcode::Write::new(types::Fd(file.as_raw_fd()), data.as_ptr(), data.len() as u32).build();
    // SAFETY: the buffer and the file live until the completion is taken, below.
    unsafe { ring.submission().push(&write) }.unwrap();
    ring.submit_and_wait(1).unwrap();
    assert_eq!(ring.completion().next().unwrap().result(), 512);
}

fn streams(role: Role) {
    let prepare = || {
        let address = SocketAddr::from_abstract_name(format!("quantix-sandbox-{}", std::process::id())).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let client = UnixStream::connect_addr(&address).unwrap();
        (listener, client)
    };
    inside(role, prepare, |(listener, mut client)| {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut other = stream.try_clone().unwrap();
        client.write_all(b"CONNECT 9700\n").unwrap();
        let mut bytes = [0; 13];
        stream.read_exact(&mut bytes).unwrap();
        let sent = other.write_vectored(&[std::io::IoSlice::new(b"OK "), std::io::IoSlice::new(b"1\n")]);
        assert_eq!(sent.unwrap(), 5);
        other.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text, "OK 1\n");
    });
}

/// What a running guest is made of; the memory is last, so that it outlives the VM.
struct Guest {
    vcpu: VcpuFd,
    vm: VmFd,
    doorbell: EventFd,
    _memory: GuestMemoryMmap,
}

/// A guest of four instructions in real mode.
fn guest() -> Guest {
    // out 0x10, al; out 0x12, al; in al, 0x11; hlt
    const CODE: [u8; 7] = [0xe6, 0x10, 0xe6, 0x12, 0xe4, 0x11, 0xf4];
    let vm = Kvm::new().unwrap().create_vm().unwrap();
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
    memory.write_slice(&CODE, GuestAddress(0x1000)).unwrap();
    let region = kvm_bindings::kvm_userspace_memory_region {
        memory_size: 0x1_0000,
        userspace_addr: memory.iter().next().unwrap().as_ptr() as u64,
        ..Default::default()
    };
    // SAFETY: `Guest` keeps the memory mapped for as long as the VM exists.
    unsafe { vm.set_user_memory_region(region) }.unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let doorbell = EventFd::new(libc::EFD_NONBLOCK).unwrap();
    Guest { vcpu, vm, doorbell, _memory: memory }
}

fn run_guest(mut guest: Guest) {
    let vcpu = &mut guest.vcpu;
    let mut sregs = vcpu.get_sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.get_regs().unwrap();
    (regs.rip, regs.rflags) = (0x1000, 2);
    vcpu.set_regs(&regs).unwrap();
    guest.vm.register_ioevent(&guest.doorbell, &IoEventAddress::Pio(0x12), NoDatamatch).unwrap();
    assert!(matches!(vcpu.run().unwrap(), VcpuExit::IoOut(0x10, _)));
    assert!(matches!(vcpu.run().unwrap(), VcpuExit::IoIn(0x11, _)));
    assert!(matches!(vcpu.run().unwrap(), VcpuExit::Hlt));
    assert_eq!(guest.doorbell.read().unwrap(), 1);
}
