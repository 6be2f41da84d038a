//! `HostService`: what the node is, what it has, how it is. Async runtime.

use std::time::Duration;

use quantix_api::v1;
use quantix_api::v1::host_service_server::HostService;
use tonic::{Request, Response, Status};

use super::convert;
use crate::daemon::{Rooms, VERSION};
use crate::host::{BlockDevice, Capacity, Hardware, Host, NetworkInterface, PciDevice};
use crate::model::Failure;
use crate::telemetry::{Allocation, Points, Telemetry};

/// How far back metrics go when the caller does not say.
const DEFAULT_WINDOW: Duration = Duration::from_mins(10);
/// How far back they go at most.
const LONGEST_WINDOW: Duration = Duration::from_hours(24);

/// The service.
pub struct HostRpc {
    pub(super) host: Host,
    pub(super) telemetry: Telemetry,
}

impl HostRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self { host: rooms.host.clone(), telemetry: rooms.telemetry.clone() }
    }

    fn describe(&self) -> v1::Host {
        let (identity, kvm) = (self.host.identity(), self.host.kvm());
        v1::Host {
            id: identity.id.to_string(),
            hostname: identity.hostname,
            version: VERSION.into(),
            kernel: identity.kernel,
            boot_time: identity.boot_time.map(Into::into),
            start_time: Some(identity.start_time.into()),
            capacity: Some(capacity(self.host.capacity(), &self.telemetry.allocation())),
            alarms: self.telemetry.alarms().sentences(),
            kvm_ready: kvm.ready,
            kvm_summary: kvm.summary,
            certificate_sha256: self.host.certificate(),
        }
    }

    async fn metrics(&self, request: v1::GetMetricsRequest) -> Result<v1::GetMetricsResponse, Failure> {
        let window = convert::duration("window", request.window)?.unwrap_or(DEFAULT_WINDOW);
        if window < Duration::from_secs(1) || window > LONGEST_WINDOW {
            let value = format!("{}s", window.as_secs_f64());
            return Err(Failure::invalid("window", value, "is not kept: ask for 1s to 86400s"));
        }
        let found = self.telemetry.history(&request.vm, &request.series, window).await?;
        Ok(v1::GetMetricsResponse { series: found.into_iter().map(series).collect() })
    }
}

fn capacity(capacity: Capacity, promised: &Allocation) -> v1::HostCapacity {
    let of_size =
        |bytes: u64| promised.huge_pages.iter().filter(|(size, _)| *size == bytes).map(|(_, pages)| pages).sum();
    let pool = |pool: crate::host::HugePool| v1::HugePagePool {
        page_size_bytes: pool.page_bytes,
        total: pool.total,
        free: pool.free,
        allocated: of_size(pool.page_bytes),
    };
    let node = |node: crate::host::NumaNode| v1::NumaNode {
        id: node.id,
        cpus: node.cpus.to_string(),
        memory_bytes: node.memory_bytes,
        memory_free_bytes: node.memory_free_bytes,
    };
    v1::HostCapacity {
        cpus: u32::try_from(capacity.cpus.len()).unwrap_or(u32::MAX),
        allocated_vcpus: promised.vcpus,
        memory_bytes: capacity.memory_bytes,
        memory_available_bytes: capacity.memory_available_bytes,
        allocated_memory_bytes: promised.memory_bytes,
        huge_pages: capacity.huge_pages.into_iter().map(pool).collect(),
        numa_nodes: capacity.numa_nodes.into_iter().map(node).collect(),
        vms: promised.vms,
        running_vms: promised.running_vms,
    }
}

fn series(points: Points) -> v1::Series {
    v1::Series {
        name: points.info.name.into(),
        unit: points.info.unit.into(),
        start_time: Some(points.start_time.into()),
        // Steps are 1 s or 10 s.
        step: Some(prost_types::Duration::try_from(points.step).unwrap_or_default()),
        values: points.values,
    }
}

impl From<Hardware> for v1::Hardware {
    fn from(found: Hardware) -> Self {
        Self {
            cpu_model: found.cpu_model,
            sockets: found.sockets,
            cores: found.cores,
            threads: found.threads,
            virtualization: found.virtualization,
            block_devices: found.block_devices.into_iter().map(disk).collect(),
            network_interfaces: found.network_interfaces.into_iter().map(interface).collect(),
            pci_devices: found.pci_devices.into_iter().map(pci).collect(),
            system_vendor: found.system_vendor,
            system_product: found.system_product,
        }
    }
}

fn disk(found: BlockDevice) -> v1::BlockDevice {
    v1::BlockDevice {
        name: found.name,
        size_bytes: found.size_bytes,
        rotational: found.rotational,
        model: found.model,
        serial: found.serial,
        in_use: found.in_use,
    }
}

fn interface(found: NetworkInterface) -> v1::NetworkInterface {
    v1::NetworkInterface {
        name: found.name,
        mac: found.mac,
        up: found.up,
        mtu: found.mtu,
        speed_bits_per_second: found.speed_bits_per_second,
        addresses: found.addresses,
        driver: found.driver,
    }
}

fn pci(found: PciDevice) -> v1::PciDevice {
    v1::PciDevice {
        address: found.address,
        vendor_id: found.vendor_id,
        device_id: found.device_id,
        class: found.class,
        driver: found.driver,
    }
}

#[tonic::async_trait]
impl HostService for HostRpc {
    async fn get_host(&self, _: Request<v1::GetHostRequest>) -> Result<Response<v1::Host>, Status> {
        Ok(Response::new(self.describe()))
    }

    async fn get_hardware(&self, _: Request<v1::GetHardwareRequest>) -> Result<Response<v1::Hardware>, Status> {
        let host = self.host.clone();
        let hardware = tokio::task::spawn_blocking(move || host.hardware())
            .await
            .map_err(|error| Failure::internal("Reading the hardware panicked", error))?;
        Ok(Response::new(hardware.into()))
    }

    async fn get_metrics(
        &self,
        request: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<v1::GetMetricsResponse>, Status> {
        Ok(Response::new(self.metrics(request.into_inner()).await?))
    }

    async fn get_host_boot_report(
        &self,
        _: Request<v1::GetHostBootReportRequest>,
    ) -> Result<Response<v1::BootReport>, Status> {
        Ok(Response::new(self.host.boot_report().into()))
    }
}
