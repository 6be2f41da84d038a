//! KVM: the VM, its vCPUs, memory slots, doorbells and messages. The only room with KVM ioctls; it has no policy.

pub mod probe;
