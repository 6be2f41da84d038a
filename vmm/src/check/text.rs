//! The report for people: one line a finding, then the verdict. Pure.

use std::io::{self, Write};

use super::verdict::{Report, State, Topic};

/// Writes the report.
///
/// # Errors
/// It cannot be written.
pub(super) fn write(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let topics =
        [(Topic::Kvm, "KVM"), (Topic::Kernels, "What ordinary kernels do in ring 0"), (Topic::Host, "Around it")];
    for (topic, title) in topics {
        let mut findings = report.findings.iter().filter(|finding| finding.topic == topic).peekable();
        if findings.peek().is_none() {
            continue;
        }
        writeln!(out, "{title}")?;
        for finding in findings {
            let mark = match finding.state {
                State::Yes => "yes",
                State::Limited => "-",
                State::No => "NO",
            };
            writeln!(out, "  {mark:<4} {:<19} {}", finding.name, finding.meaning)?;
        }
        writeln!(out)?;
    }
    writeln!(out, "{}", report.verdict)
}
