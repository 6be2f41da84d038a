//! The process that stands behind an L1: it starts the file servers and QEMU (or the agent alone, on this machine), watches its owner, and clears everything
//! away. Single-threaded on purpose: its children ask the kernel to be killed when the thread that started them ends, so
//! nothing is left over even when the supervisor itself is killed.
//!
//! ```text
//! started ──► watching ──► (host ended │ owner gone │ idle too long │ SIGTERM) ──► children killed, directory removed
//! ```

use super::spec::{CommandLine, Machine, PORTS, RunDirectory, Spec};
use crate::error::{IoContext, LabError};
use crate::images::AGENT;
use std::env;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The hidden first argument that makes any program which links this library a supervisor.
const ARGUMENT: &str = "lab-supervise";
const LOOK_AGAIN: Duration = Duration::from_millis(250);
const SERVER_START: Duration = Duration::from_secs(10);

/// Every program that starts an L1 calls this first thing in `main`: the supervisor is the same program, started again.
/// Does not return when it was.
pub fn supervise_if_asked() {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == ARGUMENT) {
        let directory = arguments.next().map(PathBuf::from).unwrap_or_default();
        let code = match supervise(&RunDirectory(directory)) {
            Ok(why) => {
                eprintln!("supervisor: {why}");
                0
            }
            Err(error) => {
                eprintln!("supervisor: {error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
                1
            }
        };
        std::process::exit(code);
    }
}

/// Starts the supervisor of the L1 described in `run`, apart from this process's group and streams.
pub(super) fn start(run: &RunDirectory) -> Result<Child, LabError> {
    let log = run.log("supervisor");
    let words = File::create(&log).on("create", &log)?;
    Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        .arg(&run.0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(words)
        .process_group(0)
        .spawn()
        .on("start", "/proc/self/exe")
}

fn supervise(run: &RunDirectory) -> Result<&'static str, LabError> {
    let life = File::create(run.life_lock()).on("create", run.life_lock())?;
    life.lock().on("lock", run.life_lock())?;
    let spec: Spec = serde_json::from_slice(&fs::read(run.spec()).on("read", run.spec())?)
        .map_err(|error| LabError::Io { action: "parse", path: run.spec(), source: error.into() })?;
    let mut children = Children::new(run)?;
    for server in spec.file_servers(run) {
        children.start(run, &server)?;
    }
    for (index, _) in spec.shares() {
        await_file(&run.share(index))?;
    }
    if spec.machine == Machine::Here {
        fs::write(run.agent(), AGENT).on("write", run.agent())?;
        fs::set_permissions(run.agent(), Permissions::from_mode(0o755)).on("make executable", run.agent())?;
    }
    children.start(run, &spec.host(run))?;
    let why = watch(run, &spec, &mut children);
    drop(children);
    if why == HOST_ENDED {
        // The logs are wanted: whoever uses this L1 takes them and clears up.
        return Ok(why);
    }
    fs::remove_dir_all(&run.0).on("remove", &run.0)?;
    Ok(why)
}

const HOST_ENDED: &str = "what it kept has ended";

fn watch(run: &RunDirectory, spec: &Spec, children: &mut Children) -> &'static str {
    let owner = spec.owner.map(|id| (id, start_time(id)));
    let mut last_use = Instant::now();
    loop {
        if children.last_has_ended() {
            return HOST_ENDED;
        }
        if owner.as_ref().is_some_and(|(id, began)| began.is_none() || start_time(*id) != *began) {
            return "the owner has ended";
        }
        if is_used(run) {
            last_use = Instant::now();
        }
        if spec.idle_limit_s.is_some_and(|limit| last_use.elapsed() > Duration::from_secs(limit)) {
            return "nobody needed it for a while";
        }
        thread::sleep(LOOK_AGAIN);
    }
}

fn is_used(run: &RunDirectory) -> bool {
    (0..PORTS).any(|index| File::open(run.port_lock(index)).is_ok_and(|file| file.try_lock_shared().is_err()))
}

/// When a process started, in clock ticks since boot: with its id that names one process for ever. `None` for one that
/// has ended, even if nobody has asked for its status yet.
fn start_time(process: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let alive = !matches!(fields.next()?, "Z" | "X");
    fields.nth(18).filter(|_| alive).map(String::from)
}

fn await_file(path: &Path) -> Result<(), LabError> {
    let deadline = Instant::now() + SERVER_START;
    while !path.exists() {
        if Instant::now() > deadline {
            return Err(std::io::Error::from(std::io::ErrorKind::TimedOut)).on("wait for", path);
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

struct Children {
    running: Vec<Child>,
    list: File,
}

impl Children {
    fn new(run: &RunDirectory) -> Result<Self, LabError> {
        let path = run.processes();
        let mut list = File::create(&path).on("create", &path)?;
        writeln!(list, "{} supervisor", std::process::id()).on("write", &path)?;
        Ok(Self { running: Vec::new(), list })
    }

    fn start(&mut self, run: &RunDirectory, line: &CommandLine) -> Result<(), LabError> {
        let log = run.log(&line.label);
        let words = File::create(&log).on("create", &log)?;
        let errors = words.try_clone().on("duplicate", &log)?;
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(&line.argv)
            .stdin(Stdio::null())
            .stdout(words)
            .stderr(errors)
            .spawn()
            .on("start", "setpriv")?;
        let _listed = writeln!(self.list, "{} {}", child.id(), line.label);
        self.running.push(child);
        Ok(())
    }

    fn last_has_ended(&mut self) -> bool {
        self.running.last_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in self.running.iter_mut().rev() {
            let _killed = child.kill();
            let _ended = child.wait();
        }
    }
}
