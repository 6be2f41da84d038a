//! What is done with users and tokens. Async runtime. Each change is one transaction; the last administrator stays.

use std::time::{Duration, Instant};

use super::identities::is_administrator;
use super::{Auth, AuthCounters, Peer, SETUP, Secret, SecretHash};
use crate::model::{
    Caller, Failure, FailureKind, Fingerprint, Id, Name, Page, PageOf, ResourceKind, Role, Time, Token, TokenKind, User,
};
use crate::store::{Idempotency, ReadTx, Stored, WriteTx, parse_etag};

/// How long a session lasts.
const SESSION: Duration = Duration::from_hours(24);
/// Sessions of one user at a time; the oldest ends when one more begins.
const SESSIONS: usize = 32;
/// API tokens of one user.
const API_TOKENS: usize = 256;
/// Bytes of a token's label.
const LABEL: usize = 128;

/// Somebody who was let in.
#[derive(Debug)]
pub struct Login {
    /// The session's token, to be given out once.
    pub secret: String,
    /// When it stops to work.
    pub expires: Time,
    /// Who it is.
    pub user: Stored<User>,
}

/// Why somebody was not let in.
#[derive(Debug)]
pub enum Refused {
    /// Too many failures: come again after so long.
    TooOften(Duration),
    /// Any other reason.
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What of a user changes.
#[derive(Debug, Default)]
pub struct UserChange {
    /// A new role.
    pub role: Option<Role>,
    /// Whether the user may log in.
    pub disabled: Option<bool>,
    /// The revision that it must have; empty for any.
    pub etag: String,
}

impl Auth {
    /// Makes the first administrator, and a session.
    ///
    /// # Errors
    /// When there is an administrator, the setup token is another, or name or password cannot be taken.
    pub async fn setup(&self, peer: &Peer, token: &str, name: &str, password: String) -> Result<Login, Refused> {
        let done = || Failure::precondition("There is an administrator already: log in instead");
        if self.identities().has_administrator() {
            return Err(done().into());
        }
        self.guess(None, peer)?;
        let sent = SecretHash::of(token);
        let kept = self.shared.store.read(|tx| tx.meta(SETUP)).await?;
        if !kept.and_then(|text| SecretHash::from_hex(&text)).is_some_and(|kept| kept.is(&sent)) {
            AuthCounters::add(&self.shared.counters.failed_logins);
            let message = "The setup token is not the one that the latest start printed";
            return Err(Failure::new(FailureKind::Unauthenticated, message).into());
        }
        self.guessed_right(None, peer);
        let user = self.new_user("name", name, password, Role::Admin).await?;
        let login = self.change(move |tx| {
            // Looked at again in the transaction that makes it: of two setups at once one is too late.
            if administrators(tx)? > 0 {
                return Err(done());
            }
            tx.insert(&user)?;
            tx.set_meta(SETUP, "")?;
            begin_session(tx, &user.id)
        });
        let login = login.await?;
        AuthCounters::add(&self.shared.counters.logins);
        Ok(login)
    }

    /// Begins a session for a name and a password.
    ///
    /// # Errors
    /// When they do not fit, or failed too often.
    pub async fn login(&self, peer: &Peer, name: &str, password: String) -> Result<Login, Refused> {
        self.guess(Some(name), peer)?;
        let known = name.to_owned();
        // By name only: an id is no login name.
        let user = self.shared.store.read(move |tx| tx.lookup::<User>(&known)).await?;
        let user = user.map(|stored| stored.record).filter(|user| user.name.as_str() == name);
        let kept = user.as_ref().map(|user| user.password_hash.clone());
        let fits = self.shared.passwords.fits(password, kept).await?;
        let Some(user) = user.filter(|user| fits && !user.disabled) else {
            AuthCounters::add(&self.shared.counters.failed_logins);
            let message = "Name and password do not fit, or the user may not log in";
            return Err(Failure::new(FailureKind::Unauthenticated, message).into());
        };
        self.guessed_right(Some(name), peer);
        let login = self.change(move |tx| begin_session(tx, &user.id)).await?;
        AuthCounters::add(&self.shared.counters.logins);
        Ok(login)
    }

