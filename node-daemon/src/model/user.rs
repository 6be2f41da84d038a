//! Users and their tokens. Pure. Secrets are never in here, only what they can be checked against.

use serde::{Deserialize, Serialize};

use super::{Id, Name, ResourceKind, Role, Time};
use crate::store::Record;

/// Somebody who may log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Never changes.
    pub id: Id,
    /// What the user logs in as.
    pub name: Name,
    /// What the user may do.
    pub role: Role,
    /// May not log in, and tokens do not work.
    pub disabled: bool,
    /// Argon2id, as a PHC string.
    pub password_hash: String,
    /// When a login last succeeded.
    pub last_login: Option<Time>,
}

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenKind {
    /// Made by a login; ends with a logout or a new password.
    Session,
    /// Made for a program.
    Api,
}

/// What stands for a user, until it is deleted or its time is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Never changes.
    pub id: Id,
    /// What it is for, in the user's words; empty for a session.
    pub label: String,
    /// Whose it is.
    pub user: Id,
    /// What it may do; the user's own role bounds it.
    pub role: Role,
    /// What it is for.
    pub kind: TokenKind,
    /// SHA-256 of the secret, lower-case hexadecimal.
    pub hash: String,
    /// When it stops to work; `None` means never.
    pub expires: Option<Time>,
    /// When it was last used, to some minutes.
    pub last_used: Option<Time>,
}

impl Record for User {
    const TABLE: &'static str = "users";
    const KIND: ResourceKind = ResourceKind::User;

    fn id(&self) -> &Id {
        &self.id
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl Record for Token {
    const TABLE: &'static str = "tokens";
    const KIND: ResourceKind = ResourceKind::Token;

    fn id(&self) -> &Id {
        &self.id
    }

    /// Labels need not be unique, but names of documents are.
    fn name(&self) -> &str {
        self.id.as_str()
    }
}
