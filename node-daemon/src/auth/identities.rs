//! Which token stands for whom: a copy of what the store has, so that a call needs no look-up on disk. Pure; made anew
//! after each change of users and tokens.

use std::collections::HashMap;

use super::secret::SecretHash;
use crate::model::{Id, Role, Time, Token, User};

/// Whom a token stands for.
#[derive(Debug, Clone)]
pub struct Identity {
    hash: SecretHash,
    /// The token.
    pub token: Id,
    /// The user's name.
    pub name: String,
    /// The lesser of the token's and the user's role.
    pub role: Role,
    expires: Option<Time>,
    /// The user may not log in.
    disabled: bool,
    /// When it was last noted as used.
    pub last_used: Option<Time>,
}

/// Why a token does not work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// Nobody has it; it may have been deleted.
    Unknown,
    /// Its time is over.
    Expired,
    /// Its user may not log in.
    Disabled,
}

/// All tokens.
#[derive(Debug, Default)]
pub struct Identities {
    by_bucket: HashMap<[u8; 8], Vec<Identity>>,
    administrators: usize,
}

impl Identities {
    /// Of all users and tokens.
    pub fn new(users: &[User], tokens: &[Token]) -> Self {
        let mut by_bucket: HashMap<_, Vec<_>> = HashMap::new();
        let by_id: HashMap<&Id, &User> = users.iter().map(|user| (&user.id, user)).collect();
        for token in tokens {
            let (Some(user), Some(hash)) = (by_id.get(&token.user), SecretHash::from_hex(&token.hash)) else {
                continue;
            };
            by_bucket.entry(hash.bucket()).or_default().push(Identity {
                hash,
                token: token.id.clone(),
                name: user.name.to_string(),
                role: token.role.min(user.role),
                expires: token.expires,
                disabled: user.disabled,
                last_used: token.last_used,
            });
        }
        Self { by_bucket, administrators: users.iter().filter(|user| is_administrator(user)).count() }
    }

    /// Whom a secret stands for now.
    ///
    /// # Errors
    /// Why it stands for nobody.
    pub fn of(&self, secret: &str, now: Time) -> Result<&Identity, Unusable> {
        let hash = SecretHash::of(secret);
        let known = self.by_bucket.get(&hash.bucket()).and_then(|found| found.iter().find(|i| i.hash.is(&hash)));
        let identity = known.ok_or(Unusable::Unknown)?;
        if identity.disabled {
            return Err(Unusable::Disabled);
        }
        if identity.expires.is_some_and(|expires| expires <= now) {
            return Err(Unusable::Expired);
        }
        Ok(identity)
    }

    /// There is somebody who may do everything.
    pub fn has_administrator(&self) -> bool {
        self.administrators > 0
    }
}

/// May do everything, and log in.
pub fn is_administrator(user: &User) -> bool {
    user.role == Role::Admin && !user.disabled
}
