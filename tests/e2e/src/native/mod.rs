//! The frame of the native cases: `quantix-vmm` with the payload on this host's own `/dev/kvm`, no lab between.
//!
//! Each case has a directory of its own, which goes with it. Where there is no `/dev/kvm` every case is listed as ignored
//! and standard error says that nothing ran: a case here never passes without a guest.

#[allow(unsafe_code, reason = "what a child does between fork and exec")]
mod jail;
#[allow(unsafe_code, reason = "an ioctl attaches to a tap")]
mod network;
mod transcript;
mod vm;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use quantix_lab::guest::target_directory;
use tempfile::TempDir;

pub use jail::{Jail, connector_for};
pub use network::{TAP, attached_tap, in_own_network};
pub use vm::{Ended, Running, Vm};

/// How long any one thing may take; generous, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_mins(2);

const KVM: &str = "/dev/kvm";
const PAYLOAD: &str = "../payload/target/x86_64-unknown-linux-gnu/release/quantix-payload";

/// What a case works with.
#[derive(Debug)]
pub struct Native {
    /// The VMM under test.
    pub vmm: PathBuf,
    /// The guest.
    pub payload: PathBuf,
    directory: TempDir,
}

impl Native {
    fn open() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("quantix-native-").tempdir().context("No place for files")?;
        Ok(Self { vmm: find_vmm()?, payload: find_payload()?, directory })
    }

    /// A guest of 128 MiB that boots the payload.
    pub fn vm(&self) -> Vm<'_> {
        Vm::new(self)
    }

    /// A file in the case's directory, which need not exist.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the control socket is that [`Running::ctl`] talks to.
    pub fn control_socket(&self) -> PathBuf {
        self.path(vm::CONTROL_SOCKET)
    }

    /// Writes a file into the case's directory.
    pub fn file(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, bytes).with_context(|| format!("Cannot write {}", path.display()))?;
        Ok(path)
    }

    /// An empty raw image.
    pub fn raw(&self, name: &str, mib: u64) -> Result<PathBuf> {
        let path = self.path(name);
        File::create(&path).and_then(|file| file.set_len(mib << 20)).context("Cannot make the image")?;
        Ok(path)
    }

    /// A qcow2 image: empty, or over a raw backing file.
    pub fn qcow2(&self, name: &str, mib: u64, backing: Option<&Path>) -> Result<PathBuf> {
        let path = self.path(name);
        let mut command = Command::new("qemu-img");
        command.args(["create", "-q", "-f", "qcow2"]);
        if let Some(backing) = backing {
            command.args(["-F", "raw", "-b"]).arg(backing);
        }
        let status = command.arg(&path).arg(format!("{mib}M")).status().context("qemu-img does not start")?;
        ensure!(status.success(), "qemu-img ended with {status}");
        Ok(path)
    }

    /// The names of all that is in the case's directory, sorted.
    pub fn names(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(self.directory.path())?;
        let mut names: Vec<_> =
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect::<Result<_>>()?;
        names.sort();
        Ok(names)
    }
}

fn find_vmm() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("QUANTIX_VMM") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "QUANTIX_VMM={} is no file; `make build` makes the VMM", path.display());
        return Ok(path);
    }
    let target = target_directory()?;
    let built = ["vmm/quantix-vmm", "debug/quantix-vmm"].map(|name| target.join(name));
    built.into_iter().find(|path| path.is_file()).with_context(|| {
        format!("There is no quantix-vmm in {}; run `make build`, or set QUANTIX_VMM", target.display())
    })
}

fn find_payload() -> Result<PathBuf> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAYLOAD);
    let path = std::env::var_os("QUANTIX_PAYLOAD").map_or(place, PathBuf::from);
    ensure!(path.is_file(), "There is no payload {}; run `make build`, or set QUANTIX_PAYLOAD", path.display());
    Ok(path)
}

/// Runs `work` on a thread of its own; the function that is returned waits for its result.
pub fn meanwhile<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> impl FnOnce() -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    // A peer that nobody calls would wait for ever: it is left to the end of the process, and the case fails.
    std::thread::spawn(move || sender.send(work()));
    move || receiver.recv_timeout(PATIENCE).map_err(|_| anyhow!("The host side did not come to its end"))?
}

/// A case: its name and what it does.
pub type Case = (String, Box<dyn Fn(&Native) -> Result<()> + Send + Sync>);

/// A case that needs nothing but its function.
pub fn case(name: &str, run: fn(&Native) -> Result<()>) -> Case {
    (name.into(), Box::new(run))
}

/// Runs the cases that the command line asks for (libtest's), or says that they could not run.
pub fn main(cases: Vec<Case>) -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = missing();
    if let Some(reason) = &missing {
        eprintln!("could not run: {} native KVM cases: {reason}", cases.len());
    }
    let trials = cases.into_iter().map(|(name, run)| {
        let reason = missing.clone();
        Trial::test(name, move || attempt(&*run, reason)).with_ignored_flag(missing.is_some())
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn missing() -> Option<String> {
    let opened = File::options().read(true).write(true).open(KVM);
    opened.err().map(|error| format!("{KVM} cannot be opened: {error}"))
}

fn attempt(run: &dyn Fn(&Native) -> Result<()>, missing: Option<String>) -> Result<(), Failed> {
    if let Some(reason) = missing {
        return Err(Failed::from(format!("could not run: {reason}")));
    }
    Native::open().and_then(|native| run(&native)).map_err(|error| Failed::from(format!("{error:#}")))
}
