//! The layer around all services: finds out who asks, whether they may, lets the call through or refuses it, and writes the
//! audit log. Async runtime. What it lets through has a `Caller` in its extensions, unless everybody may call it.

use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, header};
use tonic::{Code, Status};

use super::identities::Unusable;
use super::policy::{self, Access, Rule};
use super::{Auth, AuditNote, AuthCounters, Peer, subject};
use crate::model::{Caller, Failure, FailureKind, NewAudit, Role, Time};

/// Whoever has not logged in gets an answer begun within this time, or none: nobody holds a call with a body that never
/// comes.
const PUBLIC_TIME: Duration = Duration::from_secs(30);

/// The layer, as a middleware of axum with the room as its state.
pub async fn guard(State(auth): State<Auth>, mut request: Request, next: Next) -> Response {
    let Some(rule) = policy::of(request.uri().path().trim_start_matches('/')) else {
        // There is no such method; the router says so.
        return next.run(request).await;
    };
    let Some(peer) = request.extensions().get::<Peer>().cloned() else {
        return Status::internal("The listener did not say who is asking").into_http();
    };
    let note = AuditNote::default();
    request.extensions_mut().insert(note.clone());
    let caller = match auth.caller(rule, &peer, request.headers()) {
        Ok(caller) => caller,
        Err(refused) => {
            let status = Status::from(refused.failure);
            auth.refused(rule, &peer, refused.caller.as_ref(), &status).await;
            return status.into_http();
        }
    };
    let response = match &caller {
        Some(caller) => {
            request.extensions_mut().insert(caller.clone());
            next.run(request).await
        }
        None => match tokio::time::timeout(PUBLIC_TIME, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Status::deadline_exceeded("The request did not come whole in time").into_http(),
        },
    };
    if rule.audited { auth.let_through(rule, &peer, caller.as_ref(), &note, response).await } else { response }
}

/// A call that may not be made.
struct Refusal {
    failure: Failure,
    /// Who asked, when that is known.
    caller: Option<Caller>,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self { failure, caller: None }
    }
}

impl Auth {
    /// Who asks, if they may; `None` when everybody may.
    fn caller(&self, rule: &Rule, peer: &Peer, headers: &HeaderMap) -> Result<Option<Caller>, Refusal> {
        let least = match rule.access {
            Access::Public => return Ok(None),
            Access::LoggedIn | Access::Viewer => Role::Viewer,
            Access::Operator => Role::Operator,
            Access::Admin => Role::Admin,
        };
        let caller = self.identify(peer, headers)?;
        if caller.role >= least {
            return Ok(Some(caller));
        }
        AuthCounters::add(&self.shared.counters.denied);
        let message = format!("{} is {}, and this needs {}", caller.name, titled(caller.role), titled(least));
        Err(Refusal { failure: Failure::new(FailureKind::PermissionDenied, message), caller: Some(caller) })
    }

    fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Failure> {
        let unknown = |message: &str| {
            AuthCounters::add(&self.shared.counters.unauthenticated);
            Failure::new(FailureKind::Unauthenticated, message)
        };
        let identities = self.identities();
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return match peer {
                Peer::Local { uid } if *uid == 0 || *uid == self.shared.own_uid => Ok(Caller {
                    name: format!("uid:{uid}"),
                    role: Role::Admin,
                    token_id: None,
                    peer: peer.to_string(),
                }),
                _ if !identities.has_administrator() => {
                    Err(unknown("There is no administrator yet: call Setup with the token that the first start printed"))
                }
                _ => Err(unknown("Nobody is logged in: send the header authorization: Bearer TOKEN")),
            };
        };
        let secret = value.to_str().ok().and_then(|v| v.split_once(' ')).and_then(|(scheme, secret)| {
            scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
        });
        let secret = secret.ok_or_else(|| unknown("The header authorization is not Bearer TOKEN"))?;
        let now = Time::now();
        let identity = identities.of(secret, now).map_err(|why| {
            unknown(match why {
                Unusable::Unknown => "The token is not known here, or was deleted: log in again",
                Unusable::Expired => "The token's time is over: log in again",
                Unusable::Disabled => "The token's user may not log in any more: ask an administrator",
            })
        })?;
        self.note_use(identity, now);
        Ok(Caller {
            name: identity.name.clone(),
            role: identity.role,
            token_id: Some(identity.token.clone()),
            peer: peer.to_string(),
        })
    }

    /// Writes the entry of a refusal.
    async fn refused(&self, rule: &Rule, peer: &Peer, caller: Option<&Caller>, status: &Status) {
        let mut message = status.message().to_owned();
        if caller.is_none() {
            // Whoever is not known could fill the log: a bounded number an hour, with a count of the rest.
            match self.shared.refusals.pass(Instant::now()) {
                None => return,
                Some(0) => {}
                Some(held) => message = format!("{message} (and {held} refusals before it that have no entry)"),
            }
        }
        let entry = NewAudit {
            user: caller.map(|c| c.name.clone()).unwrap_or_default(),
            token_id: caller.and_then(|c| c.token_id.clone()),
            peer: peer.to_string(),
            method: rule.method.into(),
            resource: None,
            code: status.code().into(),
            message,
        };
        if let Err(failure) = self.shared.store.write(move |tx| tx.audit(&entry)).await {
            tracing::error!("A refusal could not be written to the audit log: {}", failure.chain());
        }
    }

    /// Writes the entry of a call that a handler has answered.
    async fn let_through(
        &self,
        rule: &Rule,
        peer: &Peer,
        caller: Option<&Caller>,
        note: &AuditNote,
        response: Response,
    ) -> Response {
        // A handler's failure is in the head: there is no message before it.
        let failed = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok);
        let user = caller.map_or_else(|| note.take_user(), |c| c.name.clone());
        let (resource, response) = match failed {
            None if !rule.method.ends_with("/ConsoleVm") => subject::read(rule.method, response).await,
            _ => (None, response),
        };
        let mut message = failed.as_ref().map(|s| s.message().to_owned()).unwrap_or_default();
        if caller.is_none() && failed.is_some() {
            match self.shared.refusals.pass(Instant::now()) {
                None => return response,
                Some(0) => {}
                Some(held) => message = format!("{message} (and {held} refusals before it that have no entry)"),
            }
        }
        let entry = NewAudit {
            user,
            token_id: caller.and_then(|c| c.token_id.clone()),
            peer: peer.to_string(),
            method: rule.method.into(),
            resource,
            code: failed.as_ref().map_or(0, |s| s.code().into()),
            message,
        };
        match self.shared.store.write(move |tx| tx.audit(&entry)).await {
            Ok(()) => response,
            Err(failure) => {
                // The change is made; that nobody can read of it must not stay unseen.
                tracing::error!("A call could not be written to the audit log: {}", failure.chain());
                Status::internal("The call was made, but the audit log could not be written").into_http::<Body>()
            }
        }
    }
}

fn titled(role: Role) -> &'static str {
    match role {
        Role::Viewer => "a viewer",
        Role::Operator => "an operator",
        Role::Admin => "an administrator",
    }
}
