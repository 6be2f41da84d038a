//! VMs on the wire. Pure.

use std::collections::HashMap;
use std::time::Duration;

use quantix_api::v1;

use crate::model::vm::{
    CloudInit, DiskSource, DiskSpec, ExitCause, HugePages, Limit, NicSpec, RestartMode, VmExit, VmSpec,
};
use crate::model::{Id, Mac};
use crate::reconcile::lifecycle::State;
use crate::vm::View;

/// What a VM is shown with besides itself.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Names of networks.
    pub networks: HashMap<Id, String>,
    /// Addresses of NICs.
    pub addresses: HashMap<Mac, Vec<String>>,
}

/// A VM.
pub fn vm(view: &View, around: &Surroundings) -> v1::Vm {
    let record = view.record();
    v1::Vm {
        id: record.id.to_string(),
        name: record.name.to_string(),
        description: record.description.clone(),
        labels: record.labels.clone(),
        spec: Some(spec(&record.spec)),
        status: Some(status(view, around)),
        create_time: Some(view.stored.create_time.into()),
        update_time: Some(view.stored.update_time.into()),
        etag: view.stored.etag(),
    }
}

fn status(view: &View, around: &Surroundings) -> v1::VmStatus {
    let (record, status) = (view.record(), &view.status);
    let nics = record.spec.nics.iter().enumerate().map(|(index, nic)| v1::NicStatus {
        id: nic.id.to_string(),
        network: around.networks.get(&nic.network).cloned().unwrap_or_else(|| nic.network.to_string()),
        mac: nic.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        tap: status.taps.get(index).cloned().unwrap_or_default(),
        addresses: nic.mac.and_then(|mac| around.addresses.get(&mac)).cloned().unwrap_or_default(),
    });
    v1::VmStatus {
        state: state(status.state).into(),
        reason: status.reason.clone(),
        desired_running: record.running,
        since: Some(status.since.into()),
        pid: status.pid.unwrap_or(0),
        cid: record.cid().unwrap_or(0),
        nics: nics.collect(),
        last_exit: record.last_exit.as_ref().map(exit),
        restarts: status.restarts,
        restart_needed: status.restart_needed,
        next_restart_time: status.next_restart.map(Into::into),
    }
}

fn state(state: State) -> v1::VmState {
    match state {
        State::Creating => v1::VmState::Creating,
        State::Stopped => v1::VmState::Stopped,
        State::Starting => v1::VmState::Starting,
        State::Running => v1::VmState::Running,
        State::Paused => v1::VmState::Paused,
        State::Stopping => v1::VmState::Stopping,
        State::Backoff => v1::VmState::Backoff,
        State::Failed => v1::VmState::Failed,
        State::Deleting => v1::VmState::Deleting,
    }
}

fn exit(exit: &VmExit) -> v1::VmExit {
    let cause = match exit.cause {
        ExitCause::GuestShutdown => v1::ExitCause::GuestShutdown,
        ExitCause::GuestPanic => v1::ExitCause::GuestPanic,
        ExitCause::Stopped => v1::ExitCause::Stopped,
        ExitCause::VmmFailed => v1::ExitCause::VmmFailed,
        ExitCause::VmmKilled => v1::ExitCause::VmmKilled,
        ExitCause::Lost => v1::ExitCause::Lost,
    };
    v1::VmExit {
        time: Some(exit.time.into()),
        cause: cause.into(),
        message: exit.message.clone(),
        exit_code: exit.exit_code,
        signal: exit.signal,
    }
}

/// A duration that was checked when it came in, or measured.
pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

/// What a VM shall be; `check::draft` reads it back.
pub fn spec(spec: &VmSpec) -> v1::VmSpec {
    let topology = spec.cpus.topology;
    v1::VmSpec {
        cpus: Some(v1::CpuSpec {
            count: spec.cpus.count,
            sockets: topology.map_or(0, |t| t.sockets),
            cores: topology.map_or(0, |t| t.cores),
            threads: topology.map_or(0, |t| t.threads),
            weight: spec.cpus.weight,
            quota_percent: spec.cpus.quota_percent.unwrap_or(0),
            pinning: spec.cpus.pinning.as_ref().map(ToString::to_string).unwrap_or_default(),
        }),
        memory: Some(v1::MemorySpec {
            size_bytes: spec.memory.size_bytes,
            huge_pages: match spec.memory.huge_pages {
                HugePages::None => v1::HugePages::Unspecified,
                HugePages::Size2M => v1::HugePages::HugePages2m,
                HugePages::Size1G => v1::HugePages::HugePages1g,
            }
            .into(),
            prefault: spec.memory.prefault,
        }),
        boot: Some(v1::BootSpec {
            kernel: text(spec.boot.kernel.as_ref()),
            initrd: text(spec.boot.initrd.as_ref()),
            cmdline: text(spec.boot.cmdline.as_ref()),
        }),
        disks: spec.disks.iter().map(disk).collect(),
        nics: spec.nics.iter().map(nic).collect(),
        cloud_init: spec.cloud_init.as_ref().map(cloud_init),
        restart: Some(v1::RestartPolicy {
            mode: match spec.restart.mode {
                RestartMode::Never => v1::RestartMode::Never,
                RestartMode::OnFailure => v1::RestartMode::OnFailure,
                RestartMode::Always => v1::RestartMode::Always,
            }
            .into(),
            max_attempts: spec.restart.max_attempts,
            backoff: Some(duration(spec.restart.backoff)),
        }),
        autostart: Some(v1::Autostart {
            enabled: spec.autostart.enabled,
            order: spec.autostart.order,
            delay: Some(duration(spec.autostart.delay)),
        }),
        no_rng: !spec.rng,
        no_balloon: !spec.balloon,
        no_vsock: !spec.vsock,
    }
}

fn text<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

fn disk(disk: &DiskSpec) -> v1::DiskSpec {
    let Limit { operations, bytes } = disk.limit;
    v1::DiskSpec {
        id: disk.id.to_string(),
        source: Some(match &disk.source {
            DiskSource::Volume(id) => v1::disk_spec::Source::Volume(id.to_string()),
            DiskSource::Image(id) => v1::disk_spec::Source::Image(id.to_string()),
        }),
        readonly: disk.readonly,
        direct: disk.direct,
        queues: disk.queues,
        max_operations_per_second: operations.unwrap_or(0),
        max_bytes_per_second: bytes.unwrap_or(0),
    }
}

fn nic(nic: &NicSpec) -> v1::NicSpec {
    let Limit { operations, bytes } = nic.limit;
    v1::NicSpec {
        id: nic.id.to_string(),
        network: nic.network.to_string(),
        mac: text(nic.mac.as_ref()),
        queues: nic.queues,
        address: text(nic.address.as_ref()),
        allow_spoofing: nic.allow_spoofing,
        rules: nic.rules.iter().map(Into::into).collect(),
        max_packets_per_second: operations.unwrap_or(0),
        max_bytes_per_second: bytes.unwrap_or(0),
    }
}

fn cloud_init(seed: &CloudInit) -> v1::CloudInit {
    v1::CloudInit {
        user_data: text(seed.user_data.as_ref()),
        meta_data: text(seed.meta_data.as_ref()),
        network_config: text(seed.network_config.as_ref()),
        hostname: text(seed.hostname.as_ref()),
        user: text(seed.user.as_ref()),
        ssh_keys: seed.ssh_keys.clone(),
        password_hash: text(seed.password_hash.as_ref()),
    }
}
