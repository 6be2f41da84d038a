//! A `quantix-node` in L1, and what a user does with it: the verbs of the whole-stack cases and of the demonstration. The
//! daemon stays in L1 from case to case, as it would on a host; whoever opens it first starts it. Runs on the caller's thread.

use crate::control::Outcome;
use crate::control::frame::Status;
use crate::error::LabError;
use crate::machine::Lab;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// Everything of the daemon is below this directory of L1, in memory.
const PLACE: &str = "/dev/shm/node";
/// A call of `qx` that waits for nothing.
const PATIENCE: Duration = Duration::from_mins(1);
/// From the daemon's start to its first answer.
const START: &str = "60";

/// The programs under test, by their paths in L1 (which are their paths on this machine).
#[derive(Debug, Clone)]
pub struct Programs {
    /// The daemon.
    pub node: PathBuf,
    /// Its command line.
    pub qx: PathBuf,
    /// The VMM that the daemon starts.
    pub vmm: PathBuf,
}

/// A running daemon in L1.
#[derive(Debug)]
pub struct Node<'lab> {
    lab: &'lab Lab,
    programs: Programs,
}

impl<'lab> Node<'lab> {
    /// Finds the daemon of this L1, or starts it.
    ///
    /// # Errors
    /// As [`Lab::script`]; the error holds the end of the daemon's log when it does not start.
    pub fn open(lab: &'lab Lab, programs: Programs) -> Result<Self, LabError> {
        let node = Self { lab, programs };
        lab.script(MODULES, PATIENCE)?;
        node.start()?;
        Ok(node)
    }

    /// Starts the daemon when it does not run, and waits until it answers.
    ///
    /// # Errors
    /// As [`Node::open`].
    pub fn start(&self) -> Result<(), LabError> {
        let Programs { node, vmm, .. } = &self.programs;
        // The daemon has a session of its own: it shall not end with the case that started it.
        let script = format!(
            "mkdir -p {PLACE}/state {PLACE}/run {PLACE}/log
             if [ -s {PLACE}/pid ] && kill -0 $(cat {PLACE}/pid) 2>/dev/null; then exit 0; fi
             echo '== start' >>{PLACE}/daemon.log
             setsid -f sh -c 'echo $$ >{PLACE}/pid; exec \"$0\" \"$@\"' {} run --state-dir {PLACE}/state --run-dir {PLACE}/run \
                 --log-dir {PLACE}/log --vmm {} </dev/null >>{PLACE}/daemon.log 2>&1
             tries=0
             until {} host status >/dev/null 2>&1; do
                 tries=$((tries + 1))
                 if [ $tries -gt {START} ] || ! kill -0 $(cat {PLACE}/pid); then tail -n 40 {PLACE}/daemon.log >&2; exit 1; fi
                 sleep 0.5
             done",
            node.display(),
            vmm.display(),
            self.command("").trim_end(),
        );
        self.lab.script(&script, Duration::from_mins(2)).map(drop)
    }

    /// Kills the daemon with SIGKILL: a crash.
    ///
    /// # Errors
    /// As [`Lab::script`].
    pub fn crash(&self) -> Result<(), LabError> {
        self.signal("KILL")
    }

    /// Ends the daemon as an init system would.
    ///
    /// # Errors
    /// As [`Lab::script`].
    pub fn stop(&self) -> Result<(), LabError> {
        self.signal("TERM")
    }

    fn signal(&self, signal: &str) -> Result<(), LabError> {
        let script = format!(
            "pid=$(cat {PLACE}/pid); kill -{signal} $pid; tries=0
             while kill -0 $pid 2>/dev/null; do tries=$((tries + 1)); [ $tries -lt 300 ] || exit 1; sleep 0.1; done"
        );
        self.lab.script(&script, PATIENCE).map(drop)
    }

    /// The daemon's log so far.
    ///
    /// # Errors
    /// As [`Lab::get`].
    pub fn log(&self) -> Result<String, LabError> {
        Ok(String::from_utf8_lossy(&self.lab.get(&format!("{PLACE}/daemon.log"))?).into_owned())
    }

    /// `qx` with these words of a shell, on the local socket; for a person to read and for scripts.
    pub fn command(&self, words: &str) -> String {
        format!("{} --node unix:{PLACE}/run/node.sock {words}", self.programs.qx.display())
    }

    /// Runs `qx` to its end.
    ///
    /// # Errors
    /// As [`Lab::run`]; a refused call is not an error.
    pub fn try_qx(&self, words: &str, patience: Duration) -> Result<Outcome, LabError> {
        self.lab.run(&["sh", "-euc", &self.command(words)], patience)
    }

    /// Runs `qx`, which must succeed, and gives what it printed.
    ///
    /// # Errors
    /// As [`Lab::run`]; [`LabError::Job`] when it fails, with its words and the end of the daemon's log.
    pub fn qx(&self, words: &str, patience: Duration) -> Result<String, LabError> {
        let outcome = self.try_qx(words, patience)?;
        if outcome.status == Status::Exited(0) {
            return Ok(outcome.text());
        }
        let log = self.log().unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        Err(LabError::Job {
            command: format!("qx {words}"),
            status: format!("{:?}", outcome.status),
            output: format!("{}{}\n--- daemon ---\n{}", outcome.text(), outcome.errors(), tail.join("\n")),
        })
    }

    /// Runs `qx … -o json`, which must succeed, and gives the document.
    ///
    /// # Errors
    /// As [`Node::qx`], or [`LabError::Job`] when that is no JSON.
    pub fn json(&self, words: &str) -> Result<Value, LabError> {
        let text = self.qx(&format!("{words} -o json"), PATIENCE)?;
        serde_json::from_str(&text).map_err(|error| LabError::Job {
            command: format!("qx {words} -o json"),
            status: error.to_string(),
            output: text,
        })
    }

    /// Adds an image from a file, unless there is one of that name.
    ///
    /// # Errors
    /// As [`Node::qx`].
    pub fn image(&self, name: &str, options: &str) -> Result<(), LabError> {
        if self.try_qx(&format!("image show {name}"), PATIENCE)?.status == Status::Exited(0) {
            return Ok(());
        }
        self.qx(&format!("image add {name} {options}"), Duration::from_mins(4)).map(drop)
    }

    /// Waits until the VM's console has said `text`, and gives all that it said.
    ///
    /// # Errors
    /// As [`Node::qx`]; [`LabError::Hung`] when it does not say it in time.
    pub fn console_says(&self, vm: &str, text: &str, patience: Duration) -> Result<String, LabError> {
        let script = format!(
            "tries=0; until {} | grep -aqF -- \"$0\"; do tries=$((tries + 1)); [ $tries -lt {} ] || exit 9; sleep 1; done",
            self.command(&format!("vm logs {vm}")),
            patience.as_secs(),
        );
        let outcome = self.lab.run(&["sh", "-uc", &script, text], patience * 3)?;
        let said = self.qx(&format!("vm logs {vm}"), PATIENCE)?;
        if outcome.status == Status::Exited(0) {
            return Ok(said);
        }
        Err(LabError::Job {
            command: format!("wait for {text:?} of VM {vm}"),
            status: format!("{:?}", outcome.status),
            output: said,
        })
    }
}

/// What L1's kernel has as modules and the daemon's networks and pools need.
const MODULES: &str =
    "modprobe -a bridge nf_tables nft_masq nft_ct nft_reject_inet nf_conntrack_bridge nft_meta_bridge veth \
     8021q vhost_net loop 2>/dev/null || true
     mkdir -p /run/netns /etc/quantix";
