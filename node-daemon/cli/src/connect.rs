//! Finds the node that is meant, and opens a channel to it: over the local socket, or over TLS with a certificate that is
//! known. Which node is meant is decided by a pure function.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

use crate::contexts::Contexts;
use crate::failure::{ExitStatus, Failure};
use crate::trust::{Fingerprint, Pin, authorities};

/// Where a node on this machine listens.
pub const LOCAL_SOCKET: &str = "/run/quantix/node.sock";
const DEFAULT_PORT: u16 = 9443;
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// Where a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A socket on this machine.
    Socket(PathBuf),
    /// A host name or an IP address, and a port.
    Tls(String, u16),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Tls(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tls(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("'{text}' is no address of a node; give HOST, HOST:PORT, [IPV6]:PORT or unix:PATH");
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') { Ok(Self::Socket(path.into())) } else { Err(wrong()) };
        }
        let text = text.strip_prefix("https://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
                (host, port.strip_prefix(':'))
            }
            // More than one colon is an IPv6 address without a port.
            None if text.matches(':').count() > 1 => (text, None),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Ok(DEFAULT_PORT), |port| port.parse().map_err(|_| wrong()))?;
        // The name must be one that TLS can check.
        ServerName::try_from(host).map_err(|_| wrong())?;
        Ok(Self::Tls(host.to_owned(), port))
    }
}

/// Why a certificate is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It has this fingerprint.
    Pinned(Fingerprint),
    /// An authority in this file signed it.
    Authorities(PathBuf),
    /// It is not known yet: somebody is to be asked.
    Ask,
    /// It is not known yet: the first one is taken.
    FirstUse,
}

/// A node, and how to talk to it.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub address: Address,
    /// Why its certificate is believed.
    pub trust: Trust,
    /// Sent with each call.
    pub token: Option<String>,
    /// The context that it came from.
    pub context: Option<String>,
}

// The token must not get into an error message or a log by accident.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        write!(f, "{} {:?} {:?} token {token:?}", self.address, self.trust, self.context)
    }
}

/// What the choice of a node is made from.
#[derive(Default)]
pub struct Wishes {
    /// `--node`.
    pub node: Option<Address>,
    /// `--context`.
    pub context: Option<String>,
    /// `QX_NODE`.
    pub env_node: Option<Address>,
    /// `QX_TOKEN`.
    pub env_token: Option<String>,
    /// `--fingerprint`, or else `QX_FINGERPRINT`.
    pub fingerprint: Option<Fingerprint>,
    /// `--ca-file`.
    pub ca_file: Option<PathBuf>,
    /// `--trust-on-first-use`.
    pub trust_on_first_use: bool,
    /// The local socket, when it is there and may be used.
    pub local: Option<PathBuf>,
}

/// Decides which node is meant: `--node`, `--context`, `QX_NODE`, the local socket, the current context, in this order.
pub fn choose(wishes: &Wishes, contexts: &Contexts) -> Result<Target, Failure> {
    let (address, context) = if let Some(address) = &wishes.node {
        (address.clone(), contexts.by_address(address))
    } else if let Some(name) = &wishes.context {
        (contexts.get(name)?.address()?, Some(name.clone()))
    } else if let Some(address) = &wishes.env_node {
        (address.clone(), contexts.by_address(address))
    } else if let Some(path) = &wishes.local {
        (Address::Socket(path.clone()), None)
    } else if let Some(name) = contexts.current() {
        (contexts.get(name)?.address()?, Some(name.to_owned()))
    } else {
        return Err(Failure::new(
            ExitStatus::Usage,
            format!("No node is named, and there is none on this machine ({LOCAL_SOCKET})"),
        )
        .hint("log in to one with: qx login HOST, or name it with --node HOST"));
    };
    let known = context.as_deref().and_then(|name| contexts.get(name).ok());
    let trust = match (&wishes.ca_file, wishes.fingerprint) {
        (Some(file), _) => Trust::Authorities(file.clone()),
        (None, Some(fingerprint)) => Trust::Pinned(fingerprint),
        (None, None) => match (known.and_then(|context| context.fingerprint), known.and_then(|c| c.ca_file.clone())) {
            (Some(fingerprint), _) => Trust::Pinned(fingerprint),
            (None, Some(file)) => Trust::Authorities(file),
            (None, None) if wishes.trust_on_first_use => Trust::FirstUse,
            (None, None) => Trust::Ask,
        },
    };
    let token = wishes.env_token.clone().or_else(|| known.and_then(|context| context.token.clone()));
    Ok(Target { address, trust, token, context })
}

/// The local socket, when it is there and this user may use it.
pub fn local_socket() -> Option<PathBuf> {
    use rustix::fs::{Access, access};
    access(LOCAL_SOCKET, Access::READ_OK | Access::WRITE_OK).ok().map(|()| LOCAL_SOCKET.into())
}

