//! Runs a VMM until its guest says a word, ends it, and prints how long that took and what KVM counted: one line
//! `MEASURED nanoseconds=N exits=N io_exits=N …`. Used in the run in deterministic time. Single-threaded; the counters are read
//! while the VM lives, because they go with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

const COUNTERS: &str = "/sys/kernel/debug/kvm";

/// Runs `argv` until a line of its output has `text` in it.
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
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines).map_while(Result::ok) {
        let nanoseconds = start.elapsed().as_nanos();
        let found = line.contains(text).then(|| counters(Path::new(COUNTERS)));
        println!("{line}");
        if let Some(counts) = found {
            println!("MEASURED nanoseconds={nanoseconds}{counts}");
            let _ended = child.kill().and_then(|()| child.wait());
            return ExitCode::SUCCESS;
        }
    }
    println!("ENDED {:?}", child.wait());
    ExitCode::FAILURE
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
