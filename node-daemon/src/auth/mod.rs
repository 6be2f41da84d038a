//! Who is asking, and what they may do. A layer around all services finds out both before a handler runs, and writes the
//! audit log; the services never look at tokens. Async runtime; hashing of passwords runs on blocking threads.

#![forbid(unsafe_code)]

mod accounts;
mod identities;
mod layer;
mod limit;
mod password;
mod peer;
pub mod policy;
mod secret;
mod subject;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::model::{Failure, Time};
use crate::store::Store;

pub use accounts::{Login, Refused, UserChange};
use identities::Identities;
pub use layer::guard;
use limit::{GuessLimit, Trickle};
use password::Passwords;
pub use peer::Peer;
use secret::{Secret, SecretHash};
pub use subject::{AuditNote, AuditSubject};

/// Where the setup token's hash is kept.
const SETUP: &str = "setup_token_sha256";
/// A token's use is noted at most so often.
const NOTE_USE: Duration = Duration::from_mins(5);

/// How often what happened; for metrics.
#[derive(Debug, Default)]
pub struct AuthCounters {
    /// Logins and setups that were let in.
    pub logins: AtomicU64,
    /// Wrong names, passwords and setup tokens.
    pub failed_logins: AtomicU64,
    /// Tries that were refused without a look at the password.
    pub limited_logins: AtomicU64,
    /// Calls without a token that works.
    pub unauthenticated: AtomicU64,
    /// Calls whose role was too small.
    pub denied: AtomicU64,
}

impl AuthCounters {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters: name, what it counts, value.
    pub fn read(&self) -> [(&'static str, &'static str, u64); 5] {
        [
            ("logins", "Logins and setups that were let in", &self.logins),
            ("failed_logins", "Wrong names, passwords and setup tokens", &self.failed_logins),
            ("limited_logins", "Logins refused without a look at the password", &self.limited_logins),
            ("unauthenticated_calls", "Calls without a token that works", &self.unauthenticated),
            ("denied_calls", "Calls whose role was too small", &self.denied),
        ]
        .map(|(name, help, counter)| (name, help, counter.load(Ordering::Relaxed)))
    }
}

/// The room; cheap to clone.
#[derive(Clone)]
pub struct Auth {
    shared: Arc<Shared>,
}

/// Says nothing of users or tokens.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

struct Shared {
    store: Store,
    identities: RwLock<Arc<Identities>>,
    /// Held from a change in the store until `identities` has it.
    changes: Mutex<()>,
    passwords: Passwords,
    guesses: GuessLimit,
    /// Refusals of nobody known that the audit log takes.
    refusals: Trickle,
    counters: AuthCounters,
    /// The daemon's own user: an administrator on the local socket, as uid 0 is.
    own_uid: u32,
}

impl Auth {
    /// Reads users and tokens. While there is no administrator, makes a setup token and prints it.
    ///
    /// # Errors
    /// What the store says.
    pub async fn start(store: Store) -> Result<Self, Failure> {
        let now = Instant::now();
        let auth = Self {
            shared: Arc::new(Shared {
                store,
                identities: RwLock::default(),
                changes: Mutex::default(),
                passwords: Passwords::default(),
                guesses: GuessLimit::new(now),
                refusals: Trickle::new(now),
                counters: AuthCounters::default(),
                own_uid: rustix::process::geteuid().as_raw(),
            }),
        };
        auth.refresh().await?;
        if !auth.identities().has_administrator() {
            // An earlier one was only printed, never kept: a new one takes its place.
            let token = Secret::setup()?;
            let hash = token.hash().to_hex();
            auth.shared.store.write(move |tx| tx.set_meta(SETUP, &hash)).await?;
            let text = format!("Setup token (make the first administrator with it, once): {}", token.reveal());
            // Whoever watches the console sees it whatever is logged.
            eprintln!("{text}");
            tracing::warn!("{text}");
        }
        Ok(auth)
    }

    /// How often what happened.
    pub fn counters(&self) -> &AuthCounters {
        &self.shared.counters
    }

    fn identities(&self) -> Arc<Identities> {
        self.shared.identities.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over what the store has now. Whoever changed it holds `changes`.
    async fn refresh(&self) -> Result<(), Failure> {
        let fresh = self
            .shared
            .store
            .read(|tx| {
                let users: Vec<_> = tx.all()?.into_iter().map(|stored| stored.record).collect();
                let tokens: Vec<_> = tx.all()?.into_iter().map(|stored| stored.record).collect();
                Ok(Identities::new(&users, &tokens))
            })
            .await?;
        *self.shared.identities.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
        Ok(())
    }

    /// Notes that a token was used; not at each call, because each note is a write.
    fn note_use(&self, identity: &identities::Identity, now: Time) {
        let due = |last: Time| now.micros().saturating_sub(last.micros()) >= NOTE_USE.as_micros() as i64;
        if !identity.last_used.is_none_or(due) {
            return;
        }
        let (auth, id) = (self.clone(), identity.token.clone());
        tokio::spawn(async move {
            // One at a time: calls that come meanwhile find it noted.
            let Ok(_change) = auth.shared.changes.try_lock() else { return };
            let noted = auth.shared.store.write(move |tx| {
                // A token that was deleted meanwhile needs no note.
                if let Some(stored) = tx.lookup::<crate::model::Token>(id.as_str())? {
                    tx.note(&crate::model::Token { last_used: Some(now), ..stored.record })?;
                }
                Ok(())
            });
            let done = match noted.await {
                Ok(()) => auth.refresh().await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = done {
                tracing::warn!("The use of a token could not be noted: {}", failure.chain());
            }
        });
    }
}
