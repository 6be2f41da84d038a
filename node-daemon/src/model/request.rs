//! What makes two requests the same one. Pure.

use sha2::{Digest as _, Sha256};

/// SHA-256 of a request's content, so that a `request_id` that is used again for something else is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a message whose `request_id` and `wait` were cleared: those may differ between tries.
    pub fn of<M: prost::Message>(message: &M) -> Self {
        Self::of_bytes(&message.encode_to_vec())
    }

    /// Of any bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
