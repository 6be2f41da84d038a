//! Tasks tests.
