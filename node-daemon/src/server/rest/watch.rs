//! Server streams over plain HTTP: one JSON document a line. When the stream breaks off, the last line says why:
//! `{"error": {code, message, details}}`.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, header};
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::problem::Problem;

/// One JSON document a line.
pub const CONTENT_TYPE: &str = "application/x-ndjson";

/// One document of a stream.
pub enum Next {
    /// A message as JSON.
    Document(String),
    /// The stream has ended; with the reason when it broke off.
    End(Option<String>),
}

/// The next message of a stream as JSON, or the reason why it broke off.
pub async fn next(output: &MessageDescriptor, stream: &mut Streaming<Bytes>, closing: &CancellationToken) -> Next {
    let going_down = || Err(Status::unavailable("The node is going down; come again in a moment"));
    let message = tokio::select! {
        () = closing.cancelled() => going_down(),
        // The stream's own end at the shutdown is no end of what it tells.
        message = stream.message() => match message {
            Ok(None) if closing.is_cancelled() => going_down(),
            message => message,
        },
    };
    let json = message.and_then(|bytes| match bytes {
        None => Ok(None),
        Some(bytes) => DynamicMessage::decode(output.clone(), bytes)
            .map_err(|e| Status::internal(format!("A message of the stream cannot be read: {e}")))
            .and_then(|m| super::to_json(&m))
            .map(Some),
    });
    match json {
        Ok(Some(json)) => Next::Document(json.to_string()),
        Ok(None) => Next::End(None),
        Err(status) => Next::End(Some(serde_json::json!({"error": Problem::from(status).json()}).to_string())),
    }
}

/// The whole stream as a response.
pub fn lines(output: MessageDescriptor, stream: Streaming<Bytes>, closing: CancellationToken) -> Response {
    let body = stream::unfold(Some(stream), move |state| {
        let (output, closing) = (output.clone(), closing.clone());
        async move {
            let mut stream = state?;
            let (line, rest) = match next(&output, &mut stream, &closing).await {
                Next::Document(json) => (json, Some(stream)),
                Next::End(Some(error)) => (error, None),
                Next::End(None) => return None,
            };
            Some((Ok::<_, std::convert::Infallible>(line + "\n"), rest))
        }
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