    /// Ends the session of the token that was sent.
    ///
    /// # Errors
    /// When the caller has none.
    pub async fn logout(&self, caller: &Caller) -> Result<(), Failure> {
        let none = || Failure::precondition("There is no session to end: this call was not made with a login's token");
        let id = caller.token_id.clone().ok_or_else(none)?;
        self.change(move |tx| match tx.lookup::<Token>(id.as_str())? {
            Some(token) if token.record.kind == TokenKind::Session => tx.delete::<Token>(&id, None).map(drop),
            _ => Err(none()),
        })
        .await
    }

    /// A page of users, by name.
    pub async fn users(&self, page: Page) -> Result<PageOf<Stored<User>>, Failure> {
        self.shared
            .store
            .read(move |tx| {
                let mut users = tx.all::<User>()?;
                users.sort_by(|a, b| a.record.name.cmp(&b.record.name));
                let after = page.after().unwrap_or_default();
                let rest = users.into_iter().filter(|user| user.record.name.as_str() > after);
                Ok(page.cut(rest.take(page.size() + 1).collect(), |user| user.record.name.to_string()))
            })
            .await
    }

    /// Adds a user. With a `request_id` that was used before for the same, answers with what was made then.
    ///
    /// # Errors
    /// When the name is taken, or name or password cannot be.
    pub async fn create_user(
        &self,
        caller: Caller,
        (name, password, role): (&str, String, Role),
        request_id: String,
    ) -> Result<Stored<User>, Failure> {
        // Without the password: the fingerprint of a guessable secret is no better than the secret.
        let fingerprint = Fingerprint::of_bytes(format!("{name}\n{role:?}").as_bytes());
        let user = self.new_user("name", name, password, role).await?;
        self.change(move |tx| {
            match tx.request(&caller, "CreateUser", &request_id, fingerprint)? {
                Idempotency::Again(id) => return tx.get(&id),
                Idempotency::First => {}
            }
            let made = tx.insert(&user)?;
            tx.answer(&user.id)?;
            if is_administrator(&user) {
                // The first one may have been made on the local socket: then nobody else shall make the first.
                tx.set_meta(SETUP, "")?;
            }
            Ok(made)
        })
        .await
    }

    /// Changes a user.
    ///
    /// # Errors
    /// When there is none, it was changed meanwhile, or it is the last administrator.
    pub async fn update_user(&self, user: String, change: UserChange) -> Result<Stored<User>, Failure> {
        let expected = parse_etag(&change.etag)?;
        self.change(move |tx| {
            let before = tx.find::<User>(&user)?;
            let mut after = before.record.clone();
            after.role = change.role.unwrap_or(after.role);
            after.disabled = change.disabled.unwrap_or(after.disabled);
            keep_last_administrator(tx, &before.record, is_administrator(&after))?;
            tx.update(&after, expected)
        })
        .await
    }

    /// Sets a password, and ends the user's sessions.
    ///
    /// # Errors
    /// When the caller may not, or the old password is needed and does not fit.
    pub async fn set_password(
        &self,
        (caller, peer): (&Caller, &Peer),
        user: String,
        (password, old): (String, String),
    ) -> Result<User, Refused> {
        let named = user.clone();
        let own = self.own_user(caller).await?;
        let target = self.shared.store.read(move |tx| tx.lookup::<User>(&named)).await?.map(|stored| stored.record);
        let is_own = own.is_some() && own.as_ref().map(|u| &u.id) == target.as_ref().map(|u| &u.id);
        if !is_own && caller.role < Role::Admin {
            let message = format!("{} may only set the own password", caller.name);
            return Err(Failure::new(FailureKind::PermissionDenied, message).into());
        }
        let target = target.ok_or_else(|| Failure::not_found(ResourceKind::User, &user))?;
        if is_own {
            self.guess(Some(target.name.as_str()), peer)?;
            if !self.shared.passwords.fits(old, Some(target.password_hash.clone())).await? {
                AuthCounters::add(&self.shared.counters.failed_logins);
                let message = "old_password is not the password as it is now";
                return Err(Failure::new(FailureKind::PermissionDenied, message).into());
            }
            self.guessed_right(Some(target.name.as_str()), peer);
        }
        let hash = self.shared.passwords.hash("password", password).await?;
        let id = target.id;
        let changed = self.change(move |tx| {
            let user = tx.get::<User>(&id)?.record;
            let user = tx.update(&User { password_hash: hash, ..user }, None)?.record;
            for token in tokens_of(tx, &id)?.into_iter().filter(|token| token.kind == TokenKind::Session) {
                tx.delete::<Token>(&token.id, None)?;
            }
            Ok(user)
        });
        Ok(changed.await?)
    }

