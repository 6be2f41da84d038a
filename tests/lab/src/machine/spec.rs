//! What an L1 is to be, and the command lines that make it so. Pure: nothing is started here.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const HERE_INIT: &str = include_str!("../../guest/here-init.sh");

/// L1's kernel command line, as far as it is always the same.
pub(crate) const KERNEL_WORDS: &str =
    "console=ttyS0 quiet loglevel=4 panic=-1 tsc=reliable no_timer_check mitigations=off random.trust_cpu=on";
/// How many clients can be served at once.
pub const PORTS: usize = 4;

/// Where the programs under test run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Machine {
    /// In QEMU, with emulated CPUs: everywhere.
    Emulated,
    /// On this machine, in namespaces of their own: where its KVM can run an ordinary kernel.
    Here,
}

/// A Linux host to start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Told apart by this; also the name of its run directory.
    pub name: String,
    /// Where.
    pub machine: Machine,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// CPUs that QEMU emulates.
    pub cpus: u32,
    /// With a screen, for screenshots.
    pub screen: bool,
    /// Directories that change while L1 runs: each is shared a second time, without the long-lived cache of the root.
    pub live: Vec<PathBuf>,
    /// L1 ends when this process does; `None` means that it stays until `lab down`.
    pub owner: Option<u32>,
    /// L1 ends when nobody used it for so many seconds.
    pub idle_limit_s: Option<u64>,
    /// The kernel (ELF or bzImage).
    pub kernel: PathBuf,
    /// The directory with `lib/modules`.
    pub modules: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
}

/// One program for the supervisor to start.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// For its log file.
    pub label: String,
    /// Program and arguments.
    pub argv: Vec<OsString>,
}

/// The file names in an L1's run directory.
#[derive(Debug, Clone)]
pub struct RunDirectory(pub PathBuf);

impl RunDirectory {
    /// The control port's socket.
    pub fn port(&self, index: usize) -> PathBuf {
        self.0.join(format!("port{index}.sock"))
    }

    /// Who holds this file's lock uses the port.
    pub fn port_lock(&self, index: usize) -> PathBuf {
        self.0.join(format!("port{index}.lock"))
    }

    /// QEMU's control socket.
    pub fn qmp(&self) -> PathBuf {
        self.0.join("qmp.sock")
    }

    /// The supervisor holds this file's lock as long as it lives.
    pub fn life_lock(&self) -> PathBuf {
        self.0.join("life.lock")
    }

    /// The [`Spec`].
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    /// One process a line: the supervisor first.
    pub fn processes(&self) -> PathBuf {
        self.0.join("processes")
    }

    /// A program's words, or L1's serial console (`console`).
    pub fn log(&self, label: &str) -> PathBuf {
        self.0.join(format!("{label}.log"))
    }

    /// The agent, for [`Machine::Here`].
    pub fn agent(&self) -> PathBuf {
        self.0.join("lab-agent")
    }

    /// The socket of share number `index`.
    pub fn share(&self, index: usize) -> PathBuf {
        self.0.join(format!("share{index}.sock"))
    }
}

impl Spec {
    /// What is shared: the host's root, then the live directories. Nothing, where no machine is between.
    pub fn shares(&self) -> impl Iterator<Item = (usize, &Path)> {
        let all = [Path::new("/")].into_iter().chain(self.live.iter().map(PathBuf::as_path)).enumerate();
        all.filter(|_| self.machine == Machine::Emulated)
    }

    /// What stands for the host under test: as long as this runs, the L1 is up.
    pub fn host(&self, run: &RunDirectory) -> CommandLine {
        match self.machine {
            Machine::Emulated => self.qemu(run),
            Machine::Here => here(run),
        }
    }

    /// One file server a share. The root may be cached for ever, which makes it four times faster; a live directory may not.
    pub fn file_servers(&self, run: &RunDirectory) -> Vec<CommandLine> {
        self.shares()
            .map(|(index, source)| {
                let mut line = Line::new(format!("share{index}"), "/usr/lib/qemu/virtiofsd");
                line.option("-o", format!("source={}", source.display()));
                line.option("-o", format!("cache={}", if index == 0 { "always" } else { "auto" }));
                line.option("-o", "sandbox=chroot,no_xattr");
                line.flag(&format!("--socket-path={}", run.share(index).display()));
                line.flag("-f");
                line.0
            })
            .collect()
    }

    /// QEMU: emulated CPUs with SVM, and nothing that needs KVM on this machine.
    fn qemu(&self, run: &RunDirectory) -> CommandLine {
        let mut line = Line::new("qemu".into(), "qemu-system-x86_64");
        line.words("-nodefaults -no-user-config -display none -no-reboot -accel tcg,thread=multi,tb-size=512");
        line.words("-cpu max,+svm,+npt -M q35,memory-backend=ram");
        line.option("-name", format!("lab-{}", self.name));
        line.option("-smp", self.cpus.to_string());
        line.option("-m", format!("{}M", self.memory_mib));
        line.option("-object", format!("memory-backend-memfd,id=ram,size={}M,share=on", self.memory_mib));
        line.option("-kernel", &self.kernel);
        line.option("-initrd", &self.initramfs);
        line.option("-append", self.kernel_command_line());
        line.option("-serial", format!("file:{}", run.log("console").display()));
        line.option("-qmp", format!("unix:{},server=on,wait=off", run.qmp().display()));
        if self.screen {
            line.words("-vga std");
        }
        line.words("-device virtio-rng-pci -netdev user,id=net,restrict=on -device virtio-net-pci,netdev=net,romfile=");
        line.words("-device virtio-serial-pci,max_ports=8");
        for index in 0..PORTS {
            let socket = run.port(index);
            line.option("-chardev", format!("socket,id=port{index},path={},server=on,wait=off", socket.display()));
            line.option("-device", format!("virtserialport,chardev=port{index},name=quantix.lab.{index}"));
        }
        for (index, _) in self.shares() {
            line.option("-chardev", format!("socket,id=share{index},path={}", run.share(index).display()));
            line.option("-device", format!("vhost-user-fs-pci,queue-size=1024,chardev=share{index},tag=share{index}"));
        }
        line.0
    }

    fn kernel_command_line(&self) -> String {
        let mut words = String::from(KERNEL_WORDS);
        let _infallible = write!(words, " lab.modules={}", self.modules.display());
        for (index, path) in self.shares().skip(1) {
            let _infallible = write!(words, " lab.share{index}={}", path.display());
        }
        words
    }
}

/// The agent in namespaces of its own; all of it ends with the program that `setpriv` starts.
fn here(run: &RunDirectory) -> CommandLine {
    let mut line = Line::new("here".into(), "unshare");
    line.words("--mount --net --pid --fork --kill-child sh -c");
    line.flag(HERE_INIT);
    line.flag("here-init");
    line.0.argv.push(run.agent().into());
    line.flag("listen");
    line.0.argv.extend((0..PORTS).map(|index| run.port(index).into()));
    line.0
}

struct Line(CommandLine);

impl Line {
    fn new(label: String, program: &str) -> Self {
        Self(CommandLine { label, argv: vec![program.into()] })
    }

    fn flag(&mut self, word: &str) {
        self.0.argv.push(word.into());
    }

    fn words(&mut self, words: &str) {
        self.0.argv.extend(words.split(' ').map(OsString::from));
    }

    fn option(&mut self, name: &str, value: impl Into<OsString>) {
        self.0.argv.extend([name.into(), value.into()]);
    }
}
