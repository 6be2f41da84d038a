//! The command line of `lab`. Each command is one call of the library; nothing is decided here.

use crate::demo;
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use quantix_lab::exact::{self, ALLOWED_PERCENT, Figures};
use quantix_lab::node::Programs;
use quantix_lab::{Cache, Disks, Images, Lab, Machine, Server, Spec, Vmm};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A Linux host with working KVM, in QEMU.
#[derive(Debug, Parser)]
#[command(name = "lab", version, after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  lab up --live target                      start L1; binaries in ./target are seen there as they are built
  lab run -- uname -a                       output apart, exit code through
  lab run -t 10 -- sh -c 'ls -l /dev/kvm'   killed after 10 s (exit code 124)
  lab put notes.txt /tmp/notes.txt          copy a file into L1
  lab forward 8443                          print the local port that leads to L1's port 8443
  lab down                                  end it; nothing is left

L1 has this machine's own root (read-only, with a layer in memory), so every program here is there too, at its own path.
Exit code 125 means that the lab itself failed.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Start L1 and wait until it answers
    Up {
        /// The name to call it by
        #[arg(long, default_value = "l1")]
        name: String,
        /// Memory in MiB
        #[arg(long, default_value_t = 4096)]
        memory: u32,
        /// Emulated CPUs
        #[arg(long, default_value_t = 2)]
        cpus: u32,
        /// A directory that changes while L1 runs (repeatable)
        #[arg(long)]
        live: Vec<PathBuf>,
        /// Give it a screen, for screenshots
        #[arg(long)]
        screen: bool,
        /// No QEMU: run things on this machine, in namespaces of their own
        #[arg(long, conflicts_with_all = ["memory", "cpus", "live", "screen"])]
        here: bool,
    },
    /// Run a program in L1; its exit code is ours
    Run {
        /// Which L1
        #[arg(long, default_value = "l1")]
        name: String,
        /// Kill it after so many seconds
        #[arg(short, long, default_value_t = 120)]
        timeout: u64,
        /// The program and its arguments
        #[arg(last = true, required = true)]
        argv: Vec<String>,
    },
    /// Copy a file into L1
    Put {
        /// Which L1
        #[arg(long, default_value = "l1")]
        name: String,
        /// The file here
        from: PathBuf,
        /// The path there
        to: String,
    },
    /// Copy a file out of L1
    Get {
        /// Which L1
        #[arg(long, default_value = "l1")]
        name: String,
        /// The path there
        from: String,
        /// The file here
        to: PathBuf,
    },
    /// Make a TCP port of L1 reachable here, and print the local port
    Forward {
        /// Which L1
        #[arg(long, default_value = "l1")]
        name: String,
        /// The port in L1
        port: u16,
    },
    /// Save what L1's screen shows (PPM)
    Screenshot {
        /// Which L1
        #[arg(long, default_value = "l1")]
        name: String,
        /// The file to write
        file: PathBuf,
    },
    /// List those that are up
    Status,
    /// End L1 at once, as if the plug were pulled
    Down {
        /// Which L1
        #[arg(long, default_value = "l1")]
        name: String,
    },
    /// Build every image that the lab and the tests need
    BuildImages,
    /// Show a node daemon, and on it a Debian server made by qx
    Demo {
        /// The quantix-node to show
        #[arg(long)]
        node: PathBuf,
        /// Its command line
        #[arg(long)]
        qx: PathBuf,
        /// The quantix-vmm that it starts
        #[arg(long)]
        vmm: PathBuf,
        /// In the lab, whatever this machine's KVM can do
        #[arg(long)]
        emulated: bool,
    },
    /// Show a Debian guest with disk, network and vsock in quantix-vmm alone
    DemoVmm {
        /// The quantix-vmm to show
        #[arg(long)]
        vmm: Option<PathBuf>,
        /// In the lab, whatever this machine's KVM can do
        #[arg(long)]
        emulated: bool,
    },
    /// Boot a guest in deterministic time; compare its time and exit counts with a baseline
    Exact {
        /// The quantix-vmm to measure
        #[arg(long)]
        vmm: Option<PathBuf>,
        /// Write the baseline instead of comparing with it
        #[arg(long)]
        update: bool,
        /// The baseline
        #[arg(long, default_value = "tests/lab/baseline.json")]
        baseline: PathBuf,
    },
}