    /// Removes a user with all tokens.
    ///
    /// # Errors
    /// When there is none, or it is the last administrator.
    pub async fn delete_user(&self, user: String) -> Result<User, Failure> {
        self.change(move |tx| {
            let user = tx.find::<User>(&user)?.record;
            keep_last_administrator(tx, &user, false)?;
            for token in tokens_of(tx, &user.id)? {
                tx.delete::<Token>(&token.id, None)?;
            }
            Ok(tx.delete::<User>(&user.id, None)?.record)
        })
        .await
    }

    /// A page of API tokens with their users' names: all for an administrator, else the caller's own.
    pub async fn tokens(&self, caller: &Caller, page: Page) -> Result<PageOf<(Stored<Token>, String)>, Failure> {
        let own = self.own_user(caller).await?.map(|user| user.id);
        let all = caller.role == Role::Admin;
        self.shared
            .store
            .read(move |tx| {
                let users: std::collections::HashMap<Id, String> = tx
                    .all::<User>()?
                    .into_iter()
                    .map(|stored| (stored.record.id, stored.record.name.to_string()))
                    .collect();
                let mine = |token: &Token| all || own.as_ref() == Some(&token.user);
                let found = tx.list::<Token>(&page, |token| token.kind == TokenKind::Api && mine(token))?;
                Ok(found.map(|token| {
                    let user = users.get(&token.record.user).cloned().unwrap_or_default();
                    (token, user)
                }))
            })
            .await
    }

    /// Makes an API token for the caller; returns it with its secret and its user's name.
    ///
    /// # Errors
    /// When the caller is no user, asks for more than it may do, or for a time that is over.
    pub async fn create_token(
        &self,
        caller: &Caller,
        (label, role): (String, Option<Role>),
        expires: Option<Time>,
    ) -> Result<(Stored<Token>, String, String), Failure> {
        let no_user =
            || Failure::precondition(format!("{} is no user: log in as the user whose token it shall be", caller.name));
        let user = self.own_user(caller).await?.ok_or_else(no_user)?;
        let role = role.unwrap_or(caller.role);
        if role > caller.role {
            let message = "The token would be allowed more than you are: ask for a smaller role";
            return Err(Failure::new(FailureKind::PermissionDenied, message));
        }
        if label.is_empty() || label.len() > LABEL || label.chars().any(char::is_control) {
            return Err(Failure::invalid(
                "name",
                label,
                "is no name for a token: say in 1 to 128 bytes what it is for",
            ));
        }
        if let Some(over) = expires.filter(|expires| *expires <= Time::now()) {
            return Err(Failure::invalid("expire_time", over, "is over already"));
        }
        let secret = Secret::token()?;
        let token = Token {
            id: Id::new(),
            label,
            user: user.id,
            role,
            kind: TokenKind::Api,
            hash: secret.hash().to_hex(),
            expires,
            last_used: None,
        };
        let made = self.change(move |tx| {
            let present = tokens_of(tx, &token.user)?.iter().filter(|t| t.kind == TokenKind::Api).count();
            if present >= API_TOKENS {
                return Err(Failure::exhausted(format!("There are {present} tokens of this user: delete some")));
            }
            tx.insert(&token)
        });
        Ok((made.await?, secret.reveal().to_owned(), user.name.to_string()))
    }

    /// Makes a token worthless: one's own, or as administrator anybody's.
    ///
    /// # Errors
    /// When there is none that the caller may see.
    pub async fn delete_token(&self, caller: &Caller, token: String) -> Result<Token, Failure> {
        let own = self.own_user(caller).await?.map(|user| user.id);
        let all = caller.role == Role::Admin;
        self.change(move |tx| match tx.lookup::<Token>(&token)?.map(|stored| stored.record) {
            Some(found) if found.kind == TokenKind::Api && (all || own.as_ref() == Some(&found.user)) => {
                Ok(tx.delete::<Token>(&found.id, None)?.record)
            }
            _ => Err(Failure::not_found(ResourceKind::Token, &token)),
        })
        .await
    }

