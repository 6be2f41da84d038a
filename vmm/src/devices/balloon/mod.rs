//! virtio-balloon: the host asks for memory back (virtio 1.3 section 5.5).
//!
//! ```text
//!  BalloonHandle ──target──► configuration ──interrupt──► driver ──PFNs──► inflateq ──► pages go back to the host
//!                ◄─actual─── configuration ◄─────────────┘   └────PFNs──► deflateq ──► nothing: touching faults them in
//!                ──request─► statsq: the buffer goes back, the driver refills it ──► BalloonStatistics
//!  driver ──free blocks──► reporting queue ──► given back to the host at once, no target needed
//! ```
//!
//! With huge pages behind guest RAM only a whole huge page can be given back, so ballooned small pages are collected
//! until they fill one.

mod device;
mod handle;
mod pages;
mod statistics;
mod worker;

pub use device::{Balloon, BalloonOptions};
pub use handle::BalloonHandle;
pub use statistics::BalloonStatistics;

#[cfg(test)]
mod tests;
