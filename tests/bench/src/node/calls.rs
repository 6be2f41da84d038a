//! The calls that are measured, over gRPC on the local socket. Clones share the connection.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use hyper_util::rt::TokioIo;
use prost_types::Duration as ProtoDuration;
use quantix_api::v1::image_service_client::ImageServiceClient;
use quantix_api::v1::upload_image_request::Part;
use quantix_api::v1::vm_service_client::VmServiceClient;
use quantix_api::v1::{
    BootSpec, CpuSpec, CreateVmRequest, DeleteVmRequest, GetVmRequest, ImageDescription, ImageKind, ListVmsRequest,
    MemorySpec, Task, TaskState, UploadImageRequest, VmSpec,
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

/// Name of the payload's image.
const KERNEL: &str = "payload";
/// How long a call waits for its task.
const WAIT: ProtoDuration = ProtoDuration { seconds: 30, nanos: 0 };
/// Bytes of an upload's message.
const CHUNK: usize = 256 << 10;

/// A connection to the daemon.
#[derive(Clone)]
pub struct Calls {
    channel: Channel,
}

impl Calls {
    /// Connects to the local socket.
    pub async fn connect(socket: PathBuf) -> Result<Self> {
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { anyhow::Ok(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        // The name is never looked up: the connector knows where to go.
        let channel = Endpoint::from_static("http://node.local").connect_with_connector(connector).await?;
        Ok(Self { channel })
    }

    fn vms(&self) -> VmServiceClient<Channel> {
        VmServiceClient::new(self.channel.clone())
    }

    /// Uploads the guest.
    pub async fn upload_kernel(&self, file: &Path) -> Result<()> {
        let bytes = std::fs::read(file).with_context(|| format!("Cannot read {}", file.display()))?;
        let description =
            ImageDescription { name: KERNEL.into(), kind: ImageKind::Kernel.into(), ..ImageDescription::default() };
        let mut parts = vec![UploadImageRequest { part: Some(Part::Description(description)) }];
        parts.extend(bytes.chunks(CHUNK).map(|c| UploadImageRequest { part: Some(Part::Data(c.to_vec())) }));
        ImageServiceClient::new(self.channel.clone()).upload_image(tokio_stream::iter(parts)).await?;
        Ok(())
    }

    /// Makes a VM whose guest sleeps, and returns when it runs.
    pub async fn create_and_start(&self, name: &str, memory: u64) -> Result<()> {
        let boot = BootSpec { kernel: KERNEL.into(), cmdline: "after=sleep".into(), ..BootSpec::default() };
        let spec = VmSpec {
            cpus: Some(CpuSpec { count: 1, ..CpuSpec::default() }),
            memory: Some(MemorySpec { size_bytes: memory, ..MemorySpec::default() }),
            boot: Some(boot),
            ..VmSpec::default()
        };
        let request = CreateVmRequest {
            name: name.into(),
            spec: Some(spec),
            start: true,
            wait: Some(WAIT),
            ..CreateVmRequest::default()
        };
        succeeded(self.vms().create_vm(request).await?.get_ref())
    }

    /// Deletes a running VM.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let request = DeleteVmRequest { vm: name.into(), force: true, wait: Some(WAIT), ..DeleteVmRequest::default() };
        succeeded(self.vms().delete_vm(request).await?.get_ref())
    }

    /// Gets one VM.
    pub async fn get(&self, name: &str) -> Result<()> {
        let vm = self.vms().get_vm(GetVmRequest { vm: name.into() }).await?.into_inner();
        ensure!(vm.name == name, "Asked for {name}, got {}", vm.name);
        Ok(())
    }

    /// Lists VMs on one page, and says how many there are.
    pub async fn list(&self) -> Result<usize> {
        let request = ListVmsRequest { page_size: 500, ..ListVmsRequest::default() };
        Ok(self.vms().list_vms(request).await?.into_inner().vms.len())
    }
}

fn succeeded(task: &Task) -> Result<()> {
    let why = task.error.as_ref().map_or("it is not over", |error| error.message.as_str());
    ensure!(task.state() == TaskState::Succeeded, "Task {} {:?}: {why}", task.kind, task.state());
    Ok(())
}
