//! A stand-in for a node, for tests of the client's own behaviour: it writes down which methods were called and answers what
//! the test says; where nothing is said, with one empty message. And a way to run the built `qx` against it.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use quantix_api::v1::upload_image_request::Part;
use quantix_api::v1::{Image, UploadImageRequest};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tonic::{Code, Status};

/// How long any command may take.
pub const DEADLINE: Duration = Duration::from_mins(1);

/// What a method answers.
#[derive(Clone)]
pub enum Answer {
    /// These messages, then the end.
    Messages(Vec<Bytes>),
    /// These messages, and no end.
    Endless(Vec<Bytes>),
    /// No.
    Refusal(Status),
    /// What was uploaded, as an image; with a changed checksum when so wanted.
    Upload {
        /// As if it had been changed on its way.
        damaged: bool,
    },
}

impl Answer {
    /// One message.
    pub fn one(message: &impl Message) -> Self {
        Self::Messages(vec![message.encode_to_vec().into()])
    }

    /// A refusal.
    pub fn no(code: Code, message: &str) -> Self {
        Self::Refusal(Status::new(code, message))
    }
}

/// What the node was asked.
#[derive(Clone, Default)]
pub struct Calls(Arc<Mutex<Vec<Call>>>);

/// One call.
#[derive(Clone)]
pub struct Call {
    /// Without service and package.
    pub method: String,
    /// The `authorization` header.
    pub authorization: Option<String>,
    /// What was sent, when the answer needed it: the first message.
    pub request: Bytes,
}

impl Calls {
    /// The methods, in order.
    pub fn methods(&self) -> Vec<String> {
        self.0.lock().unwrap().iter().map(|call| call.method.clone()).collect()
    }

    /// The last call of a method.
    pub fn last(&self, method: &str) -> Call {
        let calls = self.0.lock().unwrap();
        calls
            .iter()
            .rev()
            .find(|call| call.method == method)
            .cloned()
            .unwrap_or_else(|| panic!("{method} was not called"))
    }
}

/// A running stand-in.
pub struct Node {
    /// Where it listens, and where commands keep their files.
    pub directory: TempDir,
    /// What it was asked.
    pub calls: Calls,
    /// Its address over TLS, when it has one.
    pub address: Option<String>,
    _runtime: tokio::runtime::Runtime,
}

