//! Secrets that this node gives out: 256 random bits, of which only the SHA-256 is kept. Pure but for the random bits.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::model::Failure;

/// A secret as it is given out, once.
pub struct Secret(String);

/// What is kept of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SecretHash([u8; 32]);

impl Secret {
    /// A new token.
    ///
    /// # Errors
    /// When the kernel gives no random bits.
    pub fn token() -> Result<Self, Failure> {
        Self::new("qxt_")
    }

    /// A new setup token.
    ///
    /// # Errors
    /// When the kernel gives no random bits.
    pub fn setup() -> Result<Self, Failure> {
        Self::new("qxs_")
    }

    fn new(prefix: &str) -> Result<Self, Failure> {
        let mut bits = [0; 32];
        getrandom::fill(&mut bits).map_err(|error| Failure::internal("The kernel gives no random bits", error))?;
        Ok(Self(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bits))))
    }

    /// The text, to be given out.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What is kept of it.
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

/// Never in a log.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl SecretHash {
    /// Of what somebody sent.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Reads the kept form.
    pub fn from_hex(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// The kept form.
    pub fn to_hex(self) -> String {
        self.0.iter().fold(String::with_capacity(64), |text, byte| format!("{text}{byte:02x}"))
    }

    /// Equal, found out in the same time whatever differs.
    pub fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// What look-ups go by: a part, so that the comparison of the whole is left to `is`.
    pub fn bucket(&self) -> [u8; 8] {
        let mut bucket = [0; 8];
        bucket.copy_from_slice(&self.0[..8]);
        bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_again_by_its_hash() {
        let (a, b) = (Secret::token().unwrap(), Secret::token().unwrap());
        assert!(a.reveal().starts_with("qxt_") && a.reveal().len() == 47);
        let kept = SecretHash::from_hex(&a.hash().to_hex()).unwrap();
        assert!(kept.is(&SecretHash::of(a.reveal())));
        assert!(!kept.is(&b.hash()));
        assert_eq!(format!("{a:?}"), "Secret");
        assert!(SecretHash::from_hex("é".repeat(32).as_str()).is_none());
    }
}
