//! Connections: accepts, secures and serves them, each in a task of its own, and bounds what one of them may cost. Async
//! runtime. Knows nothing of what is served but that it is a router.
//!
//! A connection ends when its handshake, its first request, or a request's head takes too long, when nothing was asked for
//! some minutes, when the other end does not answer pings, and at the shutdown after what is in flight is answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::auth::Peer;

/// Connections at a time, over all listeners.
const CONNECTIONS: usize = 1024;
/// Connections of one address at a time.
const OF_ONE_ADDRESS: usize = 256;
/// For TLS to be agreed, and again for the first request to begin.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// A connection on which nothing was asked for so long is closed.
const IDLE: Duration = Duration::from_mins(5);
/// Pings over HTTP/2, and how long an answer may take.
const PING: Duration = Duration::from_secs(20);
/// What was sent and not taken for so long ends a connection.
const UNTAKEN: Duration = Duration::from_mins(1);
/// What is in flight at the shutdown has so long.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// After no connection could be accepted (no descriptors are left): the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// All headers of a request.
const HEADERS: usize = 64 << 10;
/// Calls at a time on one connection.
const STREAMS: u32 = 256;

/// How many connections there are.
#[derive(Debug, Default)]
pub struct Connections {
    open: Mutex<HashMap<Option<IpAddr>, usize>>,
    /// Connections that were closed at once because there were too many.
    pub refused: AtomicU64,
    /// Connections that did not get as far as a request: no TLS, or none in time.
    pub failed_handshakes: AtomicU64,
}

impl Connections {
    fn admit(self: &Arc<Self>, peer: &Peer) -> Option<Ticket> {
        let address = peer.network();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let of_this = open.entry(address).or_default();
        if all >= CONNECTIONS || (address.is_some() && *of_this >= OF_ONE_ADDRESS) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *of_this += 1;
        Some(Ticket { connections: Arc::clone(self), address })
    }

    /// Open now.
    pub fn open(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }
}

/// A place among the connections; given back when dropped.
struct Ticket {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = self.connections.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// What is served to whoever connects.
#[derive(Clone)]
pub struct Service {
    /// Name of the listener, for the log.
    pub name: &'static str,
    /// What answers.
    pub router: axum::Router,
    /// Shared by all listeners.
    pub connections: Arc<Connections>,
    /// Ends everything.
    pub shutdown: CancellationToken,
}

impl Service {
    /// Serves TLS on a TCP listener until the shutdown.
    pub async fn tcp(self, listener: TcpListener, tls: TlsAcceptor) {
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                Some(_) = tasks.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    self.not_accepted(&error).await;
                    continue;
                }
            };
            let peer = Peer::Network(address);
            let Some(ticket) = self.connections.admit(&peer) else { continue };
            let (service, tls) = (self.clone(), tls.clone());
            tasks.spawn(async move {
                let _ticket = ticket;
                service.secured(stream, tls, peer).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Serves a local socket until the shutdown.
    pub async fn unix(self, listener: UnixListener) {
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                Some(_) = tasks.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    self.not_accepted(&error).await;
                    continue;
                }
            };
            let peer = match stream.peer_cred() {
                Ok(credentials) => Peer::Local { uid: credentials.uid() },
                Err(error) => {
                    tracing::warn!("The kernel does not say who connected to the local socket: {error}");
                    continue;
                }
            };
            let Some(ticket) = self.connections.admit(&peer) else { continue };
            let service = self.clone();
            tasks.spawn(async move {
                let _ticket = ticket;
                service.serve(stream, peer, &mut Builder::new(TokioExecutor::new())).await;
            });
        }
        while tasks.join_next().await.is_some() {}
    }

    async fn not_accepted(&self, error: &std::io::Error) {
        tracing::warn!("{}: a connection could not be accepted: {error}", self.name);
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    async fn secured(&self, stream: TcpStream, tls: TlsAcceptor, peer: Peer) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!("{}: {peer}: the connection could not be prepared: {error}", self.name);
        }
        let why = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                // What was agreed is what is spoken: nothing is guessed from the first bytes.
                let builder = Builder::new(TokioExecutor::new());
                let mut builder = match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => builder.http2_only(),
                    _ => builder.http1_only(),
                };
                return self.serve(stream, peer, &mut builder).await;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no TLS within {} s", HANDSHAKE.as_secs()),
        };
        self.connections.failed_handshakes.fetch_add(1, Ordering::Relaxed);
        tracing::debug!("{}: {peer}: {why}", self.name);
    }

    /// Serves one connection to its end.
    async fn serve<I>(&self, io: I, peer: Peer, builder: &mut Builder<TokioExecutor>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        limit(builder);
        let activity = Activity::default();
        let (router, asked, from) = (self.router.clone(), activity.clone(), peer.clone());
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let busy = asked.begin();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(from.clone());
            let answer = router.clone().oneshot(request);
            async move { Ok::<_, std::convert::Infallible>(answer.await?.map(|body| Answer { body, _busy: busy })) }
        });
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(io), service));
        let mut idle = pin!(activity.idle());
        tokio::select! {
            ended = &mut connection => return self.ended(&peer, ended),
            () = &mut idle => {}
            () = self.shutdown.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        if let Ok(ended) = tokio::time::timeout(LAST_ANSWERS, connection).await {
            self.ended(&peer, ended);
        }
    }

    fn ended(&self, peer: &Peer, result: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
        if let Err(error) = result {
            tracing::debug!("{}: {peer}: {error}", self.name);
        }
    }
}

/// Small answers go at once; an end that is gone, or takes nothing, is noticed.
fn prepare(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_tcp_nodelay(stream, true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, UNTAKEN)?;
    sockopt::set_tcp_user_timeout(stream, u32::try_from(UNTAKEN.as_millis()).unwrap_or(u32::MAX))
}

fn limit(builder: &mut Builder<TokioExecutor>) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS as u32)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
}

/// How many requests of a connection are being answered.
#[derive(Clone)]
struct Activity(watch::Sender<Asked>);

#[derive(Clone, Copy, Default)]
struct Asked {
    now: usize,
    ever: bool,
}

impl Default for Activity {
    fn default() -> Self {
        Self(watch::Sender::new(Asked::default()))
    }
}

impl Activity {
    fn begin(&self) -> Busy {
        self.0.send_modify(|asked| *asked = Asked { now: asked.now + 1, ever: true });
        Busy(self.0.clone())
    }

    /// Returns when nothing was asked for too long.
    async fn idle(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let asked = *changes.borrow_and_update();
            let patience = if asked.ever { IDLE } else { HANDSHAKE };
            if asked.now > 0 {
                // `self` keeps the sender alive: this cannot fail.
                let _ = changes.changed().await;
            } else if tokio::time::timeout(patience, changes.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// One request that is being answered, to the last byte of the answer.
struct Busy(watch::Sender<Asked>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.send_modify(|asked| asked.now -= 1);
    }
}

/// A response's body that says when it is over.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
