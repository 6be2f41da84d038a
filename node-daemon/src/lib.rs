//! `quantix-node` turns a machine into a hypervisor host. See the rooms in `README.md`.

pub mod auth;
pub mod cli;
pub mod console;
pub mod daemon;
pub mod events;
pub mod host;
pub mod model;
pub mod network;
pub mod reconcile;
pub mod server;
pub mod settings;
pub mod storage;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod vm;
pub mod vmm_client;
