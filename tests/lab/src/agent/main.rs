//! The agent: runs in L1, serves every virtio-serial port that the lab made, one thread a port. It starts programs that
//! the host names, and reports their output and how they ended. It must not depend on any crate (see `build.rs`) and
//! must survive whatever a job does.

#![forbid(unsafe_code)]

#[path = "../control/frame.rs"]
#[allow(dead_code, reason = "the host encodes what the agent decodes, and the other way round")]
mod frame;
mod job;

use frame::{Frame, Kind, Request};
use job::Job;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Ports are called this and a number; `machine/qemu.rs` gives them the name.
const PORT_PREFIX: &str = "quantix.lab.";
/// The kernel cannot tell a waiting reader that the host has come: look again this often.
const HOST_AWAY_PAUSE: Duration = Duration::from_millis(50);

fn main() {
    let ports = loop {
        let found = find_ports(Path::new("/sys/class/virtio-ports"));
        if !found.is_empty() {
            break found;
        }
        thread::sleep(HOST_AWAY_PAUSE);
    };
    let servers: Vec<_> = ports.into_iter().map(|port| thread::spawn(move || serve(&port))).collect();
    for server in servers {
        // A server ends only when its port is unplugged.
        let _ended = server.join();
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

fn serve(path: &Path) {
    let port = loop {
        match OpenOptions::new().read(true).write(true).open(path) {
            Ok(port) => break port,
            Err(_) => thread::sleep(HOST_AWAY_PAUSE),
        }
    };
    let Ok(writer) = port.try_clone() else { return };
    let writer = Arc::new(Mutex::new(writer));
    let mut port = port;
    let mut current: Option<Job> = None;
    loop {
        match Frame::read_from(&mut port) {
            Ok(frame) => handle(&frame, &writer, &mut current),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                // The host has gone: what it asked for is not wanted any more.
                current = None;
                thread::sleep(HOST_AWAY_PAUSE);
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            Err(error) => {
                eprintln!("lab-agent: {}: {error}", path.display());
                return;
            }
        }
    }
}

fn handle(frame: &Frame, writer: &Arc<Mutex<File>>, current: &mut Option<Job>) {
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
