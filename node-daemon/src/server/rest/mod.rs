//! REST: one handler for all methods, made from the descriptors of the API. It turns a request into the method's message,
//! calls the method in process, and turns the answer into canonical JSON. It decides nothing.

mod binding;
#[cfg(test)]
mod binding_tests;
mod call;
mod problem;
pub mod routes;
mod template;
mod upload;
mod watch;
mod websocket;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

pub use call::{Asker, Methods};
pub use problem::{Problem, http_code};
use routes::{BodyRule, Found, Routes, Target};
use template::Captures;

use crate::auth::Peer;
use crate::model::Failure;

/// A JSON body may be so long; uploads are streamed and have no bound here.
const BODY_LIMIT: usize = 4 << 20;
/// A JSON body must be here within this time: nobody holds a connection with a body that never ends.
const BODY_TIME: Duration = Duration::from_mins(1);
/// WebSockets at a time: they have left the connection limit of the listener.
const WEBSOCKETS: usize = 256;

/// Writes the Prometheus text.
pub type MetricsText = Arc<dyn Fn() -> Result<String, Failure> + Send + Sync>;

/// What the REST handler needs.
pub struct Rest {
    routes: Routes,
    methods: Methods,
    metrics: MetricsText,
    openapi: Bytes,
    front: String,
    websockets: Arc<Semaphore>,
    /// Ends WebSockets and streams when the daemon goes down.
    closing: CancellationToken,
}

impl Rest {
    /// `methods` are the services behind the layer of `auth`.
    pub fn new(methods: Methods, metrics: MetricsText, closing: CancellationToken) -> Self {
        let routes = Routes::read();
        let openapi = Bytes::from(super::openapi::document(&routes).to_string());
        let front = format!(
            "Quantix node {}\n\n\
             REST and WebSocket  /v1/...  (see /openapi.json)\n\
             Prometheus          /metrics\n\
             gRPC                on its own port, with reflection\n\n\
             Command line: qx login\n",
            env!("CARGO_PKG_VERSION")
        );
        Self { routes, methods, metrics, openapi, front, websockets: Arc::new(Semaphore::new(WEBSOCKETS)), closing }
    }

    /// Answers one request.
    pub async fn answer(self: Arc<Self>, request: Request<Body>) -> Response {
        let head = request.method() == Method::HEAD;
        let response = self.dispatch(request).await.unwrap_or_else(IntoResponse::into_response);
        if !head {
            return response;
        }
        // Without the body, but as long as it would be.
        let length = http_body::Body::size_hint(response.body()).exact();
        let mut response = response.map(|_| Body::empty());
        if let Some(length) = length {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        response
    }

    async fn dispatch(self: Arc<Self>, request: Request<Body>) -> Result<Response, Problem> {
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return Err(Status::internal("The listener did not say who is asking").into());
        };
        let asker = Asker::of(peer, request.headers());
        let this = Arc::clone(&self);
        let (route, captures) = match this.routes.find(request.method(), request.uri().path()) {
            Found::Route(route, captures) => (route, captures),
            Found::OtherVerbs(allow) if request.method() == Method::OPTIONS => return Ok(allowed(&allow)),
            Found::OtherVerbs(allow) => return Err(Problem::other_verbs(request.method(), allow)),
            Found::Nothing => return Err(Problem::no_such_path(request.uri().path())),
            Found::NotText(refused) => return Err(Problem::field(&refused.field, refused.to_string())),
        };
        match &route.target {
            Target::Method(method, rule) => self.call((method, rule), captures, &asker, request).await,
            Target::Console => websocket::console(&self, captures, asker, request).await,
            Target::Upload => upload::upload(&self, asker, request).await,
            Target::OpenApi => Ok(text("application/json", self.openapi.clone())),
            Target::Metrics => {
                // Who may read them is decided where every role is. Whoever is logged in is at least a viewer.
                let who = method("quantix.node.v1.AuthService", "WhoAmI")?;
                self.methods.unary(&who, &asker, Bytes::new()).await?;
                let body = (self.metrics)().map_err(Status::from)?;
                Ok(text("application/openmetrics-text; version=1.0.0; charset=utf-8", body.into()))
            }
            Target::Front => Ok(text("text/plain; charset=utf-8", self.front.clone().into())),
        }
    }

