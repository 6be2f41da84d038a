//! Listeners, TLS, gRPC services, and REST with OpenAPI derived from the same protos. Handlers convert, authorise, call.
