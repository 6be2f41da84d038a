//! Listeners, TLS, gRPC services, and REST with OpenAPI derived from the same protos. Handlers convert, authorise, call.
//!
//! `router` holds every service once. Each listener serves a clone of it: what comes over which listener is told apart by
//! the layers of `auth/`.

mod local;
mod metrics;
pub mod services;
mod status;

use std::io;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::daemon::Rooms;
use quantix_api::v1::audit_service_server::AuditServiceServer;
use quantix_api::v1::event_service_server::EventServiceServer;
use quantix_api::v1::host_service_server::HostServiceServer;
use quantix_api::v1::image_service_server::ImageServiceServer;
use quantix_api::v1::network_service_server::NetworkServiceServer;
use quantix_api::v1::pool_service_server::PoolServiceServer;
use quantix_api::v1::task_service_server::TaskServiceServer;
use quantix_api::v1::vm_service_server::VmServiceServer;
use quantix_api::v1::volume_service_server::VolumeServiceServer;

/// Why the node does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A listener: a port in use, an address that this node does not have.
    #[error("Cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// All gRPC services. Each room adds one line.
pub fn routes(rooms: &Rooms) -> Routes {
    let mut routes = Routes::builder();
    routes
        .add_service(TaskServiceServer::new(services::task::TaskRpc::new(rooms)))
        .add_service(EventServiceServer::new(services::event::EventRpc::new(rooms)))
        .add_service(AuditServiceServer::new(services::audit::AuditRpc::new(rooms)))
        .add_service(HostServiceServer::new(services::host::HostRpc::new(rooms)))
        // Keep the comment lines: they keep merges apart.
        // auth
        // storage
        .add_service(ImageServiceServer::new(services::image::ImageRpc::new(rooms)))
        .add_service(PoolServiceServer::new(services::pool::PoolRpc::new(rooms)))
        .add_service(VolumeServiceServer::new(services::volume::VolumeRpc::new(rooms)))
        // network
        .add_service(NetworkServiceServer::new(services::network::NetworkRpc::new(rooms)))
        // vm
        .add_service(VmServiceServer::new(services::vm::VmRpc::new(rooms)));
    routes.routes()
}

/// All services with the layers that every listener needs.
pub fn router(rooms: &Rooms) -> axum::Router {
    // server: health, reflection, REST and the layer of auth/ go around this.
    routes(rooms).prepare().into_axum_router().merge(metrics::router(rooms))
}

/// The listeners.
pub struct Server {
    addresses: Vec<String>,
    listeners: JoinSet<()>,
}

impl Server {
    /// Listens everywhere. `shutdown` ends it: no new calls, and streams are closed.
    ///
    /// # Errors
    /// When an address cannot be listened on.
    // TLS certificates are made or read here, which waits.
    #[allow(clippy::unused_async)]
    pub async fn start(rooms: &Rooms, shutdown: CancellationToken) -> Result<Self, ServerError> {
        let mut listeners = JoinSet::new();
        let router = router(rooms);
        let socket = rooms.settings.socket();
        let mut addresses = Vec::new();
        local::listen(&socket, router, shutdown, &mut listeners)?;
        addresses.push(format!("unix:{}", socket.display()));
        // server: 9443 and 8443 go here.
        Ok(Self { addresses, listeners })
    }

    /// Where it listens, for people.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Returns when all listeners have ended.
    pub async fn drained(mut self) {
        while self.listeners.join_next().await.is_some() {}
    }
}
