//! Events tests.
