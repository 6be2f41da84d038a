//! Bad input: exit status 2, one line on standard error with the option, the value and the reason, and nothing left behind.

use std::ffi::OsString;
use std::os::unix::net::UnixListener;

use anyhow::{Context, Result, ensure};
use quantix_e2e::native::{Case, Ended, Native, Running, TAP, case, in_own_network};
use std::time::{Duration, Instant};

const AARCH64: u16 = 183;

/// Options that are refused, parted by blanks, and what the line must say. In both `@` is the case's directory; a later
/// `--kernel` is not given where the row has its own.
const TABLE: &[(&str, &str, &[&str])] = &[
    ("kernel_missing", "--kernel @/nothing", &["--kernel", "@/nothing", "no such file"]),
    ("kernel_truncated", "--kernel @/truncated", &["--kernel", "@/truncated", "truncated"]),
    ("kernel_for_another_machine", "--kernel @/foreign", &["--kernel", "@/foreign", "another machine"]),
    ("kernel_is_a_directory", "--kernel @", &["--kernel", "@", "directory"]),
    ("disk_missing", "--disk path=@/nothing", &["--disk", "@/nothing", "No such file"]),
    ("disk_truncated_qcow2", "--disk path=@/cut.qcow2,format=qcow2", &["--disk", "@/cut.qcow2"]),
    ("disk_is_a_directory", "--disk path=@", &["--disk", "@", "directory"]),
    ("tap_missing", "--net tap=nothing", &["--net", "tap=nothing", "no such network interface"]),
    ("memory_none", "--memory 0", &["--memory", "0", "must be from 16M"]),
    ("memory_odd", "--memory 134217729", &["--memory", "134217729", "multiple"]),
    ("memory_too_large", "--memory 17T", &["--memory", "must be from 16M to 16T"]),
    ("cpus_none", "--cpus 0", &["--cpus", "0", "from 1 to 128"]),
    ("cpus_too_many", "--cpus 129", &["--cpus", "129", "from 1 to 128"]),
    ("mac_bad", "--net tap=tap0,mac=zz", &["--net", "mac=zz", "six pairs"]),
    ("id_twice", "--disk path=@/disk,id=a --net tap=tap0,id=a", &["--net", "id=a", "another device has this id"]),
    ("option_unknown", "--disks @/disk", &["--disks", "unexpected argument"]),
    ("initrd_larger_than_memory", "--initrd @/disk --memory 32M", &["--initrd", "@/disk", "does not fit"]),
    ("api_socket_taken", "--api-socket @/disk", &["--api-socket", "@/disk", "exists"]),
    ("vsock_socket_taken", "--vsock cid=3,socket=@/disk", &["--vsock", "@/disk"]),
];

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    let rows = TABLE.iter().map(|(name, options, parts)| -> Case {
        let run = move |native: &Native| refused(native, options, parts);
        (format!("refusal::{name}"), Box::new(run))
    });
    rows.chain([
        case("refusal::tap_busy", tap_busy),
        case("refusal::disk_busy", disk_busy),
        case("refusal::api_socket_busy", api_socket_busy),
    ])
    .collect()
}

/// An ELF file for `machine` that has `code` at 1 MiB.
pub fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    const AT: u64 = 0x10_0000;
    const OFFSET: u64 = 120;
    let identification = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let short = |values: &[u16]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let word = |values: &[u32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let long = |values: &[u64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let length = code.len() as u64;
    [
        identification,
        short(&[2, machine]),
        word(&[1]),
        // Entry, program headers, section headers.
        long(&[AT, 64, 0]),
        word(&[0]),
        short(&[64, 56, 1, 0, 0, 0]),
        // One program header: load, readable and executable.
        word(&[1, 5]),
        long(&[OFFSET, AT, AT, length, length, 1]),
        code.to_vec(),
    ]
    .concat()
}

/// Starts `quantix-vmm` with these options, the control socket and vsock beside them; the case's directory must not change.
fn refused(native: &Native, options: &str, parts: &[&str]) -> Result<()> {
    let payload = std::fs::read(&native.payload)?;
    native.file("truncated", payload.get(..payload.len() / 2).unwrap_or_default())?;
    native.file("foreign", &elf(AARCH64, &[0; 4]))?;
    let whole = std::fs::read(native.qcow2("disk.qcow2", 64, None)?)?;
    native.file("cut.qcow2", whole.get(..100).unwrap_or_default())?;
    native.raw("disk", 64)?;
    let before = native.names()?;
    let place = native.path("").display().to_string();
    let place = place.trim_end_matches('/');
    let ended = run(native, &options.replace('@', place))?;
    let parts: Vec<_> = parts.iter().map(|part| part.replace('@', place)).collect();
    is_refusal(ended, &parts)?;
    // The vsock broker is a process of its own: it sees the VMM's end, then removes the socket.
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut after = native.names()?;
    while before != after && Instant::now() < deadline {
        std::thread::yield_now();
        after = native.names()?;
    }
    ensure!(before == after, "Something was left behind: {after:?} instead of {before:?}");
    Ok(())
}

/// Adds what the row leaves out, so that there is something to be left behind.
fn run(native: &Native, options: &str) -> Result<Ended> {
    let mut line = vec![native.vmm.clone().into_os_string(), "run".into()];
    line.extend(options.split(' ').map(OsString::from));
    let usual = [
        ("--kernel", native.payload.display().to_string()),
        ("--api-socket", native.path("api.sock").display().to_string()),
        ("--vsock", format!("cid=3,socket={}", native.path("vsock.sock").display())),
    ];
    for (name, value) in usual {
        if !options.split(' ').any(|option| option == name) {
            line.extend([name.into(), value.into()]);
        }
    }
    Running::start(native, &line)?.end()
}

fn is_refusal(ended: Ended, parts: &[String]) -> Result<()> {
    let ended = ended.exited(2)?;
    ensure!(ended.errors.lines().count() == 1 && ended.output.is_empty(), "Not one line{}", ended.words());
    for part in parts {
        ensure!(ended.errors.contains(part), "{part:?} is not named{}", ended.words());
    }
    Ok(())
}

fn tap_busy(native: &Native) -> Result<()> {
    in_own_network(|| {
        let holder = native.vm().option("--net", format!("tap={TAP}")).does("after=idle").start()?;
        holder.wait_for("ready", 1)?;
        is_refusal(run(native, &format!("--net tap={TAP}"))?, &["--net".into(), format!("tap={TAP}"), "busy".into()])
    })
}

fn disk_busy(native: &Native) -> Result<()> {
    let disk = native.raw("disk", 64)?;
    let holder = native.vm().disk(&disk, "").does("after=idle").start()?;
    holder.wait_for("ready", 1)?;
    let path = disk.display().to_string();
    is_refusal(run(native, &format!("--disk path={path}"))?, &["--disk".into(), path])
}

/// A socket on which somebody listens stays where it is, and theirs.
fn api_socket_busy(native: &Native) -> Result<()> {
    let path = native.path("theirs.sock");
    let listener = UnixListener::bind(&path).context("Cannot listen")?;
    let text = path.display().to_string();
    is_refusal(run(native, &format!("--api-socket {text}"))?, &["--api-socket".into(), text])?;
    ensure!(path.exists(), "Their socket was removed");
    drop(listener);
    Ok(())
}
