//! What a call was done to, for the audit log. A handler may say it; else it is read from the answer, which is a task that
//! names its resource, or the resource itself.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use prost_reflect::{DynamicMessage, ReflectMessage as _};
use quantix_api::json::POOL;

use crate::model::{Id, ResourceKind, ResourceRef};

/// A handler puts it into the extensions of its response.
#[derive(Debug, Clone)]
pub struct AuditSubject(pub ResourceRef);

/// What a handler of a call without a login adds to the entry, also when it refuses. In the request's extensions.
#[derive(Debug, Clone, Default)]
pub struct AuditNote(Arc<Mutex<String>>);

impl AuditNote {
    /// Who tried.
    pub fn user(&self, name: &str) {
        // Nobody vouches for this name: keep it short.
        let name: String = name.chars().take(64).flat_map(char::escape_debug).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    /// Who tried.
    pub(super) fn take_user(&self) -> String {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Reads the subject from the one message of a unary answer, and hands the answer back as it was.
pub(super) async fn read(method: &str, response: Response) -> (Option<ResourceRef>, Response) {
    if let Some(AuditSubject(subject)) = response.extensions().get() {
        return (Some(subject.clone()), response);
    }
    let (parts, body) = response.into_parts();
    let Ok(whole) = body.collect().await else {
        // In process this does not happen; the client sees a stream that broke off.
        return (None, Response::from_parts(parts, Body::empty()));
    };
    let trailers = whole.trailers().cloned();
    let bytes = whole.to_bytes();
    let subject = in_answer(method, &bytes);
    let body = Full::new(bytes).with_trailers(async move { trailers.map(Ok) });
    (subject, Response::from_parts(parts, Body::new(body)))
}

fn in_answer(method: &str, frame: &Bytes) -> Option<ResourceRef> {
    let (service, name) = method.split_once('/')?;
    let output = POOL.get_service_by_name(service)?.methods().find(|m| m.name() == name)?.output();
    // A frame of gRPC: a flag, four bytes of length, the message.
    let message = DynamicMessage::decode(output, frame.get(5..)?).ok()?;
    if let Some(value) = message.get_field_by_name("resource") {
        return reference(value.as_message()?, None);
    }
    let kind = message.descriptor().name().to_ascii_lowercase();
    reference(&message, Some(kind))
}

fn reference(message: &DynamicMessage, kind: Option<String>) -> Option<ResourceRef> {
    let text = |name| message.get_field_by_name(name)?.as_str().map(str::to_owned);
    let kind = kind.or_else(|| text("kind"))?;
    let kinds = [
        ResourceKind::Vm,
        ResourceKind::Volume,
        ResourceKind::Pool,
        ResourceKind::Image,
        ResourceKind::Network,
        ResourceKind::User,
        ResourceKind::Token,
        ResourceKind::Host,
        ResourceKind::Task,
    ];
    let kind = kinds.into_iter().find(|k| k.as_str() == kind)?;
    let id = Id::parse("id", &text("id")?).ok()?;
    Some(ResourceRef::new(kind, &id, text("name").unwrap_or_default()))
}
