//! The boot in deterministic time against the baseline: a change of more than 3 % fails until `lab exact --update` has
//! written the baseline anew, on purpose.

use anyhow::{Result, bail, ensure};
use quantix_lab::exact::{self, ALLOWED_PERCENT, Figures};
use quantix_lab::{Cache, Images, Vmm};
use std::path::Path;

#[test]
fn a_boot_costs_what_the_baseline_says() -> Result<()> {
    let Vmm::Quantix(vmm) = Vmm::find()? else { bail!("Only quantix-vmm has a baseline") };
    let cache = Cache::open()?;
    let figures = exact::run(&cache, &Images::prepare(&cache)?, &vmm)?;
    let baseline = Figures::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/baseline.json"))?;
    let differences = figures.differences(&baseline, ALLOWED_PERCENT);
    ensure!(differences.is_empty(), "{differences:#?}\nOn purpose? Then: lab exact --update\n{figures:#?}");
    Ok(())
}
