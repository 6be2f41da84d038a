//! What the cases demand of a guest's report; every refusal shows what the guest and the VMM said.

use anyhow::{Result, bail, ensure};
use quantix_lab::{Report, Status};

/// Demands on a [`Report`], to be chained.
pub trait Expect: Sized {
    /// The guest reached its end and powered off, and the VMM ended with 0.
    fn powered_off(self) -> Result<Self>;
    /// The VMM ended with this code.
    fn exited(self, code: i32) -> Result<Self>;
    /// The guest told this fact.
    fn told(self, name: &str, value: &str) -> Result<Self>;
    /// The guest told a number for which `holds`.
    fn told_number(self, name: &str, holds: impl Fn(u64) -> bool) -> Result<Self>;
    /// The guest's serial port shows `text` so many times.
    fn said(self, text: &str, times: usize) -> Result<Self>;
}

impl Expect for Report {
    fn powered_off(self) -> Result<Self> {
        self.said("LAB-END", 1)?.exited(0)
    }

    fn exited(self, code: i32) -> Result<Self> {
        let status = self.status();
        ensure!(status == Status::Exited(code), "The VMM ended with {status:?} instead of {code}{}", words(&self));
        Ok(self)
    }

    fn told(self, name: &str, value: &str) -> Result<Self> {
        match self.fact(name) {
            Some(told) if told == value => Ok(self),
            told => bail!("{name} is {told:?} instead of {value:?}{}", words(&self)),
        }
    }

    fn told_number(self, name: &str, holds: impl Fn(u64) -> bool) -> Result<Self> {
        match self.fact(name).map(|told| told.parse()) {
            Some(Ok(number)) if holds(number) => Ok(self),
            told => bail!("{name} is {told:?}{}", words(&self)),
        }
    }

    fn said(self, text: &str, times: usize) -> Result<Self> {
        let seen = self.serial().matches(text).count();
        ensure!(seen == times, "{text:?} was seen {seen} times instead of {times}{}", words(&self));
        Ok(self)
    }
}

fn words(report: &Report) -> String {
    format!("\n--- serial ---\n{}\n--- log, {:?} ---\n{}", report.serial(), report.status(), report.log())
}
