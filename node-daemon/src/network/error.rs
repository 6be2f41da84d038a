//! What can go wrong between this room and the kernel, nft and dnsmasq. Pure.

use std::io;

use crate::model::{Failure, FailureKind};

/// Something of the host's networking that did not work. The message says what was tried and on what.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct NetworkError {
    kind: NetworkErrorKind,
    what: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Who refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkErrorKind {
    /// A file or a descriptor.
    Io,
    /// The kernel, over netlink.
    Link,
    /// `nft`, or the kernel behind it.
    Filter,
    /// A program that is not installed.
    Missing,
    /// The host is not as the network needs it: the uplink is gone or carries the host's addresses.
    Unfit,
}

impl NetworkError {
    /// Of this kind, with one sentence.
    pub fn new(kind: NetworkErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), source: None }
    }

    /// For `map_err`: a file or descriptor could not be used.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { source: Some(source.into()), ..Self::new(NetworkErrorKind::Io, what) }
    }

    /// For `map_err`: the kernel refused a change of links, addresses or routes.
    pub fn link(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        move |source| {
            let source = match source {
                // The number alone says little.
                rtnetlink::Error::NetlinkError(message) => message.to_io().into(),
                other => Box::new(other) as Box<dyn std::error::Error + Send + Sync>,
            };
            Self { source: Some(source), ..Self::new(NetworkErrorKind::Link, what) }
        }
    }

    /// Who refused.
    pub fn kind(&self) -> NetworkErrorKind {
        self.kind
    }

    /// The sentence and its causes in one line.
    pub fn chain(&self) -> String {
        self.source.as_ref().map_or_else(|| self.what.clone(), |source| format!("{}: {source}", self.what))
    }
}

impl From<NetworkError> for Failure {
    fn from(error: NetworkError) -> Self {
        let kind = match error.kind {
            NetworkErrorKind::Io | NetworkErrorKind::Link | NetworkErrorKind::Filter => FailureKind::Internal,
            NetworkErrorKind::Missing => FailureKind::Unavailable,
            NetworkErrorKind::Unfit => FailureKind::FailedPrecondition,
        };
        let failure = Self::new(kind, error.what);
        match error.source {
            Some(source) => failure.caused_by(source),
            None => failure,
        }
    }
}
