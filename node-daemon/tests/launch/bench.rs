//! A launcher with directories and a slice of this test's own, and VMs to start with it.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use quantix_node::model::Id;
use quantix_node::vm::cgroup::CgroupLimits;
use quantix_node::vm::launch::{LaunchPlan, LaunchSettings, Launched, Launcher};
use serde_json::{Value, json};

/// How long anything may take.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What the tests need of the machine.
pub struct Bench {
    pub launcher: Launcher,
    pub settings: LaunchSettings,
    payload: PathBuf,
    directory: tempfile::TempDir,
    slots: AtomicU32,
}

fn program(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_file())
}

impl Bench {
    /// `None`, with a line that says why, where such tests cannot run.
    pub fn new() -> Option<Self> {
        let (vmm, payload) = (program("QUANTIX_VMM"), program("QUANTIX_PAYLOAD"));
        let (Some(vmm), Some(payload)) = (vmm, payload) else {
            eprintln!("not run: set QUANTIX_VMM and QUANTIX_PAYLOAD (make build makes both)");
            return None;
        };
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/kvm").exists() {
            eprintln!("not run: needs root and /dev/kvm");
            return None;
        }
        Some(Self::with(vmm, payload))
    }

    /// With this program in the VMM's place.
    pub fn with(vmm: PathBuf, payload: PathBuf) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut settings = LaunchSettings::new(directory.path().join("run"), vmm);
        settings.stage = env!("CARGO_BIN_EXE_quantix-node").into();
        // Tests run at once, each as a process: their slots must not meet.
        settings.slice = format!("quantix-test-{}.slice", std::process::id());
        let launcher = Launcher::open(settings.clone()).expect("a launcher");
        let slots = AtomicU32::new(std::process::id() % 2000);
        Self { launcher, settings, payload, directory, slots }
    }

    /// The same, with another program in the VMM's place.
    pub fn instead(self, vmm: PathBuf) -> Self {
        let payload = self.payload.clone();
        drop(self);
        Self::with(vmm, payload)
    }

    pub fn log(&self) -> PathBuf {
        self.directory.path().join("vmm.log")
    }

    /// A plan for a machine that only spins, with its serial port at the other end of the stream.
    pub fn plan(&self, more: &Value) -> (LaunchPlan, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let mut config = json!({
            "kernel": "fd:kernel", "cmdline": "after=sleep", "serial": "fd:serial", "api_socket": "fd:control",
            "memory": { "size_bytes": 128 << 20 }, "rng": true,
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let kernel = OwnedFd::from(File::open(&self.payload).expect("the payload"));
        let log = File::options().create(true).append(true).open(self.log()).expect("a log");
        let plan = LaunchPlan {
            vm: Id::new(),
            slot: self.slots.fetch_add(1, Ordering::Relaxed),
            config: config.to_string(),
            fds: vec![("kernel".to_owned(), kernel), ("serial".to_owned(), theirs.into())],
            limits: CgroupLimits::default(),
            file_bytes_max: Some(1 << 30),
            log: log.into(),
        };
        (plan, ours)
    }

    /// Starts a machine and waits until its guest speaks.
    pub async fn start(&self, more: &Value) -> Running {
        let (plan, serial) = self.plan(more);
        let vm = plan.vm.clone();
        let launched = self.launcher.launch(plan).await.expect("it starts");
        let running = Running { vm, launched, serial };
        running.hear("{\"event\":\"ready\"}", &self.log());
        running
    }

    /// Ends a machine and takes down what it had.
    pub async fn end(&self, running: Running) {
        rustix::process::pidfd_send_signal(running.launched.pidfd.as_fd(), rustix::process::Signal::KILL)
            .expect("it lives");
        quantix_node::vm::launch::exit_of(&running.launched.pidfd).await.expect("it ends");
        self.launcher.clean(&running.vm).await;
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // Both hierarchies that a host may have; the slice is this test's own and must be empty by now.
        for mount in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let _ = std::fs::remove_dir(Path::new(mount).join(&self.settings.slice));
        }
    }
}

/// A machine that runs.
pub struct Running {
    pub vm: Id,
    pub launched: Launched,
    serial: UnixStream,
}

impl Running {
    /// Waits until the guest has written this.
    pub fn hear(&self, wanted: &str, log: &Path) {
        self.serial.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let (mut heard, mut byte) = (String::new(), [0; 1]);
        while !heard.contains(wanted) {
            match (&self.serial).read(&mut byte) {
                Ok(1) => heard.push(byte[0].into()),
                other => panic!("{other:?} after {heard:?}; {}", std::fs::read_to_string(log).unwrap_or_default()),
            }
        }
    }
}
