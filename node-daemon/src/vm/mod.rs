//! One supervisor for each VM: spawn, adopt, phases, exits. The only spawner of VMMs.

pub mod cgroup;
pub mod isolation;
pub mod launch;
pub mod vsock;
