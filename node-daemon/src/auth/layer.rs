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
use super::{AuditNote, Auth, AuthCounters, Peer, subject};
use crate::model::{Caller, Failure, FailureKind, NewAudit, ResourceRef, Role, Time};

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
    let mut call = Call { rule, peer, caller: None };
    if let Err(failure) = auth.admit(&mut call, request.headers()) {
        let status = Status::from(failure);
        if let Some(entry) = auth.entry(&call, String::new(), Some(&status), None) {
            auth.write(entry).await;
        }
        return status.into_http();
    }
    let unanswered = rule.audited.then(|| Unanswered::new(&auth, &call));
    let response = if let Some(caller) = &call.caller {
        request.extensions_mut().insert(caller.clone());
        next.run(request).await
    } else {
        let answer = tokio::time::timeout(PUBLIC_TIME, next.run(request)).await;
        answer.unwrap_or_else(|_| Status::deadline_exceeded("The request did not come whole in time").into_http())
    };
    let Some(unanswered) = unanswered else { return response };
    let response = auth.answered(&call, note.take_user(), response).await;
    unanswered.over();
    response
}

/// A call that may change something and has no entry yet. When its caller goes away, it is dropped with all that ran for
/// it, and what it had changed by then must not be without an entry.
struct Unanswered {
    auth: Auth,
    entry: Option<NewAudit>,
}

impl Unanswered {
    fn new(auth: &Auth, call: &Call) -> Self {
        let gone = Status::cancelled("The caller went away before the answer");
        // Without a login only Setup and Login change anything, and both end in one transaction of the room itself.
        let known = call.caller.is_some();
        Self { auth: auth.clone(), entry: known.then(|| auth.entry(call, String::new(), Some(&gone), None)).flatten() }
    }

    fn over(mut self) {
        self.entry = None;
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        if let Some(entry) = self.entry.take() {
            let auth = self.auth.clone();
            tokio::spawn(async move { auth.write(entry).await });
        }
    }
}

/// A call on its way.
struct Call {
    rule: &'static Rule,
    peer: Peer,
    /// Who asked, when that is known.
    caller: Option<Caller>,
}

impl Auth {
    /// Finds out who asks, if that matters, and whether they may.
    fn admit(&self, call: &mut Call, headers: &HeaderMap) -> Result<(), Failure> {
        let least = match call.rule.access {
            Access::Public => return Ok(()),
            Access::LoggedIn | Access::Viewer => Role::Viewer,
            Access::Operator => Role::Operator,
            Access::Admin => Role::Admin,
        };
        let caller = call.caller.insert(self.identify(&call.peer, headers)?);
        if caller.role >= least {
            return Ok(());
        }
        AuthCounters::add(&self.shared.counters.denied);
        let message = format!("{} is {}, and this needs {}", caller.name, titled(caller.role), titled(least));
        Err(Failure::new(FailureKind::PermissionDenied, message))
    }

    fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Failure> {
        let unknown = |message: &str| {
            AuthCounters::add(&self.shared.counters.unauthenticated);
            Failure::new(FailureKind::Unauthenticated, message)
        };
        let identities = self.identities();
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return match peer {
                Peer::Local { uid } if *uid == 0 || *uid == self.shared.own_uid => {
                    Ok(Caller { name: format!("uid:{uid}"), role: Role::Admin, token_id: None, peer: peer.to_string() })
                }
                _ if !identities.has_administrator() => Err(unknown(
                    "There is no administrator yet: call Setup with the token that the first start printed",
                )),
                _ => Err(unknown("Nobody is logged in: send the header authorization: Bearer TOKEN")),
            };
        };
        let secret = value
            .to_str()
            .ok()
            .and_then(|v| v.split_once(' '))
            .and_then(|(scheme, secret)| scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim()));
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

    /// The entry of a call; `None` when nobody known was refused too often to have one each.
    fn entry(
        &self,
        call: &Call,
        tried: String,
        failed: Option<&Status>,
        resource: Option<ResourceRef>,
    ) -> Option<NewAudit> {
        let mut message = failed.map(|status| status.message().to_owned()).unwrap_or_default();
        if call.caller.is_none() && failed.is_some() {
            // Whoever is not known could fill the log: so many a minute, with a count of the rest.
            let held = self.shared.refusals.pass(Instant::now())?;
            if held > 0 {
                message = format!("{message} (and {held} refusals before it that have no entry)");
            }
        }
        Some(NewAudit {
            user: call.caller.as_ref().map_or(tried, |c| c.name.clone()),
            token_id: call.caller.as_ref().and_then(|c| c.token_id.clone()),
            peer: call.peer.to_string(),
            method: call.rule.method.into(),
            resource,
            code: failed.map_or(0, |status| status.code().into()),
            message,
        })
    }

    async fn write(&self, entry: NewAudit) -> bool {
        match self.shared.store.write(move |tx| tx.audit(&entry)).await {
            Ok(()) => true,
            Err(failure) => {
                tracing::error!("A call could not be written to the audit log: {}", failure.chain());
                false
            }
        }
    }

    /// Writes the entry of a call that a handler has answered.
    async fn answered(&self, call: &Call, tried: String, response: Response) -> Response {
        // A handler's failure is in the head: there is no message before it.
        let failed = Status::from_header_map(response.headers()).filter(|status| status.code() != Code::Ok);
        let streams = call.rule.method.ends_with("/ConsoleVm");
        let (resource, response) = match failed {
            None if !streams => subject::read(call.rule.method, response).await,
            _ => (None, response),
        };
        let Some(entry) = self.entry(call, tried, failed.as_ref(), resource) else { return response };
        if self.write(entry).await {
            return response;
        }
        // The change is made; that nobody can read of it must not stay unseen.
        Status::internal("The call was made, but the audit log could not be written").into_http::<Body>()
    }
}

fn titled(role: Role) -> &'static str {
    match role {
        Role::Viewer => "a viewer",
        Role::Operator => "an operator",
        Role::Admin => "an administrator",
    }
}
