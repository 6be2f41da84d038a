//! What the front door counts, among the values of `telemetry/` for Prometheus. Any thread. Who may read it is decided by
//! the REST handler, as for every path.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::listen::Connections;
use super::rest::MetricsText;
use crate::auth::Auth;
use crate::daemon::Rooms;

/// Reads the counters when somebody asks.
#[derive(Debug)]
struct FrontDoor {
    auth: Auth,
    connections: Arc<Connections>,
}

impl Collector for FrontDoor {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let connections = [
            ("refused_connections", "Connections that were too many at once", &self.connections.refused),
            ("failed_handshakes", "Connections on which no TLS was agreed", &self.connections.failed_handshakes),
        ]
        .map(|(name, help, counter)| (name, help, counter.load(Ordering::Relaxed)));
        for (name, help, value) in self.auth.counters().read().into_iter().chain(connections) {
            let counter = ConstCounter::new(value);
            let name = format!("quantix_api_{name}");
            let metric = encoder.encode_descriptor(&name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        let open = ConstGauge::new(i64::try_from(self.connections.open()).unwrap_or(i64::MAX));
        let help = "Connections that are open now";
        open.encode(encoder.encode_descriptor("quantix_api_connections", help, None, open.metric_type())?)
    }
}

/// All values of the node, with those of the front door.
pub(super) fn text(rooms: &Rooms, connections: &Arc<Connections>) -> MetricsText {
    let collector = FrontDoor { auth: rooms.auth.clone(), connections: Arc::clone(connections) };
    rooms.telemetry.register(|registry| registry.register_collector(Box::new(collector)));
    let telemetry = rooms.telemetry.clone();
    Arc::new(move || telemetry.prometheus())
}
