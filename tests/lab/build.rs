//! Builds the agent as one static program, so that the library can carry it and put it into L1's initramfs.
//! It is compiled by plain `rustc` because it needs nothing but `std`, and because a static C runtime is a choice for
//! this one program, not for the whole workspace.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCES: [&str; 4] = ["src/agent/main.rs", "src/agent/job.rs", "src/agent/measure.rs", "src/control/frame.rs"];

fn main() {
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("lab-agent");
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let status = Command::new(rustc)
        .args(["--edition", "2024", "--crate-name", "lab_agent", "--target", &target])
        .args(["-C", "opt-level=s", "-C", "panic=abort", "-C", "strip=symbols", "-C", "target-feature=+crt-static"])
        .arg("-o")
        .arg(out)
        .arg(SOURCES[0])
        .status()
        .expect("rustc starts");
    assert!(status.success(), "The static agent did not compile: {status}");
}
