//! One run of `qx`: its options, its output, and the node that it talks to. The connection is made when the first call is
//! made, so that commands that need no node work without one.

use std::future::Future;

use quantix_api::v1::audit_service_client::AuditServiceClient;
use quantix_api::v1::auth_service_client::AuthServiceClient;
use quantix_api::v1::event_service_client::EventServiceClient;
use quantix_api::v1::host_service_client::HostServiceClient;
use quantix_api::v1::image_service_client::ImageServiceClient;
use quantix_api::v1::network_service_client::NetworkServiceClient;
use quantix_api::v1::pool_service_client::PoolServiceClient;
use quantix_api::v1::task_service_client::TaskServiceClient;
use quantix_api::v1::vm_service_client::VmServiceClient;
use quantix_api::v1::volume_service_client::VolumeServiceClient;
use tokio::sync::OnceCell;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::args::Global;
use crate::connect::{self, Address, Target, Trust, Wishes, choose};
use crate::contexts::Contexts;
use crate::failure::{ExitStatus, Failure};
use crate::output::Output;
use crate::terminal;
use crate::trust::Fingerprint;

/// At most so much is taken in one answer: a page of 500 VMs with all that they have is far below.
const ANSWER_LIMIT: usize = 64 << 20;
/// So many things are asked for at once.
const PAGE: i32 = 200;

/// A channel that sends the token with each call.
pub type Wire = InterceptedService<Channel, Bearer>;

/// Adds the token to calls.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// One run of `qx`.
pub struct Session {
    /// What every command takes.
    pub global: Global,
    /// Standard output.
    pub out: Output,
    wire: OnceCell<Wire>,
}

macro_rules! clients {
    ($($(#[$doc:meta])* $name:ident: $client:ident),* $(,)?) => {$(
        $(#[$doc])*
        pub async fn $name(&self) -> Result<$client<Wire>, Failure> {
            Ok($client::new(self.wire().await?).max_decoding_message_size(ANSWER_LIMIT))
        }
    )*};
}

impl Session {
    /// A run with these options.
    pub fn new(global: Global) -> Self {
        let out = global.output();
        Self { global, out, wire: OnceCell::new() }
    }

    clients! {
        /// The audit log.
        audit: AuditServiceClient,
        /// Users, tokens, logins.
        auth: AuthServiceClient,
        /// Events.
        events: EventServiceClient,
        /// The node itself.
        host: HostServiceClient,
        /// Images.
        images: ImageServiceClient,
        /// Networks.
        networks: NetworkServiceClient,
        /// Pools.
        pools: PoolServiceClient,
        /// Tasks.
        tasks: TaskServiceClient,
        /// VMs.
        vms: VmServiceClient,
        /// Volumes.
        volumes: VolumeServiceClient,
    }

    async fn wire(&self) -> Result<Wire, Failure> {
        self.wire.get_or_try_init(|| async { self.open(&self.target()?).await }).await.cloned()
    }

    /// Which node is meant.
    pub fn target(&self) -> Result<Target, Failure> {
        choose(&self.wishes()?, &Contexts::load()?)
    }

    fn wishes(&self) -> Result<Wishes, Failure> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let wrong = |name: &str| {
            let name = name.to_owned();
            move |why: String| Failure::usage(format!("{name}: {why}"))
        };
        let env_node = env("QX_NODE").map(|text| text.parse()).transpose().map_err(wrong("QX_NODE"))?;
        let env_fingerprint =
            env("QX_FINGERPRINT").map(|text| text.parse()).transpose().map_err(wrong("QX_FINGERPRINT"))?;
        Ok(Wishes {
            node: self.global.node.clone(),
            context: self.global.context.clone(),
            env_node,
            env_token: env("QX_TOKEN"),
            fingerprint: self.global.fingerprint.or(env_fingerprint),
            ca_file: self.global.ca_file.clone(),
            trust_on_first_use: self.global.trust_on_first_use,
            local: connect::local_socket(),
        })
    }

    /// Opens a wire to a node; at the first contact its certificate is shown and asked for, and kept with its context.
    pub async fn open(&self, target: &Target) -> Result<Wire, Failure> {
        let mut target = target.clone();
        if let (Address::Tls(host, port), Trust::Ask | Trust::FirstUse) = (&target.address, &target.trust) {
            let fingerprint = self.first_contact(host, *port).await?;
            target.trust = Trust::Pinned(fingerprint);
            if let Some(name) = &target.context {
                let mut contexts = Contexts::load()?;
                contexts.change(name, |context| context.fingerprint = Some(fingerprint));
                contexts.save()?;
            }
        }
        let token = target.token.as_ref().map(|token| format!("Bearer {token}").parse()).transpose();
        let token = token.map_err(|_| Failure::usage("The token has characters that no token has"))?;
        Ok(InterceptedService::new(connect::open(&target).await?, Bearer(token)))
    }

    /// The fingerprint of a node that is not known yet: named with `--fingerprint`, or looked at and agreed to.
    pub async fn first_contact(&self, host: &str, port: u16) -> Result<Fingerprint, Failure> {
        if let Some(fingerprint) = self.wishes()?.fingerprint {
            return Ok(fingerprint);
        }
        let address = Address::Tls(host.to_owned(), port);
        let seen = connect::look(host, port).await?;
        if self.global.trust_on_first_use {
            eprintln!("Trusting the certificate of {address} from now on: {seen}");
            return Ok(seen);
        }
        if !terminal::is_interactive() {
            return Err(Failure::new(
                ExitStatus::Denied,
                format!("The node at {address} is not known; its certificate has the SHA-256 {seen}"),
            )
            .hint("compare it with what the node's console shows, then give it with --fingerprint"));
        }
        eprintln!("This is the first contact with the node at {address}. The SHA-256 of its certificate is");
        eprintln!("  {}", seen.spaced());
        eprintln!("The node shows the same on its console and in its log.");
        if terminal::confirm("Are they the same? [y/N] ")? {
            Ok(seen)
        } else {
            Err(Failure::new(ExitStatus::Denied, format!("The node at {address} is not trusted")))
        }
    }
}

/// Reads a list to its end, page by page; stops when `limit` is reached.
pub async fn every_page<T, F, Answer>(limit: Option<usize>, mut page: F) -> Result<Vec<T>, Failure>
where
    F: FnMut(i32, String) -> Answer,
    Answer: Future<Output = Result<(Vec<T>, String), Status>>,
{
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let missing = limit.map(|limit| limit.saturating_sub(all.len()));
        let size = missing.map_or(PAGE, |missing| i32::try_from(missing).unwrap_or(PAGE).min(PAGE));
        let (items, next) = page(size, token.clone()).await?;
        all.extend(items);
        let full = limit.is_some_and(|limit| all.len() >= limit);
        // A node that repeats its token would keep us here for ever.
        if next.is_empty() || next == token || full {
            all.truncate(limit.unwrap_or(usize::MAX));
            return Ok(all);
        }
        token = next;
    }
}

