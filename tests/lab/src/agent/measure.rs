//! Runs a VMM until its guest says a word, and prints how long that took and what KVM counted: one line
//! `MEASURED nanoseconds=N exits=N io_exits=N …`. Used in the run in deterministic time. Single-threaded; the counters are read
//! while the VM lives, because they go with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const COUNTERS: &str = "/sys/kernel/debug/kvm";

/// Runs `argv` until a line of its output has `text` in it, then to its end.
pub fn measure(text: &str, argv: &[&str]) -> ExitCode {
    let Some((program, arguments)) = argv.split_first() else { return ExitCode::FAILURE };
    let start = Instant::now();
    let mut child = match Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("{program}: {error}");
            return ExitCode::FAILURE;
        }
    };
    let mut found = false;
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
        if !found && line.contains(text) {
            found = true;
            let nanoseconds = start.elapsed().as_nanos();
            println!("MEASURED nanoseconds={nanoseconds}{}", counters(Path::new(COUNTERS)));
        }
        println!("{line}");
    }
    match child.wait() {
        Ok(status) => println!("ENDED {status}"),
        Err(error) => println!("ENDED {error}"),
    }
    if found { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Every counter that is not zero. The directories in there belong to single VMs, the files are the totals.
fn counters(directory: &Path) -> String {
    let Ok(entries) = fs::read_dir(directory) else { return String::new() };
    let mut counts: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().is_file())
        .filter_map(|entry| Some((entry.file_name().into_string().ok()?, fs::read_to_string(entry.path()).ok()?)))
        .filter(|(_, count)| count.trim() != "0")
        .map(|(name, count)| format!(" {name}={}", count.trim()))
        .collect();
    counts.sort();
    counts.concat()
}
