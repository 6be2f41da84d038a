//! Passwords: argon2id, with so many at a time that logins cannot eat the machine. Hashing runs on blocking threads.

use std::sync::Arc;
use std::sync::LazyLock;
use std::time::Duration;

use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString};
use tokio::sync::Semaphore;

use crate::model::Failure;

/// Hashes at a time; each takes 19 MiB and some 20 ms of a CPU.
const AT_ONCE: usize = 2;
/// Calls that may wait for their turn.
const WAITING: usize = 32;
/// They wait at most so long.
const PATIENCE: Duration = Duration::from_secs(5);
/// Shortest and longest password, in bytes.
const LENGTH: std::ops::RangeInclusive<usize> = 8..=1024;

/// Checked instead of the hash of a user that is not there, so that the time does not tell who is.
static NOBODY: LazyLock<String> = LazyLock::new(|| hash("nobody has this password").unwrap_or_default());

/// Hashes and checks passwords.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
    queue: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)), queue: Arc::new(Semaphore::new(AT_ONCE + WAITING)) }
    }
}

impl Passwords {
    /// Hashes a new password.
    ///
    /// # Errors
    /// `InvalidArgument` when it is too short or too long, `ResourceExhausted` when too many ask at once.
    pub async fn hash(&self, field: &str, password: String) -> Result<String, Failure> {
        if !LENGTH.contains(&password.len()) {
            let reason = format!("bytes are too few or too many: take {} to {}", LENGTH.start(), LENGTH.end());
            return Err(Failure::invalid(field, password.len(), reason));
        }
        self.in_turn(move || hash(&password)).await?
    }

    /// Whether a password fits a hash; `None` takes as long and never fits.
    ///
    /// # Errors
    /// `ResourceExhausted` when too many ask at once.
    pub async fn fits(&self, password: String, kept: Option<String>) -> Result<bool, Failure> {
        if password.len() > *LENGTH.end() {
            return Ok(false);
        }
        self.in_turn(move || {
            let known = kept.is_some();
            let kept = kept.unwrap_or_else(|| NOBODY.clone());
            let parsed = PasswordHash::new(&kept)
                .map_err(|error| Failure::bug(format!("A kept password hash cannot be read: {error}")))?;
            Ok(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok() && known)
        })
        .await?
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let busy = || Failure::exhausted("Too many logins at once: try again in some seconds");
        let place = self.queue.clone().try_acquire_owned().map_err(|_| busy())?;
        let turn = tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned())
            .await
            .map_err(|_| busy())?
            .map_err(|error| Failure::internal("The passwords' turns are gone", error))?;
        // The permits go with the work: a caller that is gone does not make room for another before its hash is done.
        tokio::task::spawn_blocking(move || {
            let value = work();
            drop((turn, place));
            value
        })
        .await
        .map_err(|error| Failure::internal("Hashing a password panicked", error))
    }
}

fn hash(password: &str) -> Result<String, Failure> {
    let failed = |error: argon2::password_hash::Error| Failure::bug(format!("A password cannot be hashed: {error}"));
    let mut bits = [0; 16];
    getrandom::fill(&mut bits).map_err(|error| Failure::internal("The kernel gives no random bits", error))?;
    let salt = SaltString::encode_b64(&bits).map_err(failed)?;
    // The default is argon2id, version 19, 19 MiB, two passes, one lane.
    Ok(Argon2::default().hash_password(password.as_bytes(), &salt).map_err(failed)?.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let passwords = Passwords::default();
        let kept = passwords.hash("password", "correct horse".into()).await.unwrap();
        assert!(kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{kept}");
        assert!(passwords.fits("correct horse".into(), Some(kept.clone())).await.unwrap());
        assert!(!passwords.fits("wrong horse".into(), Some(kept)).await.unwrap());
        assert!(!passwords.fits("nobody has this password".into(), None).await.unwrap());
    }

    #[tokio::test]
    async fn lengths_are_bounded() {
        let passwords = Passwords::default();
        for length in [0, 7, 1025] {
            let refused = passwords.hash("password", "x".repeat(length)).await.unwrap_err();
            assert_eq!(refused.fields()[0].field, "password");
        }
    }
}