/// Asks for every page of a list: `pages!(client, list_vms, ListVmsRequest { … }, vms)`.
macro_rules! pages {
    ($client:expr, $method:ident, $request:expr, $field:ident) => {
        $crate::session::pages!($client, $method, $request, $field, None)
    };
    ($client:expr, $method:ident, $request:expr, $field:ident, $limit:expr) => {{
        let client = $client;
        let request = $request;
        $crate::session::every_page($limit, |page_size, page_token| {
            let mut client = client.clone();
            let mut request = request.clone();
            request.page_size = page_size;
            request.page_token = page_token;
            async move {
                let answer = client.$method(request).await?.into_inner();
                Ok((answer.$field, answer.next_page_token))
            }
        })
        .await
    }};
}
pub(crate) use pages;

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// A list of ten numbers in pages of four.
    async fn read(limit: Option<usize>) -> (Vec<i32>, Vec<i32>) {
        let asked = RefCell::new(Vec::new());
        let all = every_page(limit, |size, token| {
            asked.borrow_mut().push(size);
            async move {
                let from: i32 = token.parse().unwrap_or(0);
                let to = (from + size.min(4)).min(10);
                Ok(((from..to).collect(), if to < 10 { to.to_string() } else { String::new() }))
            }
        });
        (all.await.unwrap(), asked.into_inner())
    }

    #[tokio::test]
    async fn every_page_is_read_and_not_more_than_is_wanted() {
        assert_eq!(read(None).await, ((0..10).collect(), vec![200, 200, 200]));
        assert_eq!(read(Some(6)).await, ((0..6).collect(), vec![6, 2]));
        assert_eq!(read(Some(0)).await.0, Vec::<i32>::new());
    }

    #[tokio::test]
    async fn a_node_that_repeats_itself_does_not_keep_us() {
        let all = every_page(None, |_, _| async { Ok((vec![1], "again".to_owned())) }).await.unwrap();
        assert_eq!(all, [1, 1]);
    }
}