    /// The user that the caller's token belongs to; `None` on the local socket.
    async fn own_user(&self, caller: &Caller) -> Result<Option<User>, Failure> {
        let Some(token) = caller.token_id.clone() else { return Ok(None) };
        let find = move |tx: &ReadTx<'_>| match tx.lookup::<Token>(token.as_str())? {
            Some(token) => Ok(Some(tx.get::<User>(&token.record.user)?.record)),
            None => Ok(None),
        };
        self.shared.store.read(find).await
    }

    async fn new_user(&self, field: &str, name: &str, password: String, role: Role) -> Result<User, Failure> {
        let name = Name::parse(field, name)?;
        let password_hash = self.shared.passwords.hash("password", password).await?;
        Ok(User { id: Id::new(), name, role, disabled: false, password_hash, last_login: None })
    }

    /// Changes the store, and takes the change over before anybody is answered.
    async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&WriteTx<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        // In a task of its own: a caller that goes away must not leave a change that calls do not know of yet.
        let auth = self.clone();
        let work = tokio::spawn(async move {
            let _change = auth.shared.changes.lock().await;
            let value = auth.shared.store.write(change).await?;
            auth.refresh().await?;
            Ok(value)
        });
        work.await.map_err(|error| Failure::internal("A change of users ended early", error))?
    }

    fn guess(&self, name: Option<&str>, peer: &Peer) -> Result<(), Refused> {
        self.shared.guesses.attempt(name, peer.network(), Instant::now()).map_err(|wait| {
            AuthCounters::add(&self.shared.counters.limited_logins);
            Refused::TooOften(wait)
        })
    }

    fn guessed_right(&self, name: Option<&str>, peer: &Peer) {
        self.shared.guesses.succeeded(name, peer.network(), Instant::now());
    }
}

/// A new session of a user, in place of those that are over.
fn begin_session(tx: &WriteTx<'_>, user: &Id) -> Result<Login, Failure> {
    let now = Time::now();
    let expires = Time::from_micros(now.micros().saturating_add(SESSION.as_micros() as i64));
    for over in tx.all::<Token>()?.iter().map(|t| &t.record).filter(|t| t.expires.is_some_and(|e| e <= now)) {
        tx.delete::<Token>(&over.id, None)?;
    }
    let sessions: Vec<_> = tokens_of(tx, user)?.into_iter().filter(|t| t.kind == TokenKind::Session).collect();
    for oldest in sessions.iter().take((sessions.len() + 1).saturating_sub(SESSIONS)) {
        tx.delete::<Token>(&oldest.id, None)?;
    }
    let secret = Secret::token()?;
    let found = tx.get::<User>(user)?;
    if found.record.disabled {
        return Err(Failure::new(FailureKind::Unauthenticated, "The user may not log in any more"));
    }
    tx.note(&User { last_login: Some(now), ..found.record.clone() })?;
    tx.insert(&Token {
        id: Id::new(),
        label: String::new(),
        user: user.clone(),
        // A session goes with the user's role, whatever that becomes.
        role: Role::Admin,
        kind: TokenKind::Session,
        hash: secret.hash().to_hex(),
        expires: Some(expires),
        last_used: Some(now),
    })?;
    Ok(Login { secret: secret.reveal().to_owned(), expires, user: tx.get(user)? })
}

fn tokens_of(tx: &ReadTx<'_>, user: &Id) -> Result<Vec<Token>, Failure> {
    let all = tx.all::<Token>()?.into_iter().map(|stored| stored.record);
    Ok(all.filter(|token| token.user == *user).collect())
}

fn administrators(tx: &ReadTx<'_>) -> Result<usize, Failure> {
    Ok(tx.all::<User>()?.iter().filter(|user| is_administrator(&user.record)).count())
}

fn keep_last_administrator(tx: &ReadTx<'_>, before: &User, stays: bool) -> Result<(), Failure> {
    if is_administrator(before) && !stays && administrators(tx)? == 1 {
        let message = format!("{} is the last administrator: make another one first", before.name);
        return Err(Failure::precondition(message));
    }
    Ok(())
}