    async fn call(
        &self,
        (method, rule): (&MethodDescriptor, &BodyRule),
        captures: Captures,
        asker: &Asker,
        request: Request<Body>,
    ) -> Result<Response, Problem> {
        let head = request.method() == Method::HEAD;
        let (mut parts, body) = request.into_parts();
        let body = read_body(&parts, body).await?;
        let query = parts.uri.query().unwrap_or_default();
        let values = binding::Parts { captures: &captures, query, body: &body };
        let message = Bytes::from(binding::assemble(method.input(), rule, &values)?.encode_to_vec());
        if method.is_server_streaming() {
            let stream = self.methods.watch(method, asker, message).await?;
            if head {
                return Ok(text(watch::CONTENT_TYPE, Bytes::new()));
            }
            if websocket::is_upgrade(&parts) {
                return websocket::watch(self, method, stream, &mut parts).await;
            }
            return Ok(watch::lines(method.output(), stream, self.closing.clone()));
        }
        let answer = self.methods.unary(method, asker, message).await?;
        let message = DynamicMessage::decode(method.output(), answer)
            .map_err(|e| Status::internal(format!("{} answered what cannot be read: {e}", method.full_name())))?;
        Ok(json_body(&to_json(&message)?).into_response())
    }
}

/// The whole body of a call whose body is JSON.
async fn read_body(parts: &http::request::Parts, body: Body) -> Result<Bytes, Problem> {
    let too_long = || {
        let text = format!("The body is longer than {BODY_LIMIT} bytes");
        Problem::request(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, text)
    };
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|l| l > BODY_LIMIT as u64) {
        return Err(too_long());
    }
    let collected = tokio::time::timeout(BODY_TIME, Limited::new(body, BODY_LIMIT).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<LengthLimitError>() => return Err(too_long()),
        Ok(Err(e)) => {
            let text = format!("The body did not come whole: {e}");
            return Err(Problem::request(StatusCode::BAD_REQUEST, Code::InvalidArgument, text));
        }
        Err(_) => {
            let text = format!("The body did not come within {} s", BODY_TIME.as_secs());
            return Err(Problem::request(StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, text));
        }
    };
    if !body.is_empty() {
        expect_type(parts, "application/json")?;
    }
    Ok(body)
}

/// Refuses a body of another type than `wanted`.
fn expect_type(parts: &http::request::Parts, wanted: &str) -> Result<(), Problem> {
    let given = parts.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case(wanted) {
        return Ok(());
    }
    let text = format!("The body must be {wanted}, but Content-Type says {given:?}");
    Err(Problem::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, text))
}

/// A message as this API writes JSON.
fn to_json(message: &DynamicMessage) -> Result<serde_json::Value, Status> {
    message
        .serialize_with_options(serde_json::value::Serializer, &quantix_api::json::options())
        .map_err(|e| Status::internal(format!("A message has no JSON form: {e}")))
}

fn json_body(value: &serde_json::Value) -> impl IntoResponse + use<> {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], value.to_string())
}

fn text(kind: &'static str, body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response()
}

fn allowed(allow: &str) -> Response {
    let allow = HeaderValue::from_str(allow).unwrap_or(HeaderValue::from_static("OPTIONS"));
    (StatusCode::NO_CONTENT, [(header::ALLOW, allow)]).into_response()
}

pub(super) fn method(service: &str, name: &str) -> Result<MethodDescriptor, Status> {
    let service = quantix_api::json::POOL.get_service_by_name(service);
    service
        .and_then(|s| s.methods().find(|m| m.name() == name))
        .ok_or_else(|| Status::internal(format!("The API has no method {name}")))
}
