//! KVM: the VM, its vCPUs, memory slots, doorbells and messages. The only room with KVM ioctls; it has no policy.
//!
//! The order of ioctls matters for the time that a start takes: memory slots before any irqchip or ioeventfd.

mod dump;
mod power_on;
pub mod probe;
mod vcpu;
mod vm;

pub use vcpu::{ExitHandler, ExitKind, Failure, Gate, Phase, Vcpu, VcpuCounters, VcpuStop, install_kick_handler};
pub use vm::{KvmError, Vm};
