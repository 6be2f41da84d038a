//! The node's front door: gRPC, REST and WebSocket over TLS, and gRPC on the local socket. REST and OpenAPI are derived
//! from the same protos as gRPC. Handlers convert, authorise, call. Async runtime.
//!
//! `router` holds every service once, with the layer of `auth/` around it. Each listener serves a clone of it, and REST
//! calls it in process: whichever way a call comes, the same layer sees it.

mod listen;
mod local;
mod metrics;
mod openapi;
pub mod rest;
pub mod services;
mod status;
#[cfg(test)]
mod tests;
pub mod tls;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::daemon::Rooms;
use crate::host::Host;
use listen::{Connections, Service};
use quantix_api::v1::audit_service_server::AuditServiceServer;
use quantix_api::v1::auth_service_server::AuthServiceServer;
use quantix_api::v1::event_service_server::EventServiceServer;
use quantix_api::v1::host_service_server::HostServiceServer;
use quantix_api::v1::image_service_server::ImageServiceServer;
use quantix_api::v1::network_service_server::NetworkServiceServer;
use quantix_api::v1::pool_service_server::PoolServiceServer;
use quantix_api::v1::task_service_server::TaskServiceServer;
use quantix_api::v1::vm_service_server::VmServiceServer;
use quantix_api::v1::volume_service_server::VolumeServiceServer;
use rest::{Methods, Rest};
use tls::{Certificate, TlsError, TlsFiles};

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
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The library of TLS.
    #[error("TLS cannot be configured")]
    TlsLibrary(#[from] rustls::Error),
    /// The descriptors.
    #[error("Reflection cannot be offered")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// SIGHUP.
    #[error("SIGHUP cannot be heard")]
    Signal(#[source] io::Error),
}

/// All gRPC services. Each room adds one line.
///
/// # Errors
/// When the descriptors of the API cannot be read.
pub async fn routes(rooms: &Rooms) -> Result<Routes, ServerError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(quantix_api::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    for service in quantix_api::json::POOL.services() {
        health.set_service_status(service.full_name(), tonic_health::ServingStatus::Serving).await;
    }
    let mut routes = Routes::builder();
    routes
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(TaskServiceServer::new(services::task::TaskRpc::new(rooms)))
        .add_service(EventServiceServer::new(services::event::EventRpc::new(rooms)))
        .add_service(AuditServiceServer::new(services::audit::AuditRpc::new(rooms)))
        .add_service(HostServiceServer::new(services::host::HostRpc::new(rooms)))
        // Keep the comment lines: they keep merges apart.
        // auth
        .add_service(AuthServiceServer::new(services::auth::AuthRpc::new(rooms)))
        // storage
        .add_service(ImageServiceServer::new(services::image::ImageRpc::new(rooms)))
        .add_service(PoolServiceServer::new(services::pool::PoolRpc::new(rooms)))
        .add_service(VolumeServiceServer::new(services::volume::VolumeRpc::new(rooms)))
        // network
        .add_service(NetworkServiceServer::new(services::network::NetworkRpc::new(rooms)))
        // vm
        .add_service(VmServiceServer::new(services::vm::VmRpc::new(rooms)));
    Ok(routes.routes())
}

/// All services behind the layer of `auth/`.
///
/// # Errors
/// As [`routes`].
pub async fn router(rooms: &Rooms) -> Result<axum::Router, ServerError> {
    let guard = axum::middleware::from_fn_with_state(rooms.auth.clone(), crate::auth::guard);
    Ok(routes(rooms).await?.prepare().into_axum_router().layer(guard))
}

/// The listeners.
pub struct Server {
    grpc: SocketAddr,
    rest: SocketAddr,
    addresses: Vec<String>,
    certificate: Arc<Certificate>,
    listeners: JoinSet<()>,
}

impl Server {
    /// Listens everywhere. `shutdown` ends it: no new calls, and streams are closed.
    ///
    /// # Errors
    /// When an address cannot be listened on, or the certificate cannot be used.
    pub async fn start(rooms: &Rooms, shutdown: CancellationToken) -> Result<Self, ServerError> {
        let settings = &rooms.settings;
        let certificate = Certificate::load(certificate_files(settings)?)?;
        let tls = TlsAcceptor::from(Arc::new(certificate.server_config()?));
        tracing::info!("The certificate's SHA-256 is {}", certificate.fingerprint());
        rooms.host.set_certificate(certificate.fingerprint());
        // All listeners first: when one cannot be had, nobody was served yet.
        let (grpc, rest) = (bind(settings.listen.grpc).await?, bind(settings.listen.rest).await?);
        let local = local::bind(&settings.socket())?;
        let address = |listener: &TcpListener, asked: SocketAddr| {
            listener.local_addr().map_err(|source| ServerError::Listen { address: asked.to_string(), source })
        };
        let (grpc_at, rest_at) = (address(&grpc, settings.listen.grpc)?, address(&rest, settings.listen.rest)?);
        let addresses =
            vec![format!("grpc:{grpc_at}"), format!("rest:{rest_at}"), format!("unix:{}", settings.socket().display())];

        let connections = Arc::new(Connections::default());
        let router = router(rooms).await?;
        let metrics = metrics::text(rooms, &connections);
        let api = Arc::new(Rest::new(Methods::new(router.clone()), metrics, shutdown.clone()));
        let api = axum::Router::new().fallback(move |request| Arc::clone(&api).answer(request));
        let service =
            |name, router| Service { name, router, connections: connections.clone(), shutdown: shutdown.clone() };

        let mut listeners = JoinSet::new();
        listeners.spawn(service("gRPC", router.clone()).tcp(grpc, tls.clone()));
        listeners.spawn(service("REST", api).tcp(rest, tls));
        listeners.spawn(service("local socket", router).unix(local));
        let hup = signal(SignalKind::hangup()).map_err(ServerError::Signal)?;
        listeners.spawn(reload(hup, (certificate.clone(), rooms.host.clone()), shutdown));
        Ok(Self { grpc: grpc_at, rest: rest_at, addresses, certificate, listeners })
    }

    /// Where gRPC listens.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where REST and WebSocket listen.
    pub fn rest(&self) -> SocketAddr {
        self.rest
    }

    /// Where it listens, for people.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// The certificate that it shows.
    pub fn certificate(&self) -> &Arc<Certificate> {
        &self.certificate
    }

    /// Returns when all listeners have ended.
    pub async fn drained(mut self) {
        while self.listeners.join_next().await.is_some() {}
    }
}

/// The files of the settings, or those that the first start makes.
fn certificate_files(settings: &crate::settings::Settings) -> Result<TlsFiles, TlsError> {
    if let (Some(certificate), Some(key)) = (&settings.tls.certificate, &settings.tls.key) {
        return Ok(TlsFiles { certificate: certificate.clone(), key: key.clone() });
    }
    let hostname = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let addresses: Vec<IpAddr> = nix::ifaddrs::getifaddrs().map_or_else(
        |_| Vec::new(),
        |all| {
            let address = |interface: nix::ifaddrs::InterfaceAddress| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
            };
            all.filter_map(address).collect()
        },
    );
    tls::self_signed(&settings.state_dir.join("tls"), &hostname.unwrap_or_default(), &addresses)
}

/// Listens; where there is no IPv6, all addresses are all of IPv4.
async fn bind(address: SocketAddr) -> Result<TcpListener, ServerError> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && address.ip().is_unspecified() => {
            let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
            TcpListener::bind(v4).await.map_err(|source| ServerError::Listen { address: v4.to_string(), source })
        }
        Err(source) => Err(ServerError::Listen { address: address.to_string(), source }),
    }
}

/// Reads the certificate anew at each SIGHUP.
async fn reload(mut hup: Signal, (certificate, host): (Arc<Certificate>, Host), shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = hup.recv() => {}
        }
        match certificate.reload() {
            Ok(()) => {
                host.set_certificate(certificate.fingerprint());
                tracing::info!("SIGHUP: the certificate's SHA-256 is {}", certificate.fingerprint());
            }
            Err(error) => tracing::error!("SIGHUP: the certificate stays as it was: {error}"),
        }
    }
}
