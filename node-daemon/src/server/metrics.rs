//! `/metrics` for Prometheus. Async runtime. Who may read it is decided by the layer of `auth/`, as for every path.

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::daemon::Rooms;
use crate::telemetry::Telemetry;

/// What `prometheus-client` writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The one path.
pub(super) fn router(rooms: &Rooms) -> Router {
    let telemetry = rooms.telemetry.clone();
    Router::new().route("/metrics", get(move || async move { scrape(&telemetry) }))
}

fn scrape(telemetry: &Telemetry) -> Response {
    match telemetry.prometheus() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(failure) => {
            tracing::error!("{}", failure.chain());
            (StatusCode::INTERNAL_SERVER_ERROR, failure.message().to_owned()).into_response()
        }
    }
}
