//! What the node daemon relies on: with an empty root directory and nothing but descriptors, everything works.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use quantix_bench::frames::{self, Port};
use quantix_bench::vsock_peer;
use quantix_e2e::native::{
    Case, Ended, Jail, Native, PATIENCE, TAP, attached_tap, case, connector_for, in_own_network, meanwhile,
};

const MIB: u64 = 16;
const TESTS: &str = "blk-verify,rng,net-answer,vsock-answer,vsock-echo";

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![case("jail::descriptors_and_an_empty_root", descriptors_and_an_empty_root)]
}

/// Every device and every socket: KVM, a kernel, a qcow2 chain of two layers, a tap, vsock both ways, serial, control.
fn descriptors_and_an_empty_root(native: &Native) -> Result<()> {
    in_own_network(|| at_work(native))
}

fn at_work(native: &Native) -> Result<()> {
    let base = native.raw("base", MIB)?;
    let top = native.qcow2("top", MIB, Some(&base))?;
    let vsock = native.path("vsock.sock");
    let serial = native.path("serial");
    let port = Port::open(TAP, PATIENCE)?;
    let jail = Jail::new(native)
        .pass("kvm", read_write("/dev/kvm".as_ref())?)
        .pass("proc", File::open("/proc")?)
        .pass("kernel", File::open(&native.payload)?)
        .pass("top", read_write(&top)?)
        .pass("base", File::open(&base)?)
        .pass("tap", attached_tap()?)
        .pass("vsock", UnixListener::bind(&vsock)?)
        .pass("vsock-connect", connector_for(vsock.clone())?)
        .pass("serial", File::create(&serial)?)
        .pass("api", control_listener(native)?);
    let callers_socket = vsock.clone();
    let peer = meanwhile(move || vsock_peer::echo(&callers_socket, 5000));
    let running = jail.start(&configuration())?;
    let said = |word: &str, times: usize| {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&serial)?;
            if text.matches(word).count() >= times {
                return Ok(());
            }
            ensure!(std::time::Instant::now() < deadline, "The guest never said {word} {times} times: {text}");
            std::thread::yield_now();
        }
    };
    said("listening", 1)?;
    frames::check(&port, 50)?;
    said("listening", 2)?;
    meanwhile(move || vsock_peer::check(&vsock, 5001, 64 << 10))()?;
    said("vsock-echo", 1)?;
    ensure!(peer()? > 0, "The guest's connection brought nothing");
    let info = running.ctl_json("info")?;
    ensure!(info["sandbox"]["enabled"] == true && info["sandbox"]["landlock"] == true, "{info}");
    let stats = running.ctl_json("stats")?;
    ensure!(stats["vcpus"][0]["run_delay_ns"].is_u64(), "The run delay is not known: {stats}");
    running.ctl(&["stop"])?;
    let mut ended = running.end()?.exited(0)?;
    ended.output = std::fs::read_to_string(&serial)?;
    TESTS.split(',').try_fold(ended, Ended::passed)?;
    Ok(())
}

fn configuration() -> String {
    serde_json::json!({
        "kernel": "fd:kernel",
        "cmdline": format!("test={TESTS} mib=2 frames=50 wait_ms=60000 after=idle"),
        "memory": {"size_bytes": 128 << 20},
        "disks": [{"path": "fd:top+base", "format": "qcow2"}],
        "nets": [{"tap": "fd:tap"}],
        "vsock": {"cid": 3, "socket": "fd:vsock"},
        "rng": true,
        "serial": "fd:serial",
        "api_socket": "fd:api",
    })
    .to_string()
}

fn read_write(path: &std::path::Path) -> Result<File> {
    let opened = File::options().read(true).write(true).open(path);
    opened.with_context(|| format!("Cannot open {}", path.display()))
}

fn control_listener(native: &Native) -> Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(&native.control_socket())?)?;
    listen(&fd, Backlog::new(8)?)?;
    Ok(fd)
}
