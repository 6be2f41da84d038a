//! WebSockets: server streams as text frames, and the console as binary frames both ways. The method is called before the
//! upgrade, so that a refusal is an ordinary HTTP answer.

use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message as Frame, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::Bytes;
use http::{Request, StatusCode, header, request::Parts};
use prost::Message;
use prost_reflect::MethodDescriptor;
use quantix_api::v1::{ConsoleInput, ConsoleOutput};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};

use super::problem::Problem;
use super::template::Captures;
use super::watch::{self, Next};
use super::{Asker, Rest, method};

/// A ping when nothing was sent for so long; two without an answer end the connection.
const PING: Duration = Duration::from_secs(20);
/// A frame from a client may be so long: nobody types more at once.
const FRAME_LIMIT: usize = 1 << 20;
/// A close frame's reason has at most 123 bytes.
const REASON_LIMIT: usize = 123;

/// The client asks for a WebSocket.
pub fn is_upgrade(parts: &Parts) -> bool {
    parts.headers.get(header::UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Sends a server stream as text frames.
///
/// # Errors
/// When the upgrade is none, or there are too many WebSockets.
pub async fn watch(
    rest: &Rest,
    method: &MethodDescriptor,
    stream: Streaming<Bytes>,
    parts: &mut Parts,
) -> Result<Response, Problem> {
    let (upgrade, permit) = prepare(rest, parts).await?;
    let (output, closing) = (method.output(), rest.closing.clone());
    Ok(upgrade.on_upgrade(async move |mut socket| {
        let mut stream = stream;
        let _permit = permit;
        let mut pulse = Pulse::default();
        loop {
            tokio::select! {
                next = watch::next(&output, &mut stream, &closing) => match next {
                    Next::Document(json) => if socket.send(Frame::Text(json.into())).await.is_err() { return },
                    Next::End(None) => return close(socket, close_code::NORMAL, "").await,
                    Next::End(Some(error)) => {
                        if socket.send(Frame::Text(error.into())).await.is_ok() {
                            close(socket, close_code::ERROR, "the stream broke off").await;
                        }
                        return;
                    }
                },
                frame = socket.recv() => match frame {
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => pulse.heard(),
                },
                () = pulse.wait() => if !pulse.ping(&mut socket).await { return },
            }
        }
    }))
}

/// Connects a WebSocket with a VM's serial console.
///
/// # Errors
/// What `ConsoleVm` says, or that the request is no WebSocket.
pub async fn console(
    rest: &Rest,
    captures: Captures,
    asker: Asker,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    if let Some(query) = parts.uri.query().filter(|q| !q.is_empty()) {
        let name = query.split(['=', '&']).next().unwrap_or_default();
        return Err(Problem::field(name, "the console takes no query"));
    }
    let vm = captures.into_iter().next().map(|(_, vm)| vm).unwrap_or_default();
    if !is_upgrade(&parts) {
        return Err(no_websocket("there is no header Upgrade: websocket"));
    }
    let (typed, inputs) = mpsc::channel::<Bytes>(16);
    let first = ConsoleInput { vm, data: Vec::new() };
    let inputs = tokio_stream::StreamExt::chain(
        tokio_stream::once(Bytes::from(first.encode_to_vec())),
        ReceiverStream::new(inputs),
    );
    let console = method("quantix.node.v1.VmService", "ConsoleVm")?;
    let output = rest.methods.converse(&console, &asker, inputs).await?.into_inner();
    let (upgrade, permit) = prepare(rest, &mut parts).await?;
    let closing = rest.closing.clone();
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _permit = permit;
        relay(socket, typed, output, closing).await;
    }))
}

/// Carries bytes between a WebSocket and a console until one of them ends.
async fn relay(
    mut socket: WebSocket,
    typed: mpsc::Sender<Bytes>,
    mut output: Streaming<Bytes>,
    closing: CancellationToken,
) {
    let mut pulse = Pulse::default();
    loop {
        tokio::select! {
            () = closing.cancelled() => return close(socket, close_code::AWAY, "the node is going down").await,
            message = output.message() => match message {
                Ok(Some(bytes)) => match ConsoleOutput::decode(bytes) {
                    Ok(output) if output.data.is_empty() => {}
                    Ok(output) => if socket.send(Frame::Binary(output.data.into())).await.is_err() { return },
                    Err(e) => return close(socket, close_code::ERROR, &e.to_string()).await,
                },
                Ok(None) => return close(socket, close_code::NORMAL, "").await,
                Err(status) => return close(socket, close_code::ERROR, status.message()).await,
            },
            frame = socket.recv() => {
                let data = match frame {
                    Some(Ok(Frame::Binary(data))) => data,
                    Some(Ok(Frame::Text(text))) => text.into(),
                    Some(Ok(Frame::Close(_)) | Err(_)) | None => return,
                    Some(Ok(_)) => { pulse.heard(); continue }
                };
                pulse.heard();
                let input = ConsoleInput { vm: String::new(), data: data.into() };
                // When the console is slow, this waits and with it the client; when it is gone, `output` says so.
                let sent = tokio::time::timeout(PING, typed.send(Bytes::from(input.encode_to_vec()))).await;
                if sent.is_err() {
                    return close(socket, close_code::AGAIN, "the console does not take what is typed").await;
                }
            }
            () = pulse.wait() => if !pulse.ping(&mut socket).await { return },
        }
    }
}

async fn prepare(rest: &Rest, parts: &mut Parts) -> Result<(WebSocketUpgrade, OwnedSemaphorePermit), Problem> {
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &())
        .await
        .map_err(|rejected| no_websocket(rejected.body_text().trim_end_matches('.')))?;
    let permit = rest.websockets.clone().try_acquire_owned().map_err(|_| {
        let text = format!("All {} WebSockets of this node are in use", super::WEBSOCKETS);
        Problem::request(StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, text)
    })?;
    let upgrade = upgrade.protocols(["bearer"]).max_message_size(FRAME_LIMIT).max_frame_size(FRAME_LIMIT);
    Ok((upgrade, permit))
}

fn no_websocket(why: &str) -> Problem {
    let text = format!("This is a WebSocket, and the request is none: {why}");
    Problem::request(StatusCode::UPGRADE_REQUIRED, Code::InvalidArgument, text)
}

async fn close(mut socket: WebSocket, code: u16, reason: &str) {
    let mut end = reason.len().min(REASON_LIMIT);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let frame = CloseFrame { code, reason: reason[..end].into() };
    // The client may be gone already: then there is nobody to tell.
    let _ = tokio::time::timeout(PING, socket.send(Frame::Close(Some(frame)))).await;
}

/// Finds clients that are gone without a word.
#[derive(Default)]
struct Pulse {
    unanswered: u32,
}

impl Pulse {
    fn heard(&mut self) {
        self.unanswered = 0;
    }

    async fn wait(&self) {
        tokio::time::sleep(PING).await;
    }

    /// False when the client does not answer any more.
    async fn ping(&mut self, socket: &mut WebSocket) -> bool {
        self.unanswered += 1;
        self.unanswered <= 2 && socket.send(Frame::Ping(Bytes::new())).await.is_ok()
    }
}
