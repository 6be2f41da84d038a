//! Pools, volumes and images as a client sees them: a whole daemon in a directory of its own, called over its local socket.

use std::path::Path;

use quantix_api::v1;
use quantix_api::v1::image_service_client::ImageServiceClient;
use quantix_api::v1::pool_service_client::PoolServiceClient;
use quantix_api::v1::task_service_client::TaskServiceClient;
use quantix_api::v1::volume_service_client::VolumeServiceClient;
use quantix_node::daemon::Daemon;
use quantix_node::settings::Settings;
use tokio_stream::iter;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const WAIT: Option<prost_types::Duration> = Some(prost_types::Duration { seconds: 60, nanos: 0 });
const MIB: u64 = 1 << 20;

/// A daemon and clients for it.
struct Node {
    daemon: Daemon,
    volumes: VolumeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    pools: PoolServiceClient<Channel>,
    tasks: TaskServiceClient<Channel>,
}

async fn connect(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    });
    Endpoint::from_static("http://node").connect_with_connector(connector).await.unwrap()
}

impl Node {
    async fn start(directory: &Path) -> Self {
        let mut settings = Settings {
            state_dir: directory.join("state"),
            run_dir: directory.join("run"),
            log_dir: directory.join("log"),
            ..Settings::default()
        };
        settings.listen.grpc = "127.0.0.1:0".parse().unwrap();
        settings.listen.rest = "127.0.0.1:0".parse().unwrap();
        // This machine's own network is not to be touched.
        settings.network.default_network = false;
        let socket = settings.socket();
        let daemon = Daemon::start(settings).await.unwrap();
        let channel = connect(&socket).await;
        Self {
            daemon,
            volumes: VolumeServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel.clone()),
            pools: PoolServiceClient::new(channel.clone()),
            tasks: TaskServiceClient::new(channel),
        }
    }

    async fn create(&mut self, request: v1::CreateVolumeRequest) -> Result<v1::Task, Status> {
        Ok(self.volumes.create_volume(v1::CreateVolumeRequest { wait: WAIT, ..request }).await?.into_inner())
    }

    async fn volume(&mut self, name: &str) -> Result<v1::Volume, Status> {
        Ok(self.volumes.get_volume(v1::GetVolumeRequest { volume: name.into() }).await?.into_inner())
    }

    async fn upload(&mut self, description: v1::ImageDescription, bytes: &[u8]) -> Result<v1::Image, Status> {
        use v1::upload_image_request::Part;
        let mut parts = vec![Part::Description(description)];
        parts.extend(bytes.chunks(100_000).map(|piece| Part::Data(piece.to_vec())));
        let messages: Vec<_> = parts.into_iter().map(|part| v1::UploadImageRequest { part: Some(part) }).collect();
        Ok(self.images.upload_image(iter(messages)).await?.into_inner())
    }
}

fn succeeded(task: &v1::Task) {
    assert_eq!(task.state(), v1::TaskState::Succeeded, "{:?}", task.error);
}

fn raw(name: &str) -> v1::CreateVolumeRequest {
    v1::CreateVolumeRequest { name: name.into(), size_bytes: MIB, ..v1::CreateVolumeRequest::default() }
}

fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    details.bad_request().map_or_else(Vec::new, |bad| bad.field_violations.iter().map(|v| v.field.clone()).collect())
}

#[tokio::test]
async fn volumes_by_their_service() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::start(directory.path()).await;
    let first = node.create(v1::CreateVolumeRequest { request_id: "a".into(), ..raw("disk") }).await.unwrap();
    succeeded(&first);
    // The same request again answers the same; the same id for another is refused.
    let again = node.create(v1::CreateVolumeRequest { request_id: "a".into(), ..raw("disk") }).await.unwrap();
    assert_eq!(again.id, first.id);
    let other = node.create(v1::CreateVolumeRequest { request_id: "a".into(), ..raw("other") }).await.unwrap_err();
    assert_eq!((other.code(), fields(&other)), (Code::InvalidArgument, vec!["request_id".to_owned()]));
    let bad = node.create(v1::CreateVolumeRequest { size_bytes: 1, ..raw("x") }).await.unwrap_err();
    assert_eq!((bad.code(), fields(&bad)), (Code::InvalidArgument, vec!["size_bytes".to_owned()]));
    assert_eq!(node.create(raw("disk")).await.unwrap_err().code(), Code::AlreadyExists);
    // Changes by mask and by etag.
    let volume = node.volume("disk").await.unwrap();
    assert_eq!((volume.pool.as_str(), volume.format(), volume.size_bytes), ("default", v1::VolumeFormat::Raw, MIB));
    let mut wish = v1::Volume { name: "renamed".into(), labels: [("a".into(), "b".into())].into(), ..volume.clone() };
    let mask = |path: &str| Some(prost_types::FieldMask { paths: vec![path.into()] });
    let update = |volume: &v1::Volume, path: &str| v1::UpdateVolumeRequest {
        volume: Some(volume.clone()),
        update_mask: mask(path),
    };
    let labelled = node.volumes.update_volume(update(&wish, "labels")).await.unwrap().into_inner();
    assert_eq!((labelled.name.as_str(), labelled.labels.len()), ("disk", 1));
    assert_ne!(labelled.etag, volume.etag);
    let stale = node.volumes.update_volume(update(&wish, "name")).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    let fixed = node.volumes.update_volume(update(&wish, "size_bytes")).await.unwrap_err();
    assert_eq!(fields(&fixed), ["volume.update_mask"]);
    wish.etag = labelled.etag;
    node.volumes.update_volume(update(&wish, "name")).await.unwrap();
    assert_eq!(node.volume("disk").await.unwrap_err().code(), Code::NotFound);
    let resize =
        v1::ResizeVolumeRequest { volume: "renamed".into(), size_bytes: 2 * MIB, wait: WAIT, ..Default::default() };
    succeeded(&node.volumes.resize_volume(resize).await.unwrap().into_inner());
    assert_eq!(node.volume("renamed").await.unwrap().size_bytes, 2 * MIB);
    // Pages.
    for name in ["b", "c"] {
        succeeded(&node.create(raw(name)).await.unwrap());
    }
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let request = v1::ListVolumesRequest { page_size: 2, page_token: token, pool: "default".into() };
        let page = node.volumes.list_volumes(request).await.unwrap().into_inner();
        names.extend(page.volumes.into_iter().map(|volume| volume.name));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["renamed", "b", "c"]);
    let delete = |etag: &str| v1::DeleteVolumeRequest { volume: "b".into(), etag: etag.into(), wait: WAIT };
    assert_eq!(node.volumes.delete_volume(delete("0")).await.unwrap_err().code(), Code::Aborted);
    succeeded(&node.volumes.delete_volume(delete("")).await.unwrap().into_inner());
    node.daemon.stop().await;
}

