//! A node daemon in the shared L1 and small guests under it: what the cases about the daemon work with. The daemon and its
//! images stay from case to case; a case's own VMs, networks, volumes and pools go when it ends, however it ends.

use crate::suite::Bench;
use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use quantix_lab::Node;
use quantix_lab::guest::target_directory;
use quantix_lab::node::Programs;
use serde_json::Value;
use std::time::Duration;

/// A call that waits for a task.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// A small guest's way from its start to its first words, on a busy machine.
pub const BOOT: Duration = Duration::from_secs(90);
/// The image of Debian's kernel, and of the initramfs with `guest-init.sh`.
const KERNEL: &str = "tiny-kernel";
const INITRD: &str = "tiny-initrd";

/// What a case works with.
pub struct NodeBench<'b> {
    /// The shared L1.
    pub bench: &'b Bench,
    /// The daemon in it.
    pub node: Node<'b>,
}

impl<'b> NodeBench<'b> {
    /// Finds or starts the daemon, with the images of small guests.
    ///
    /// # Errors
    /// What the lab says.
    pub fn open(bench: &'b Bench) -> Result<Self> {
        let node = Node::open(&bench.lab, programs(bench)?)?;
        node.image(KERNEL, &format!("{} --kind kernel", bench.images.kernel.vmlinux.display()))?;
        node.image(INITRD, &format!("{} --kind initrd", bench.images.guest_initramfs.display()))?;
        Ok(Self { bench, node })
    }

    /// Makes and starts a small guest that runs `script` of `guest-init.sh`'s words and stays.
    ///
    /// # Errors
    /// As [`Node::qx`].
    pub fn start(&self, name: &str, options: &str, words: &str, script: &str) -> Result<()> {
        self.create(name, &format!("{options} --start"), words, script)
    }

    /// As [`NodeBench::start`], without starting it.
    ///
    /// # Errors
    /// As [`Node::qx`].
    pub fn create(&self, name: &str, options: &str, words: &str, script: &str) -> Result<()> {
        let script = if script.is_empty() { String::new() } else { format!("lab.script={}", BASE64.encode(script)) };
        let create = format!(
            "vm create {name} --kernel {KERNEL} --initrd {INITRD} --memory 256M {options} \
             --cmdline 'console=ttyS0 quiet panic=-1 lab.end=stay lab.name={name} {words} {script}'"
        );
        self.node.qx(&create, PATIENCE)?;
        Ok(())
    }

    /// Waits for a fact that the guest tells, and gives its value.
    ///
    /// # Errors
    /// When it is not told in time; the error holds the guest's console.
    pub fn fact(&self, vm: &str, key: &str) -> Result<String> {
        let mark = format!("LAB {key}=");
        let said = self.node.console_says(vm, &mark, BOOT)?;
        let value = said.lines().rev().find_map(|line| line.trim().strip_prefix(&mark)).unwrap_or_default();
        Ok(value.to_string())
    }

    /// The document of a VM.
    ///
    /// # Errors
    /// As [`Node::json`].
    pub fn vm(&self, name: &str) -> Result<Value> {
        Ok(self.node.json(&format!("vm show {name}"))?)
    }

    /// Waits until the VM's state is this.
    ///
    /// # Errors
    /// When it does not come to that in time.
    pub fn await_state(&self, vm: &str, state: &str) -> Result<Value> {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let document = self.vm(vm)?;
            if document["status"]["state"] == state {
                return Ok(document);
            }
            ensure!(std::time::Instant::now() < deadline, "VM {vm} is not {state}: {}", document["status"]);
        }
    }

    /// The newest event of this kind about a resource, by its id.
    ///
    /// # Errors
    /// When there is none.
    pub fn event(&self, kind: &str, resource: &str) -> Result<Value> {
        let events = self.node.qx(&format!("events --kind {kind} --resource {resource} -o json"), PATIENCE)?;
        let newest = events.lines().last().with_context(|| format!("No event {kind} of {resource}"))?;
        Ok(serde_json::from_str(newest)?)
    }
}

/// A case about the daemon. What it names is deleted before and after it, so that a failed case does not fail the next.
///
/// # Errors
/// What the case says.
pub fn with_node(bench: &Bench, leftovers: &[&str], case: impl FnOnce(&NodeBench<'_>) -> Result<()>) -> Result<()> {
    let node = NodeBench::open(bench)?;
    clear(&node, leftovers)?;
    let result = case(&node);
    // The daemon may be down: a case that crashes it and fails leaves it so.
    let cleared = node.node.start().map_err(anyhow::Error::from).and_then(|()| clear(&node, leftovers));
    result.and(cleared)
}

/// Deletes `vm NAME`, `net NAME`, `volume NAME`, `pool NAME`, … that are there.
fn clear(node: &NodeBench<'_>, leftovers: &[&str]) -> Result<()> {
    for thing in leftovers {
        let (noun, name) = thing.split_once(' ').with_context(|| format!("{thing:?} is not `noun name`"))?;
        let force = if noun == "vm" { "--force --with-volumes" } else { "" };
        let known = node.node.try_qx(&format!("{noun} show {name}"), PATIENCE)?;
        if known.status == quantix_lab::Status::Exited(0) {
            node.node.qx(&format!("{noun} delete {name} {force}"), PATIENCE)?;
        }
    }
    Ok(())
}

fn programs(bench: &Bench) -> Result<Programs> {
    let quantix_lab::Vmm::Quantix(vmm) = &bench.vmm else { anyhow::bail!("The daemon starts only quantix-vmm") };
    let debug = target_directory()?.join("debug");
    let programs = Programs { node: debug.join("quantix-node"), qx: debug.join("qx"), vmm: vmm.clone() };
    for program in [&programs.node, &programs.qx] {
        ensure!(program.exists(), "{} is not there; `make build` makes it", program.display());
    }
    Ok(programs)
}
