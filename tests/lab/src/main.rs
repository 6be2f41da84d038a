//! `lab`: the lab from a shell. Parses, calls the library, prints.

#![forbid(unsafe_code)]

mod cli;
mod demo;

use anyhow::Context;
use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    quantix_lab::supervise_if_asked();
    match cli::Arguments::parse().run().context("The lab failed") {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::from(125)
        }
    }
}