#[tokio::test]
async fn images_and_pools_by_their_services() {
    let directory = tempfile::tempdir().unwrap();
    let mut node = Node::start(directory.path()).await;
    let describe = |name: &str, request_id: &str| v1::ImageDescription {
        name: name.into(),
        request_id: request_id.into(),
        ..v1::ImageDescription::default()
    };
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let short = v1::ImageDescription { size_bytes: 1_000_000, ..describe("debian", "u") };
    assert_eq!(node.upload(short, &bytes).await.unwrap_err().code(), Code::InvalidArgument);
    // What failed was not remembered; what was taken is.
    let image = node.upload(describe("debian", "u"), &bytes).await.unwrap();
    assert_eq!(
        (image.kind(), image.format(), image.file_size_bytes),
        (v1::ImageKind::Disk, v1::ImageFormat::Raw, 300_000)
    );
    assert_eq!(node.upload(describe("debian", "u"), &bytes).await.unwrap().id, image.id);
    let nothing = node.images.upload_image(iter(Vec::new())).await.unwrap_err();
    assert_eq!(fields(&nothing), ["description"]);
    let import =
        v1::ImportImageRequest { image: Some(describe("x", "")), url: "file:///etc/shadow".into(), wait: WAIT };
    assert_eq!(fields(&node.images.import_image(import).await.unwrap_err()), ["url"]);
    let unreachable =
        v1::ImportImageRequest { image: Some(describe("x", "")), url: "http://127.0.0.1:1/x".into(), wait: WAIT };
    let task = node.images.import_image(unreachable).await.unwrap().into_inner();
    assert_eq!((task.state(), task.error.unwrap().code), (v1::TaskState::Failed, Code::Unavailable as i32));
    let linked = v1::CreateVolumeRequest { image: "debian".into(), linked: true, size_bytes: 0, ..raw("disk") };
    succeeded(&node.create(linked).await.unwrap());
    let delete = v1::DeleteImageRequest { image: "debian".into(), wait: WAIT, ..Default::default() };
    assert_eq!(node.images.delete_image(delete).await.unwrap_err().code(), Code::FailedPrecondition);
    // Pools.
    let path = directory.path().join("other");
    std::fs::create_dir(&path).unwrap();
    let source = v1::create_pool_request::Source::Directory(v1::DirectorySource { path: path.display().to_string() });
    let create = v1::CreatePoolRequest { name: "other".into(), source: Some(source), wait: WAIT, ..Default::default() };
    succeeded(&node.pools.create_pool(create).await.unwrap().into_inner());
    let pools = node.pools.list_pools(v1::ListPoolsRequest::default()).await.unwrap().into_inner().pools;
    assert_eq!(pools.iter().map(|pool| pool.name.as_str()).collect::<Vec<_>>(), ["default", "other"]);
    assert!(pools.iter().all(|pool| pool.state() == v1::PoolState::Ready && pool.capacity_bytes > 0));
    assert!(pools[0].used_bytes >= 300_000 && pools[1].used_bytes == 0);
    let delete = |pool: &str| v1::DeletePoolRequest { pool: pool.into(), wait: WAIT, ..Default::default() };
    assert_eq!(node.pools.delete_pool(delete("default")).await.unwrap_err().code(), Code::FailedPrecondition);
    succeeded(&node.pools.delete_pool(delete("other")).await.unwrap().into_inner());
    assert!(path.join("quantix-pool.json").exists());
    let tasks = node.tasks.list_tasks(v1::ListTasksRequest::default()).await.unwrap().into_inner().tasks;
    assert!(tasks.iter().all(|task| task.end_time.is_some()));
    node.daemon.stop().await;
}
