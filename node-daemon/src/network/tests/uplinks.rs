//! uplinks
