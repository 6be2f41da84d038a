//! The node's front door: gRPC, REST and WebSocket over TLS, and the local socket. Handlers convert, authorise, call.

mod openapi;
pub mod rest;