impl Node {
    /// Listens on a socket in a directory of its own.
    pub fn start(answers: impl IntoIterator<Item = (&'static str, Answer)>) -> Self {
        Self::start_with(answers, None)
    }

    /// The same, and over TLS with this configuration.
    pub fn start_with(
        answers: impl IntoIterator<Item = (&'static str, Answer)>,
        tls: Option<rustls::ServerConfig>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let desk = Desk { answers: Arc::new(answers.into_iter().collect()), calls: Calls::default() };
        let inside = runtime.enter();
        let socket = UnixListener::bind(directory.path().join("node.sock")).unwrap();
        let local = desk.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = socket.accept().await {
                tokio::spawn(local.clone().serve(stream));
            }
        });
        let address = tls.map(|config| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let listener = TcpListener::from_std(listener).unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let remote = desk.clone();
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (remote, acceptor) = (remote.clone(), acceptor.clone());
                    tokio::spawn(async move {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            remote.serve(stream).await;
                        }
                    });
                }
            });
            address
        });
        drop(inside);
        Self { directory, calls: desk.calls, address, _runtime: runtime }
    }

    /// Its address on this machine.
    pub fn socket(&self) -> String {
        format!("unix:{}", self.path("node.sock").display())
    }

    /// A file in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `qx` against its socket. Words are split at blanks; `{dir}` stands for its directory.
    pub fn qx(&self, line: &str) -> Ran {
        qx(self.directory.path(), &format!("--node {} {line}", self.socket()), "")
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Exit status.
    pub status: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs `qx` with a configuration in a directory, and with input.
pub fn qx(directory: &Path, line: &str, input: &str) -> Ran {
    let place = directory.to_str().unwrap();
    let words = line.split(' ').filter(|word| !word.is_empty()).map(|word| word.replace("{dir}", place));
    let mut child = Command::new(env!("CARGO_BIN_EXE_qx"))
        .args(words)
        .env_clear()
        .env("HOME", place)
        .env("QX_TOKEN", "the-token")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let pid = child.id().cast_signed();
    let (over, waits) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if waits.recv_timeout(DEADLINE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(over);
    watchdog.join().unwrap();
    Ran {
        status: output.status.code().unwrap_or(-1),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Answers calls.
#[derive(Clone)]
struct Desk {
    answers: Arc<HashMap<&'static str, Answer>>,
    calls: Calls,
}

type Body = StreamBody<tokio_stream::wrappers::ReceiverStream<Result<Frame<Bytes>, Infallible>>>;

impl Desk {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = hyper::service::service_fn(move |request| {
            let desk = self.clone();
            async move { Ok::<_, Infallible>(desk.answer(request).await) }
        });
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let authorization = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let answer = self.answers.get(method.as_str()).cloned().unwrap_or(Answer::Messages(vec![Bytes::new()]));
        let mut input = request.into_body();
        let first = first_message(&mut input).await;
        self.calls.0.lock().unwrap().push(Call { method, authorization, request: first.clone() });
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        let mut response = Response::new(StreamBody::new(receiver.into()));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        let messages = match answer {
            Answer::Refusal(status) => {
                status.add_header(response.headers_mut()).unwrap();
                return response;
            }
            Answer::Upload { damaged } => vec![received(first, input, damaged).await.encode_to_vec().into()],
            Answer::Messages(messages) => messages,
            Answer::Endless(messages) => {
                tokio::spawn(async move {
                    for message in messages {
                        let _ = sender.send(Ok(Frame::data(framed(&message)))).await;
                    }
                    // Open until the client goes.
                    while let Some(Ok(_)) = input.frame().await {}
                    sender.closed().await;
                });
                return response;
            }
        };
        tokio::spawn(async move {
            for message in messages {
                let _ = sender.send(Ok(Frame::data(framed(&message)))).await;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = sender.send(Ok(Frame::trailers(trailers))).await;
        });
        response
    }
}

/// The first message of a request; empty when there is none.
async fn first_message(input: &mut Incoming) -> Bytes {
    let mut data = BytesMut::new();
    while let Some(Ok(frame)) = input.frame().await {
        data.extend_from_slice(&frame.into_data().unwrap_or_default());
        if data.len() >= 5 {
            let length = u32::from_be_bytes([data[1], data[2], data[3], data[4]]) as usize;
            if data.len() >= 5 + length {
                // The rest belongs to later messages; only uploads have such, and they read it from here.
                return data.freeze();
            }
        }
    }
    data.freeze()
}

/// Reads an upload to its end.
async fn received(first: Bytes, input: Incoming, damaged: bool) -> Image {
    let mut all = BytesMut::from(&first[..]);
    all.extend_from_slice(&input.collect().await.unwrap().to_bytes());
    let mut image = Image::default();
    let mut hash = Sha256::new();
    while all.len() >= 5 {
        let length = u32::from_be_bytes([all[1], all[2], all[3], all[4]]) as usize;
        let message = all.split_to(5 + length);
        match UploadImageRequest::decode(&message[5..]).unwrap().part {
            Some(Part::Description(description)) => {
                image.id = format!("id-of-{}", description.name);
                image.name = description.name;
                image.kind = description.kind;
                image.boot = description.boot;
            }
            Some(Part::Data(data)) => {
                image.file_size_bytes += data.len() as u64;
                hash.update(data);
            }
            None => panic!("an upload has parts"),
        }
    }
    if damaged {
        hash.update(b"!");
    }
    image.sha256 = hex(&hash.finalize());
    image
}

fn framed(message: &Bytes) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.extend_from_slice(message);
    frame.freeze()
}

/// Decodes the request of a call.
pub fn request<M: Message + Default>(call: &Call) -> M {
    let length = u32::from_be_bytes([call.request[1], call.request[2], call.request[3], call.request[4]]) as usize;
    M::decode(&call.request[5..5 + length]).unwrap()
}

/// Bytes as the API writes checksums.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
