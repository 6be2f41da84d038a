//! A compromised VMM: started by the node daemon's launcher in the VMM's place, it tries whatever a guest that broke out of its
//! device model would try, and says on standard error how each attempt went, one JSON line each:
//!
//! `{"attempt": NAME, "what": WORDS, "reached": BOOL, "answer": WORDS}`
//!
//! Its configuration, on standard input as a VMM's, says what to aim at (`targets`) and whether to enter the VMM's own
//! sandbox first (`sandbox`: `none`, or a role whose filter it takes). Inside a filter an attempt may be its last act, so
//! each then runs in a process of its own, which the test starts anew: `only` names it.
//!
//! Static, one thread, root of nothing. It must be harmless where it is not jailed: every attempt undoes what it did.

mod attempts;
mod reach;

use std::io::Read as _;
use std::process::ExitCode;

use quantix_vmm::sandbox::{Role, enter_process_knowing, enter_thread};
use serde_json::{Value, json};

use attempts::{ATTEMPTS, Attempt};
use reach::{Outcome, Targets};

fn main() -> ExitCode {
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    let config: Value = match read.map(|_| serde_json::from_str(&text)) {
        Ok(Ok(config)) => config,
        other => {
            eprintln!("quantix-hostile: no configuration on standard input: {other:?}");
            return ExitCode::FAILURE;
        }
    };
    let targets = Targets::of(&config["targets"]);
    let only = config["only"].as_str();
    let role = Role::ALL.into_iter().find(|role| Some(format!("{role:?}").as_str()) == config["sandbox"].as_str());
    // What the VMM has at that moment too: its status file, passed as descriptor 3.
    if let Some(role) = role
        && let Err(error) = enter(role)
    {
        eprintln!("quantix-hostile: {error}");
        return ExitCode::FAILURE;
    }
    for attempt in ATTEMPTS.iter().filter(|attempt| only.is_none_or(|name| name == attempt.name)) {
        report(attempt, &(attempt.make)(&targets));
    }
    eprintln!("{}", json!({ "end": true }));
    ExitCode::SUCCESS
}

fn enter(role: Role) -> Result<(), Box<dyn std::error::Error>> {
    enter_process_knowing(reach::status_file())?;
    enter_thread(role)?;
    Ok(())
}

fn report(attempt: &Attempt, outcome: &Outcome) {
    let (reached, answer) = match outcome {
        Outcome::Reached(words) => (true, words.clone()),
        Outcome::Refused(error) => (false, error.to_string()),
    };
    let line = json!({ "attempt": attempt.name, "what": attempt.what, "reached": reached, "answer": answer });
    eprintln!("{line}");
}
