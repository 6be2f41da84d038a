//! Long operations: progress, cancellation, results.