/// Opens a channel. The first connection is made before it returns, so that what is wrong can be said.
pub async fn open(target: &Target) -> Result<Channel, Failure> {
    match &target.address {
        Address::Socket(path) => open_socket(path).await,
        Address::Tls(host, port) => {
            let (config, pin) = match &target.trust {
                Trust::Pinned(fingerprint) => {
                    let pin = Pin::new(Some(*fingerprint));
                    (pin.config(), Some((pin, *fingerprint)))
                }
                Trust::Authorities(file) => (authorities(file)?, None),
                Trust::Ask | Trust::FirstUse => return Err(Failure::failed("The node's certificate is not known")),
            };
            open_tls(host, *port, config, pin).await
        }
    }
}

/// Which certificate the node at an address shows. Nothing is said to it.
pub async fn look(host: &str, port: u16) -> Result<Fingerprint, Failure> {
    let pin = Pin::new(None);
    let refused = tls(host, port, &pin.config()).await.err();
    pin.seen().ok_or_else(|| {
        refused.unwrap_or_else(|| Failure::new(ExitStatus::Unavailable, "The node showed no certificate"))
    })
}

fn endpoint(address: String) -> Endpoint {
    Endpoint::from_shared(address)
        .expect("an address that was parsed is a URI")
        .connect_timeout(CONNECT_WITHIN)
        // A console or an event stream may be silent for hours; a node that is gone must show all the same.
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .user_agent(concat!("qx/", env!("CARGO_PKG_VERSION")))
        .expect("the user agent is ASCII")
}

async fn open_socket(path: &Path) -> Result<Channel, Failure> {
    let path = path.to_owned();
    let shown = path.display().to_string();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint("http://localhost".to_owned()).connect_with_connector(connector).await.map_err(|error| {
        let why = root_cause(&error);
        Failure::new(ExitStatus::Unavailable, format!("The node does not answer at unix:{shown}: {why}"))
            .hint("is quantix-node running, and may you use its socket?")
    })
}

async fn open_tls(
    host: &str,
    port: u16,
    config: ClientConfig,
    pin: Option<(Arc<Pin>, Fingerprint)>,
) -> Result<Channel, Failure> {
    let address = Address::Tls(host.to_owned(), port).to_string();
    // What tonic makes of an error in a connector has lost its kind; it is kept here.
    let kept: Arc<Mutex<Option<Failure>>> = Arc::default();
    let keep = kept.clone();
    let host = host.to_owned();
    let connector = tower::service_fn(move |_| {
        let (host, config, keep) = (host.clone(), config.clone(), keep.clone());
        async move {
            tls(&host, port, &config).await.map(TokioIo::new).map_err(|failure| {
                let error = std::io::Error::other(failure.to_string());
                *keep.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(failure);
                error
            })
        }
    });
    endpoint(format!("https://{address}")).connect_with_connector(connector).await.map_err(|error| {
        if let Some((pin, expected)) = pin
            && let Some(seen) = pin.seen()
            && seen != expected
        {
            return changed(&address, expected, seen);
        }
        let kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        kept.unwrap_or_else(|| {
            let why = root_cause(&error);
            Failure::new(ExitStatus::Unavailable, format!("The node does not answer at {address}: {why}"))
        })
    })
}

/// One TLS connection.
async fn tls(host: &str, port: u16, config: &ClientConfig) -> Result<TlsStream<TcpStream>, Failure> {
    let address = Address::Tls(host.to_owned(), port);
    let silent = |why: String| {
        Failure::new(ExitStatus::Unavailable, format!("The node does not answer at {address}: {why}"))
            .hint("is the node up, and is this its address? See: qx context ls")
    };
    let connected = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect((host, port)));
    let stream = connected
        .await
        .map_err(|_| silent(format!("no connection within {} s", CONNECT_WITHIN.as_secs())))?
        .map_err(|error| silent(error.to_string()))?;
    // Keys typed into a console must not wait for each other.
    stream.set_nodelay(true).map_err(|error| silent(error.to_string()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Failure::usage(format!("{host}: {error}")))?;
    let shaken =
        tokio::time::timeout(CONNECT_WITHIN, TlsConnector::from(Arc::new(config.clone())).connect(name, stream));
    shaken
        .await
        .map_err(|_| silent("it says nothing".to_owned()))?
        .map_err(|error| Failure::new(ExitStatus::Denied, format!("The node at {address} is not trusted: {error}")))
}

/// A certificate that is not the known one: loud, because somebody may sit in between.
fn changed(address: &str, expected: Fingerprint, seen: Fingerprint) -> Failure {
    Failure::new(
        ExitStatus::Denied,
        format!(
            "THE CERTIFICATE OF {address} HAS CHANGED, and nothing was sent to it\n  \
             known  {}\n  now    {}\n\
             Somebody may sit between you and the node. Or it was installed anew: compare with what its console shows",
            expected.spaced(),
            seen.spaced()
        ),
    )
    .hint(format!("when you know that the new one is right: qx login {address} --fingerprint {seen}"))
}

/// The innermost reason of an error.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests;
