//! The sandbox from the inside: this program starts itself once for each case, enters the sandbox as a thread of the
//! given role, and tries something. The parent looks at how the child ended.
//!
//! It has its own small harness, because the sandbox is entered by a process with one thread.

mod allowed;
mod child;
mod denied;
mod process;

use std::process::ExitCode;

/// A test of the parent's side.
type Test = (&'static str, fn());

fn tests() -> Vec<Test> {
    [denied::TESTS, allowed::TESTS, process::TESTS].concat()
}

fn main() -> ExitCode {
    if let Some(case) = child::requested() {
        return child::run(&case);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    // What `cargo nextest` asks of a harness: a list, then one run a test by its exact name.
    if has("--list") {
        tests().iter().filter(|_| !has("--ignored")).for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", String::as_str);
    for (name, test) in tests() {
        if if has("--exact") { name == filter } else { name.contains(filter) } {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}
