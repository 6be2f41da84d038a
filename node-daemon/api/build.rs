//! Generates messages, clients and servers from the protos, and keeps their descriptors with comments: REST, OpenAPI and reflection
//! are made from those.

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let mut files: Vec<PathBuf> =
        std::fs::read_dir("proto/quantix/node/v1")?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let set = compiler.file_descriptor_set();
    let out = std::env::var("OUT_DIR")?;
    // protox's own encoding keeps extensions (the HTTP annotations), which the decoded set has lost.
    std::fs::write(Path::new(&out).join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    let mut config = prost_build::Config::new();
    config.btree_map(["."]).enable_type_names();
    tonic_prost_build::configure().emit_rerun_if_changed(false).compile_fds_with_config(set, config)?;
    Ok(())
}
