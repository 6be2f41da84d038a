//! The frame of the end-to-end cases: one L1 for all of them, started by the first case and kept by a process of its own
//! until the test runner ends, or nobody needs it for a minute. A case is a function on a [`Bench`].

#![deny(unsafe_code)]

mod expect;
pub mod native;
pub mod node;
mod suite;

pub use expect::Expect;
pub use node::{NodeBench, with_node};
pub use suite::{Bench, Case, SANDBOX_LINE, case, main};
