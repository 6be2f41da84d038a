//! The agent: starts programs that the host names, and reports their output and how they ended. In L1 it serves every
//! virtio-serial port that the lab made, one thread a port. It must not depend on any crate (see `build.rs`) and must
//! survive whatever a job does.
//!
//! ```text
//! lab-agent                         serve the virtio-serial ports
//! lab-agent listen SOCKET…          serve unix sockets instead, on a machine that needs no L1
//! lab-agent measure TEXT -- ARGV    run a program until it says TEXT; print the time and KVM's exit counts
//! ```

#![forbid(unsafe_code)]

#[path = "../control/frame.rs"]
#[allow(dead_code, reason = "the host encodes what the agent decodes, and the other way round")]
mod frame;
mod job;
mod measure;

use frame::{Frame, Kind, Request};
use job::{Job, Writer};
use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Ports are called this and a number; `machine/spec.rs` gives them the name.
const PORT_PREFIX: &str = "quantix.lab.";
/// The kernel cannot tell a waiting reader that the host has come: look again this often.
const HOST_AWAY_PAUSE: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let servers: Vec<_> = match arguments.as_slice() {
        ["measure", text, "--", argv @ ..] => return measure::measure(text, argv),
        ["listen", sockets @ ..] => {
            sockets.iter().map(PathBuf::from).map(|path| thread::spawn(move || listen(&path))).collect()
        }
        _ => await_ports().into_iter().map(|port| thread::spawn(move || serve_port(&port))).collect(),
    };
    for server in servers {
        // A server ends only when its port is unplugged or its socket cannot be made.
        let _ended = server.join();
    }
    ExitCode::FAILURE
}

fn await_ports() -> Vec<PathBuf> {
    loop {
        let found = find_ports(Path::new("/sys/class/virtio-ports"));
        if !found.is_empty() {
            return found;
        }
        thread::sleep(HOST_AWAY_PAUSE);
    }
}

fn find_ports(class: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(class) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.starts_with(PORT_PREFIX)))
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}

/// A virtio-serial port stays open; reading gives nothing as long as the host is away.
fn serve_port(path: &Path) {
    let mut port = loop {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(port) => break port,
            Err(_) => thread::sleep(HOST_AWAY_PAUSE),
        }
    };
    let Ok(writer) = port.try_clone() else { return };
    let writer: Writer = Arc::new(Mutex::new(writer));
    while serve(&mut port, &writer).is_ok() {
        thread::sleep(HOST_AWAY_PAUSE);
    }
}

/// One client at a time on each socket, as on a port.
fn listen(path: &Path) {
    let listener = match UnixListener::bind(path) {
        Ok(listener) => listener,
        Err(error) => return eprintln!("lab-agent: {}: {error}", path.display()),
    };
    while let Ok((mut stream, _)) = listener.accept() {
        let Ok(writer) = stream.try_clone() else { continue };
        let writer: Writer = Arc::new(Mutex::new(writer));
        let _client_gone = serve(&mut stream, &writer);
    }
}

/// Serves one client until it goes, which ends what it started.
fn serve(reader: &mut impl Read, writer: &Writer) -> io::Result<()> {
    let mut current: Option<Job> = None;
    loop {
        match Frame::read_from(reader) {
            Ok(frame) => handle(&frame, writer, &mut current),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => return Err(error),
        }
    }
}

fn handle(frame: &Frame, writer: &Writer, current: &mut Option<Job>) {
    match frame.kind {
        Kind::Hello => job::send(writer, frame),
        Kind::Run => {
            *current = None;
            let started = Request::decode(&frame.payload)
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "The request makes no sense"))
                .and_then(|request| Job::start(&request, frame.job, writer));
            match started {
                Ok(job) => *current = Some(job),
                Err(error) => job::send(writer, &Frame::new(Kind::Refused, frame.job, error.to_string())),
            }
        }
        Kind::Input | Kind::InputEnd => {
            if let Some(job) = current.as_mut().filter(|job| job.number() == frame.job) {
                job.input(frame);
            }
        }
        Kind::Output | Kind::Errors | Kind::Exit | Kind::Refused => {}
    }
}