impl Arguments {
    /// Does what was asked; gives the exit code.
    pub fn run(self) -> Result<u8> {
        match self.command {
            Command::Up { name, memory, cpus, live, screen, here } => {
                let cache = Cache::open()?;
                let usual = Spec::new(&name, &Images::prepare(&cache)?, &cache);
                let machine = if here { Machine::Here } else { Machine::Emulated };
                up(Spec { machine, memory_mib: memory, cpus, screen, owner: None, ..usual }, &live)?;
            }
            Command::Run { name, timeout, argv } => {
                let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
                let process = Lab::open(&name)?.spawn(&argv, Duration::from_secs(timeout))?.echoing();
                process.end_input()?;
                return Ok(u8::try_from(process.wait()?.status.shell_code()).unwrap_or(125));
            }
            Command::Put { name, from, to } => {
                let content = std::fs::read(&from).with_context(|| format!("Could not read {}", from.display()))?;
                Lab::open(&name)?.put(&to, &content)?;
            }
            Command::Get { name, from, to } => {
                let content = Lab::open(&name)?.get(&from)?;
                std::fs::write(&to, content).with_context(|| format!("Could not write {}", to.display()))?;
            }
            Command::Forward { name, port } => println!("{}", Lab::open(&name)?.forward(port)?),
            Command::Screenshot { name, file } => Lab::open(&name)?.screenshot(&std::path::absolute(file)?)?,
            Command::Status => Lab::list()?.iter().for_each(|name| println!("{name}")),
            Command::Down { name } => Lab::open(&name)?.down()?,
            Command::BuildImages => {
                let cache = Cache::open()?;
                let (images, disks) = (Images::prepare(&cache)?, Disks::prepare(&cache)?);
                println!("{images:#?}\n{disks:#?}\n{:#?}", Server::prepare(&cache)?);
            }
            Command::Demo { node, qx, vmm, emulated } => {
                let programs = Programs { node: absolute(&node)?, qx: absolute(&qx)?, vmm: absolute(&vmm)? };
                demo::node(&programs, emulated.then_some(Machine::Emulated))?;
            }
            Command::DemoVmm { vmm, emulated } => demo::vmm(&find_vmm(vmm)?, emulated.then_some(Machine::Emulated))?,
            Command::Exact { vmm, update, baseline } => return exact(&find_vmm(vmm)?, &baseline, update),
        }
        Ok(0)
    }
}

fn up(mut spec: Spec, live: &[PathBuf]) -> Result<()> {
    for directory in live {
        spec.live.push(directory.canonicalize().with_context(|| format!("No directory {}", directory.display()))?);
    }
    let start = std::time::Instant::now();
    let _stays = Lab::start(&spec)?.keep();
    eprintln!("lab: `{}` is up after {:.1} s", spec.name, start.elapsed().as_secs_f32());
    Ok(())
}

fn absolute(program: &Path) -> Result<PathBuf> {
    program.canonicalize().with_context(|| format!("No program at {}", program.display()))
}

fn find_vmm(named: Option<PathBuf>) -> Result<Vmm> {
    match named {
        Some(path) => Ok(Vmm::Quantix(absolute(&path)?)),
        None => Ok(Vmm::find()?),
    }
}

fn exact(vmm: &Vmm, baseline: &Path, update: bool) -> Result<u8> {
    let Vmm::Quantix(vmm) = vmm else { bail!("Only quantix-vmm has a baseline") };
    let cache = Cache::open()?;
    let figures = exact::run(&cache, &Images::prepare(&cache)?, vmm)?;
    println!("{figures:#?}");
    if update {
        figures.write(baseline)?;
        return Ok(0);
    }
    let differences = figures.differences(&Figures::read(baseline)?, ALLOWED_PERCENT);
    for difference in &differences {
        println!("{difference}");
    }
    Ok(u8::from(!differences.is_empty()))
}
