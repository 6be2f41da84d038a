//! Calls the node's own gRPC services in process, message by message as bytes. A call goes through the same layer as one
//! from the network, so that authentication, roles and audit are the same whichever way it came.

use bytes::{Buf, BufMut, Bytes};
use futures_util::Stream;
use http::uri::PathAndQuery;
use http::{HeaderMap, header};
use prost_reflect::MethodDescriptor;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

use crate::auth::Peer;

/// Who asks: what the layer needs to know of the HTTP request.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The other end of the connection.
    pub peer: Peer,
    /// Value of the `authorization` header.
    pub authorization: Option<String>,
}

impl Asker {
    /// Takes the asker from an HTTP request. Browsers cannot set headers on WebSockets: they offer the sub-protocols
    /// `bearer` and the token.
    pub fn of(peer: Peer, headers: &HeaderMap) -> Self {
        let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
        let authorization = text(header::AUTHORIZATION).map(str::to_owned).or_else(|| {
            let mut offered = text(header::SEC_WEBSOCKET_PROTOCOL)?.split(',').map(str::trim);
            offered.find(|p| p.eq_ignore_ascii_case("bearer"))?;
            Some(format!("Bearer {}", offered.next()?))
        });
        Self { peer, authorization }
    }

    fn request<T>(&self, body: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(body);
        if let Some(authorization) = &self.authorization {
            let value = MetadataValue::try_from(authorization)
                .map_err(|_| Status::unauthenticated("The authorization header holds bytes that no token has"))?;
            request.metadata_mut().insert("authorization", value);
        }
        request.extensions_mut().insert(self.peer.clone());
        Ok(request)
    }
}

/// The gRPC services, ready to be called.
#[derive(Debug, Clone)]
pub struct Methods(axum::Router);

impl Methods {
    /// `router` has all services, with the layer of `auth` around them.
    pub fn new(router: axum::Router) -> Self {
        Self(router)
    }

    fn client(&self) -> Grpc<axum::Router> {
        // What comes here was made by this process: the limits are at the network.
        Grpc::new(self.0.clone()).max_decoding_message_size(usize::MAX)
    }

    /// One message for one.
    ///
    /// # Errors
    /// The method's status.
    pub async fn unary(&self, method: &MethodDescriptor, asker: &Asker, message: Bytes) -> Result<Bytes, Status> {
        let answer = self.client().unary(asker.request(message)?, path(method)?, Raw).await?;
        Ok(answer.into_inner())
    }

    /// One message for many.
    ///
    /// # Errors
    /// The method's status, when it refuses before its first message.
    pub async fn watch(
        &self,
        method: &MethodDescriptor,
        asker: &Asker,
        message: Bytes,
    ) -> Result<Streaming<Bytes>, Status> {
        let answer = self.client().server_streaming(asker.request(message)?, path(method)?, Raw).await?;
        Ok(answer.into_inner())
    }

    /// Many for many.
    ///
    /// # Errors
    /// The method's status, when it refuses before its first message.
    pub async fn converse(
        &self,
        method: &MethodDescriptor,
        asker: &Asker,
        messages: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        self.client().streaming(asker.request(messages)?, path(method)?, Raw).await
    }
}

fn path(method: &MethodDescriptor) -> Result<PathAndQuery, Status> {
    PathAndQuery::try_from(format!("/{}/{}", method.parent_service().full_name(), method.name()))
        .map_err(|e| Status::internal(format!("A method's name is no path: {e}")))
}

/// Leaves messages as the bytes that they are.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
