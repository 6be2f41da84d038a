//! Demonstrations on the terminal, on this machine where its KVM can run an ordinary kernel, else in the lab. They say what
//! they do and where, and end by themselves.

mod node;
mod vmm;

pub use node::run as node;
pub use vmm::run as vmm;

use quantix_lab::Machine;

/// Where the guest runs, for the person who looks on.
fn place(machine: Machine) -> &'static str {
    match machine {
        Machine::Here => "The guest runs NATIVELY, on this machine's KVM (in namespaces of its own).",
        Machine::Emulated => {
            "The guest runs IN THE LAB: QEMU emulates an AMD processor with virtualisation, and the Linux in it has a \
             working KVM. Everything is far slower than on such a processor. Starting it …"
        }
    }
}
