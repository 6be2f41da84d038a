//! virtio 1.3, the parts that every device shares: the device contract, split virtqueues, the PCI transport.
//!
//! ```text
//!  guest driver ──rings in guest RAM──► Queue ──Chain──► Worker (devices/*, on a reactor thread)
//!      │ config space, BAR registers                        ▲ made by
//!      ▼ (vCPU thread)                                      │
//!  pci::VirtioPci ──reset, features, DRIVER_OK──► Device ───┘ activate
//! ```
//!
//! This room names no device.

#![forbid(unsafe_code)]

mod device;
pub mod pci;
mod queue;
pub mod rate_limit;
pub mod testing;

pub use device::{
    Activation, Device, DeviceType, GuestFault, HostError, Interest, Polled, Source, Worker, WorkerError, WorkerGroup,
    WorkerHost,
};
pub use queue::{Chain, Interrupt, Queue, QueueLayout, QueueWiring, SliceList};

#[cfg(test)]
mod queue_tests;
