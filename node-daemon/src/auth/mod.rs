//! Who is asking, and what they may do. A layer around all services finds out both before a handler runs, and writes the
//! audit log; the services never look at tokens.

mod peer;
pub mod policy;

pub use peer::Peer;
