//! The room against a real kernel: every test makes a network namespace for its host, and more for guests and for the
//! world outside. Needs root; says loudly what could not run.

mod filters;
mod harness;
mod keeping;
mod nat;
mod service;
mod uplinks;
