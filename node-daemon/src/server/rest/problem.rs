//! Errors over HTTP: the `google.rpc.Status` of the gRPC call as canonical JSON, with the HTTP code that belongs to it.

use std::sync::LazyLock;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Descriptors of the error details, to write them as JSON.
static DETAILS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut pool = DescriptorPool::global();
    pool.decode_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .expect("the details' descriptors are part of this program");
    pool
});

/// An answer that says why not.
#[derive(Debug)]
pub struct Problem {
    http: StatusCode,
    status: Status,
    allow: Option<String>,
}

impl Problem {
    /// A field of the request has a value that cannot be taken.
    pub fn field(field: &str, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        let details = ErrorDetails::with_bad_request_violation(field, reason.clone());
        Status::with_error_details(Code::InvalidArgument, format!("{field}: {reason}"), details).into()
    }

    /// The request as a whole cannot be taken.
    pub fn request(http: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { http, status: Status::new(code, message), allow: None }
    }

    /// Nothing is at this path.
    pub fn no_such_path(path: &str) -> Self {
        Self::request(StatusCode::NOT_FOUND, Code::NotFound, format!("There is nothing at {path}; see /openapi.json"))
    }

    /// The path is there, for these verbs.
    pub fn other_verbs(verb: &http::Method, allow: String) -> Self {
        let message = format!("{verb} is not possible here, but {allow}");
        Self { allow: Some(allow), ..Self::request(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, message) }
    }

    /// The `google.rpc.Status` as canonical JSON.
    pub fn json(&self) -> Value {
        json!({
            "code": i32::from(self.status.code()),
            "message": self.status.message(),
            "details": details(&self.status),
        })
    }
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        Self { http: http_code(status.code()), status, allow: None }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.http, super::json_body(&self.json())).into_response();
        let headers = response.headers_mut();
        if let Some(allow) = self.allow.as_ref().and_then(|a| HeaderValue::from_str(a).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        if self.http == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"quantix\""));
        }
        if let Some(delay) = self.status.get_details_retry_info().and_then(|info| info.retry_delay) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
        }
        response
    }
}

/// The HTTP code that stands for a code of gRPC, as in google/rpc/code.proto.
pub fn http_code(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        // 499, which has no name.
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal | Code::Unknown | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Details as JSON, each with its `@type`. Details of a type that nobody here knows are left out: they could not be read.
fn details(status: &Status) -> Vec<Value> {
    let Ok(packed) = tonic_types::pb::Status::decode(status.details()) else {
        return Vec::new();
    };
    let options = SerializeOptions::new();
    packed
        .details
        .iter()
        .filter_map(|any| {
            let message = DETAILS.get_message_by_name(any.type_url.rsplit('/').next()?)?;
            let message = DynamicMessage::decode(message, any.value.as_slice()).ok()?;
            let mut value = message.serialize_with_options(serde_json::value::Serializer, &options).ok()?;
            value.as_object_mut()?.insert("@type".into(), Value::from(any.type_url.as_str()));
            Some(value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_json_with_their_type() {
        let json = Problem::field("spec.cpus.count", "must be at least 1").json();
        assert_eq!(json["code"], 3);
        assert_eq!(json["details"][0]["@type"], "type.googleapis.com/google.rpc.BadRequest");
        assert_eq!(json["details"][0]["fieldViolations"][0]["field"], "spec.cpus.count");
        assert_eq!(json["details"][0]["fieldViolations"][0]["description"], "must be at least 1");
    }

    #[test]
    fn a_refusal_says_how_to_log_in_and_when_to_come_again() {
        let response = Problem::from(Status::unauthenticated("who?")).into_response();
        assert_eq!(response.status(), 401);
        assert!(response.headers().contains_key(header::WWW_AUTHENTICATE));
        let details = ErrorDetails::with_retry_info(Some(std::time::Duration::from_secs(7)));
        let response =
            Problem::from(Status::with_error_details(Code::ResourceExhausted, "slow down", details)).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "7");
    }
}
