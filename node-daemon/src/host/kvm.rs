//! What KVM can do here. The VMM knows: it runs a small guest and says what became of it. Async runtime.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;
use tokio::time::timeout;

/// How long the VMM may take; it gives up by itself before.
const PATIENCE: Duration = Duration::from_secs(40);

/// What KVM can do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kvm {
    /// Ordinary kernels run.
    pub ready: bool,
    /// In words, and what to do about it.
    pub summary: String,
}

/// The part of the VMM's report that matters here.
#[derive(Deserialize)]
struct Verdict {
    ordinary_kernels: bool,
    verdict: String,
}

impl Kvm {
    pub(super) fn unknown() -> Self {
        Self::not_ready("KVM is being examined: ask again in a moment")
    }

    fn not_ready(summary: impl Into<String>) -> Self {
        Self { ready: false, summary: summary.into() }
    }
}

/// Asks the VMM.
pub(super) async fn examine(vmm: &Path) -> Kvm {
    let run = Command::new(vmm)
        .args(["check", "--output", "json"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(PATIENCE, run).await {
        // The exit status says what `ordinary_kernels` says.
        Ok(Ok(output)) => read(&output.stdout).unwrap_or_else(|error| {
            Kvm::not_ready(format!("{} does not say what KVM can do ({}): {error}", vmm.display(), output.status))
        }),
        Ok(Err(error)) => Kvm::not_ready(format!("Cannot run {}: {error}: give --vmm", vmm.display())),
        Err(_) => Kvm::not_ready(format!("{} has not said what KVM can do within {PATIENCE:?}", vmm.display())),
    }
}

fn read(report: &[u8]) -> Result<Kvm, serde_json::Error> {
    let verdict: Verdict = serde_json::from_slice(report)?;
    Ok(Kvm { ready: verdict.ordinary_kernels, summary: verdict.verdict })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_taken_over() {
        let kvm = read(br#"{"ordinary_kernels": true, "verdict": "All is well.", "findings": []}"#).unwrap();
        assert_eq!(kvm, Kvm { ready: true, summary: "All is well.".into() });
        assert!(read(b"").is_err());
    }

    #[tokio::test]
    async fn a_missing_or_odd_vmm_is_said() {
        let missing = examine(Path::new("/nonexistent/vmm")).await;
        assert!(!missing.ready && missing.summary.contains("/nonexistent/vmm"), "{missing:?}");
        let odd = examine(Path::new("/bin/true")).await;
        assert!(!odd.ready && odd.summary.contains("does not say"), "{odd:?}");
    }
}
