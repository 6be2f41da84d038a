//! How a guest ends, and what the control socket does to it.

use anyhow::{Result, ensure};
use quantix_e2e::{Bench, Case, Expect, case};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("power::button_is_pressed", button_is_pressed),
        case("power::reset_ends_the_vmm", reset_ends_the_vmm),
        case("power::reset_starts_again_if_asked", reset_starts_again_if_asked),
        case("power::panic_is_told", panic_is_told),
        case("power::pause_and_resume", pause_and_resume),
    ]
}

fn button_is_pressed(bench: &Bench) -> Result<()> {
    let wait = "await /dev/input/event0; echo WAITING; $b head -c 24 /dev/input/event0 >/dev/null; fact button pressed";
    let mut guest = bench.start(&bench.guest().script(wait))?;
    guest.wait_for("WAITING", PATIENCE)?;
    guest.ctl(&["power-button"])?;
    bench.end(guest)?.powered_off()?.told("button", "pressed")?;
    Ok(())
}

fn reset_ends_the_vmm(bench: &Bench) -> Result<()> {
    bench.run(&bench.guest().words("lab.end=reboot"))?.said("LAB-INIT", 1)?.exited(0)?;
    Ok(())
}

fn reset_starts_again_if_asked(bench: &Bench) -> Result<()> {
    let mut guest = bench.start(&bench.guest().words("lab.end=reboot").option("--reboot").cpus(2))?;
    guest.wait_for_times("LAB-INIT", 3, PATIENCE)?;
    guest.ctl(&["stop"])?;
    bench.end(guest)?.exited(0)?;
    Ok(())
}

fn panic_is_told(bench: &Bench) -> Result<()> {
    let report = bench.run(&bench.guest().script("echo c > /proc/sysrq-trigger"))?.exited(1)?;
    ensure!(report.log().contains("panicked"), "The log does not tell the panic:\n{}", report.log());
    Ok(())
}

/// The guest counts; while it is paused it must not. Afterwards its watchdog, set to two seconds, has seen no lock-up.
fn pause_and_resume(bench: &Bench) -> Result<()> {
    let count = "echo 1 >/proc/sys/kernel/watchdog_thresh
                 n=0; while [ $n -lt 120 ]; do echo TICK $n; n=$((n+1)); $b usleep 50000; done
                 fact lockups $($b dmesg | $b grep -c 'soft lockup')";
    let mut guest = bench.start(&bench.guest().cpus(2).script(count))?;
    guest.wait_for("TICK 5", PATIENCE)?;
    guest.ctl(&["pause"])?;
    ensure!(!guest.says_more(Duration::from_secs(4))?, "The guest went on while it was paused");
    guest.ctl(&["resume"])?;
    ensure!(guest.says_more(PATIENCE)?, "The guest did not go on");
    bench.end(guest)?.powered_off()?.told("lockups", "0")?;
    Ok(())
}
