//! Starting this program again as the child of one case, and the child's side of it.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

use quantix_vmm::sandbox::{Role, enter_process, enter_thread};

use crate::{allowed, denied, process};

const VARIABLE: &str = "QUANTIX_SANDBOX_CASE";

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The filter killed it.
    Sigsys,
    /// It was killed by another signal.
    Signal(i32),
    /// It ended by itself, with this status, after it printed this.
    Exit(i32, String),
}

/// The case that this process was started for, if it is a child.
pub fn requested() -> Option<String> {
    std::env::var(VARIABLE).ok()
}

/// The command that runs a case in a child.
pub fn command(case: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env_clear().env(VARIABLE, case).stdin(Stdio::null());
    command
}

/// Runs a case in a child.
pub fn end(command: &mut Command) -> End {
    let output = command.output().unwrap();
    match (output.status.signal(), output.status.code()) {
        (Some(libc::SIGSYS), _) => End::Sigsys,
        (Some(signal), _) => End::Signal(signal),
        (None, code) => {
            let text = [output.stdout, output.stderr].concat();
            End::Exit(code.unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
        }
    }
}

/// The child's side: `deny ROLE NAME`, `allow ROLE NAME`, or `process NAME`.
pub fn run(case: &str) -> ExitCode {
    let words: Vec<&str> = case.split(' ').collect();
    match words.as_slice() {
        ["deny", role, name] => inside(parse(role), || denied::find(name), |call| denied::attempt(&call)),
        ["allow", role, name] => allowed::run(parse(role), name),
        ["process", name] => process::run(name),
        _ => panic!("no case {case}"),
    }
    ExitCode::SUCCESS
}

/// Prepares, enters the sandbox in the order that the product keeps, and acts in a thread of the role.
pub fn inside<T: Send>(role: Role, prepare: impl FnOnce() -> T, act: impl FnOnce(T) + Send) {
    let prepared = prepare();
    enter_process().unwrap();
    let whole = move || {
        enter_thread(role).unwrap();
        act(prepared);
    };
    if role == Role::Main {
        return whole();
    }
    std::thread::scope(|scope| scope.spawn(whole).join().unwrap());
}

fn parse(role: &str) -> Role {
    Role::ALL.into_iter().find(|known| format!("{known:?}") == role).unwrap()
}
