//! The REST API of a live daemon, fuzzed by its own OpenAPI document. In namespaces of its own: the fuzzer is an
//! administrator, and what it makes must not reach this machine.

use std::path::Path;
use std::process::Command;

/// Time for the fuzzer; the start and the end come to it.
const SECONDS: &str = "60";

/// Makes the Python environment of the tests, if it is not there, and returns its directory.
fn python() -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/venv");
    let made = Command::new(script).output().expect("the script is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("{}/bin/python", String::from_utf8_lossy(&made.stdout).trim())
}

#[test]
fn no_request_gets_a_5xx_or_an_answer_outside_the_document() {
    let seconds = std::env::var("QUANTIX_FUZZ_REST_SECONDS").unwrap_or_else(|_| SECONDS.into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rest.py");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["sh", "-c", "ip link set lo up && exec \"$@\"", "sh", &python()]);
    command.arg(script).arg(env!("CARGO_BIN_EXE_quantix-node")).arg(seconds);
    let fuzzed = command.output().expect("unshare is part of every Debian");
    let (out, err) = (String::from_utf8_lossy(&fuzzed.stdout), String::from_utf8_lossy(&fuzzed.stderr));
    assert!(fuzzed.status.success(), "{out}\n{err}");
}
