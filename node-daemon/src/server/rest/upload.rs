//! `POST /v1/images:upload`: the query describes the image, the body is its bytes. They are passed on as they come, never
//! kept; when the client breaks off, the call is dropped, and with it what was half-made.

use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, StatusCode, header};
use prost::Message;
use prost_reflect::DynamicMessage;
use quantix_api::json::POOL;
use quantix_api::v1::{ImageDescription, UploadImageRequest, upload_image_request::Part};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::problem::Problem;
use super::{Asker, Rest, binding, expect_type, json_body, method, to_json};

/// Bytes of a message of the stream.
const CHUNK: usize = 256 << 10;
/// The next bytes must come within this time.
const STALL: Duration = Duration::from_mins(1);

/// Takes an upload.
///
/// # Errors
/// What is wrong with the description, what `UploadImage` says, or that the body broke off.
pub async fn upload(rest: &Rest, asker: Asker, request: Request<Body>) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    expect_type(&parts, "application/octet-stream")?;
    let descriptor = POOL
        .get_message_by_name("quantix.node.v1.ImageDescription")
        .ok_or_else(|| Status::internal("The API has no ImageDescription"))?;
    let description = binding::from_query(descriptor, parts.uri.query().unwrap_or_default())?;
    let mut description: ImageDescription =
        description.transcode_to().map_err(|e| Status::internal(format!("The description cannot be read: {e}")))?;
    let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if let (0, Some(length)) = (description.size_bytes, length) {
        // So that a body that breaks off is noticed in any case.
        description.size_bytes = length;
    }
    let (chunks, stream) = mpsc::channel(4);
    let upload = method("quantix.node.v1.ImageService", "UploadImage")?;
    // Outlives `call`: while it is held the stream has no end, or what came would be taken for the whole.
    let mut held = None;
    let mut call = pin!(rest.methods.converse(&upload, &asker, ReceiverStream::new(stream)));
    let mut feed = pin!(async move {
        match feed(body, description, &chunks).await {
            Ok(()) => Ok(()),
            Err(problem) => Err((problem, chunks)),
        }
    });
    let mut fed = false;
    let response = loop {
        tokio::select! {
            answer = &mut call => break answer?,
            end = &mut feed, if !fed => match end {
                Ok(()) => fed = true,
                Err((problem, chunks)) => {
                    held.replace(chunks);
                    return Err(problem);
                }
            },
        }
    };
    let mut answers = response.into_inner();
    let answer = answers.message().await?.ok_or_else(|| Status::internal("UploadImage ended without an answer"))?;
    let image = DynamicMessage::decode(upload.output(), answer)
        .map_err(|e| Status::internal(format!("UploadImage answered what cannot be read: {e}")))?;
    Ok(json_body(&to_json(&image)?).into_response())
}

/// Sends the description and then the body. Ends early when nobody listens any more: the call's answer says why.
async fn feed(body: Body, description: ImageDescription, chunks: &mpsc::Sender<Bytes>) -> Result<(), Problem> {
    let message = |part| Bytes::from(UploadImageRequest { part: Some(part) }.encode_to_vec());
    if chunks.send(message(Part::Description(description))).await.is_err() {
        return Ok(());
    }
    let mut body = body.into_data_stream();
    loop {
        let data = match tokio::time::timeout(STALL, body.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(data))) => data,
            Ok(Some(Err(e))) => {
                let text = format!("The body did not come whole: {e}");
                return Err(Problem::request(StatusCode::BAD_REQUEST, Code::InvalidArgument, text));
            }
            Err(_) => {
                let text = format!("No bytes came for {} s", STALL.as_secs());
                return Err(Problem::request(StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, text));
            }
        };
        for chunk in data.chunks(CHUNK) {
            if chunks.send(message(Part::Data(chunk.to_vec()))).await.is_err() {
                return Ok(());
            }
        }
    }
}
