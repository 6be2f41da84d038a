//! The ends of a guest, and the control socket of one that runs.

use anyhow::{Result, ensure};
use quantix_e2e::native::{Case, Native, case};

const READY: &str = r#"{"event":"ready"}"#;

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("lifecycle::power_off", |native| native.vm().run()?.exited(0).map(drop)),
        case("lifecycle::reset_ends_it", |native| native.vm().does("after=reset").run()?.exited(0).map(drop)),
        case("lifecycle::reset_with_reboot_starts_it_again", reboots),
        case("lifecycle::reset_by_ctl", reset_by_ctl),
        case("lifecycle::stop_by_ctl", stop_by_ctl),
        case("lifecycle::pause_in_the_middle_of_io", pause_in_the_middle_of_io),
        case("lifecycle::statistics_and_timeline", statistics_and_timeline),
    ]
}

fn reboots(native: &Native) -> Result<()> {
    let vm = native.vm().disk(&native.raw("disk", 64)?, "").controlled().flag("--reboot");
    let running = vm.does("test=blk-verify mib=1 after=reset").start()?;
    running.wait_for(r#""test":"blk-verify""#, 3)?;
    running.ctl(&["stop"])?;
    let ended = running.end()?.exited(0)?;
    ensure!(
        ended.lines().filter(|line| line["test"] == "blk-verify").all(|line| line["ok"] == true),
        "{}",
        ended.words()
    );
    Ok(())
}

fn reset_by_ctl(native: &Native) -> Result<()> {
    let running = native.vm().controlled().flag("--reboot").does("after=idle").start()?;
    for times in 1..=3 {
        running.wait_for(READY, times)?;
        running.ctl(&["reset"])?;
    }
    running.wait_for(READY, 4)?;
    running.ctl(&["stop"])?;
    running.end()?.exited(0)?;
    Ok(())
}

fn stop_by_ctl(native: &Native) -> Result<()> {
    let running = native.vm().controlled().does("after=idle").start()?;
    running.wait_for(READY, 1)?;
    running.ctl(&["stop"])?;
    running.end()?.exited(0)?;
    Ok(())
}

/// Three times; a paused guest says nothing, and no request is lost, doubled or changed.
fn pause_in_the_middle_of_io(native: &Native) -> Result<()> {
    const PROGRESS: &str = r#""event":"progress""#;
    let vm = native.vm().disk(&native.raw("disk", 64)?, "").controlled();
    let running = vm.does("test=io-pause ms=3000 every_ms=100").start()?;
    for _ in 0..3 {
        running.wait_for(PROGRESS, running.count(PROGRESS) + 1)?;
        running.ctl(&["pause"])?;
        let first = running.ctl_json("stats")?;
        let second = running.ctl_json("stats")?;
        ensure!(first["devices"] == second["devices"], "A paused disk worked: {first}\n{second}");
        running.ctl(&["resume"])?;
    }
    running.end()?.exited(0)?.passed("io-pause")?;
    Ok(())
}

fn statistics_and_timeline(native: &Native) -> Result<()> {
    let vm = native.vm().disk(&native.raw("disk", 64)?, "").controlled();
    let running = vm.does("test=blk-verify mib=1 after=idle").start()?;
    running.wait_for("blk-verify", 1)?;
    let (info, stats, timeline) =
        (running.ctl_json("info")?, running.ctl_json("stats")?, running.ctl_json("timeline")?);
    eprintln!("{info}\n{stats}\n{timeline}");
    running.ctl(&["stop"])?;
    running.end()?.exited(0)?.passed("blk-verify")?;
    Ok(())
}
