//! The daemon's own settings: `node.toml`, directories, ports.
