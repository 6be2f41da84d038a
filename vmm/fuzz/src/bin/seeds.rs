//! Writes the seed corpus below the directory given as the only argument.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let Some(corpus) = std::env::args_os().nth(1) else {
        return Err(std::io::Error::other("Usage: seeds DIRECTORY"));
    };
    for seed in quantix_vmm_fuzz::seeds::all() {
        let target = Path::new(&corpus).join(seed.target);
        std::fs::create_dir_all(&target)?;
        std::fs::write(target.join(seed.name), seed.bytes)?;
    }
    Ok(())
}
