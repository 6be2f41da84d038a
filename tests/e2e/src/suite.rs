//! Runs the cases for cargo nextest and cargo test (libtest's command line). Each case may run in a process of its own: they
//! share the L1 by its name. The group `lab` in `.config/nextest.toml` lets one case run at a time, because L1 has no more
//! CPUs than the machine.

use anyhow::{Context, Result, ensure};
use libtest_mimic::{Arguments, Failed, Trial};
use quantix_lab::guest::{self, RunningGuest, target_directory};
use quantix_lab::{Cache, Disks, Guest, Images, Lab, LabError, Report, Spec, Vmm};
use std::collections::hash_map::DefaultHasher;
use std::fs::OpenOptions;
use std::hash::{Hash, Hasher};
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// The VMM's log says this when nothing more can be opened.
pub const SANDBOX_LINE: &str = "Sandbox entered";
/// L1 ends when no case used it for so long.
const IDLE_LIMIT_S: u64 = 60;

/// What a case works with.
#[derive(Debug)]
pub struct Bench {
    /// The shared L1, with a tap and the guests' Debian in place.
    pub lab: Lab,
    /// The VMM under test.
    pub vmm: Vmm,
    /// Kernel and initramfs.
    pub images: Images,
    /// Disks.
    pub disks: Disks,
}

impl Bench {
    /// A small guest on the stock kernel.
    pub fn guest(&self) -> Guest {
        Guest::new(&self.images)
    }

    /// Starts a guest.
    ///
    /// # Errors
    /// What the lab says.
    pub fn start(&self, guest: &Guest) -> Result<RunningGuest<'_>> {
        Ok(guest.start(&self.lab, &self.vmm)?)
    }

    /// Waits for a guest's end; its VMM must have entered the sandbox.
    ///
    /// # Errors
    /// What the lab says, or that the sandbox was off.
    pub fn end(&self, guest: RunningGuest<'_>) -> Result<Report> {
        let report = guest.end()?;
        let sandboxed = report.log().contains(SANDBOX_LINE) || matches!(self.vmm, Vmm::Qemu);
        ensure!(sandboxed, "The sandbox was not entered:\n{}", report.log());
        Ok(report)
    }

    /// Starts a guest and waits for its end.
    ///
    /// # Errors
    /// As [`Bench::start`] and [`Bench::end`].
    pub fn run(&self, guest: &Guest) -> Result<Report> {
        self.end(self.start(guest)?)
    }

    fn open() -> Result<Self> {
        let cache = Cache::open()?;
        let (images, disks, vmm) = (Images::prepare(&cache)?, Disks::prepare(&cache)?, Vmm::find()?);
        let (machine, _) = vmm.where_to_run()?;
        let usual = Spec::new(&lab_name()?, &images, &cache);
        // Enough for two servers and what the node daemon keeps, all of it in L1's memory.
        let mut spec = Spec { machine, memory_mib: 6144, ..usual };
        spec.live.push(target_directory()?);
        spec.owner = Some(std::os::unix::process::parent_id());
        spec.idle_limit_s = Some(IDLE_LIMIT_S);
        let lab = Lab::start_or_open(&spec)?;
        guest::prepare_host(&lab, &disks)?;
        Ok(Self { lab, vmm, images, disks })
    }
}

/// A case: its name and what it does.
pub type Case = (String, Box<Body>);

/// What a case does; twice, when L1 breaks.
pub type Body = dyn Fn(&Bench) -> Result<()> + Send + Sync;

/// A case that needs nothing but its function.
pub fn case(name: &str, run: fn(&Bench) -> Result<()>) -> Case {
    (name.into(), Box::new(run))
}

/// Runs the cases that the command line asks for.
pub fn main(cases: Vec<Case>) -> ExitCode {
    quantix_lab::supervise_if_asked();
    let mut arguments = Arguments::from_args();
    // More at once would share the same two CPUs and run into their deadlines.
    arguments.test_threads = Some(1);
    let trials = cases.into_iter().map(|(name, case)| Trial::test(name, move || run(&*case))).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// When L1 itself hung or died, and only then, the case gets a second try on a new one; that is counted.
fn run(case: &Body) -> Result<(), Failed> {
    let mut result = attempt(case);
    if let Err(error) = &result
        && let Some(broken) = broken_lab()
    {
        count_restart(error);
        result = broken.down().map_err(anyhow::Error::from).and_then(|()| attempt(case));
    }
    result.map_err(|error| Failed::from(format!("{error:#}")))
}

fn attempt(case: &Body) -> Result<()> {
    case(&Bench::open().context("The lab is not ready")?)
}

/// The shared L1, if it is there and does not answer.
fn broken_lab() -> Option<Lab> {
    let lab = Lab::open(&lab_name().ok()?).ok()?;
    lab.run(&["true"], Duration::from_secs(10)).is_err().then_some(lab)
}

/// Each build tree has its own L1, so that two of them do not meet.
fn lab_name() -> Result<String, LabError> {
    let mut hasher = DefaultHasher::new();
    target_directory()?.hash(&mut hasher);
    Ok(format!("e2e-{:016x}", hasher.finish()))
}

/// Keeps the count beside the build, where a person and CI can see it.
fn count_restart(error: &anyhow::Error) {
    eprintln!("RESTART of L1, second try: {error:#}");
    let noted = target_directory().map_err(anyhow::Error::from).and_then(|target| {
        let mut file = OpenOptions::new().create(true).append(true).open(target.join("lab-restarts.log"))?;
        Ok(writeln!(file, "{error:#}")?)
    });
    if let Err(error) = noted {
        eprintln!("The restart could not be noted: {error:#}");
    }
}
