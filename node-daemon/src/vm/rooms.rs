//! The VMs' room's side of the others: storage and networks as a start needs them, and what these want to know of VMs.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::disk_uses;
use super::resources::{OpenBoot, OpenDisk, OpenNic, Resources};
use crate::model::vm::{Begun, CloudInit, DiskSource, DiskSpec, NicSpec, VmRecord};
use crate::model::{Base, Failure, FailureKind, Id, Image, ImageBoot, Mac, Volume, VolumeFormat, VolumePhase};
use crate::network::{ConfiguredNic, ConfiguredNics, Networks, NicPlan};
use crate::storage::records::{self, DiskUsers, Uses};
use crate::storage::{Storage, seed};
use crate::store::{ReadTx, Store};

/// Console that a kernel is told when nobody says anything else.
const CMDLINE: &str = "console=ttyS0";

/// Storage and networks.
pub struct NodeResources {
    /// Pools, volumes and images.
    pub storage: Storage,
    /// Bridges and taps.
    pub networks: Networks,
    /// The inventory.
    pub store: Store,
}

/// Tells storage which VMs have which volumes and images.
#[derive(Debug, Clone, Copy)]
pub struct VmUsers;

impl DiskUsers for VmUsers {
    fn uses(&self, tx: &ReadTx<'_>) -> Result<Uses, Failure> {
        disk_uses(tx).map(|uses| Uses { volumes: uses.volumes, images: uses.images })
    }
}

/// Tells networks which NICs VMs have.
pub fn configured_nics() -> Box<ConfiguredNics> {
    Box::new(|tx: &ReadTx<'_>| {
        let mut nics = Vec::new();
        for stored in tx.all::<VmRecord>()? {
            let record = stored.record;
            if record.begun == Begun::Deletion {
                continue;
            }
            for nic in &record.spec.nics {
                nics.push(ConfiguredNic {
                    vm: record.id.clone(),
                    vm_name: record.name.clone(),
                    network: nic.network.clone(),
                    mac: nic.mac.ok_or_else(|| no_mac(&record, nic))?,
                    address: nic.address,
                });
            }
        }
        Ok(nics)
    })
}

fn no_mac(record: &VmRecord, nic: &NicSpec) -> Failure {
    Failure::bug(format!("NIC {} of VM {} has no address", nic.id, record.name))
}

fn plan(record: &VmRecord, nic: &NicSpec) -> Result<NicPlan, Failure> {
    let address: Option<Ipv4Addr> = nic.address;
    Ok(NicPlan {
        vm: record.id.clone(),
        vm_name: record.name.clone(),
        nic: nic.id.to_string(),
        network: nic.network.clone(),
        mac: nic.mac.ok_or_else(|| no_mac(record, nic))?,
        queues: u16::try_from(nic.queues).unwrap_or(1),
        address,
        allow_spoofing: nic.allow_spoofing,
        rules: nic.rules.clone(),
    })
}

/// What the image says from which the first disk was made.
fn image_boot(tx: &ReadTx<'_>, record: &VmRecord) -> Result<Option<ImageBoot>, Failure> {
    let image = match record.spec.disks.first().map(|disk| &disk.source) {
        None => None,
        Some(DiskSource::Image(id)) => Some(id.clone()),
        Some(DiskSource::Volume(id)) => tx.get::<Volume>(id)?.record.image,
    };
    let Some(image) = image else { return Ok(None) };
    // An image may be deleted after a full copy of it was made.
    Ok(tx.lookup::<Image>(image.as_str())?.and_then(|stored| stored.record.boot))
}

#[tonic::async_trait]
impl Resources for NodeResources {
    async fn open_disk(&self, disk: &DiskSpec) -> Result<OpenDisk, Failure> {
        let open = match &disk.source {
            DiskSource::Volume(id) => self.storage.open_disk(id, disk.readonly, disk.direct).await?,
            DiskSource::Image(id) => self.storage.open_image_disk(id, disk.direct).await?,
        };
        let format = match open.format {
            VolumeFormat::Raw => "raw",
            VolumeFormat::Qcow2 => "qcow2",
        };
        Ok(OpenDisk { fds: open.fds, path: open.path, format, readonly: open.readonly })
    }

    async fn open_boot(&self, record: &VmRecord) -> Result<OpenBoot, Failure> {
        let spec = record.spec.boot.clone();
        let default = if spec.kernel.is_some() && spec.cmdline.is_some() {
            None
        } else {
            let record = record.clone();
            self.store.read(move |tx| image_boot(tx, &record)).await?
        };
        let (kernel, initrd) = match (spec.kernel, &default) {
            (Some(kernel), _) => (kernel, spec.initrd),
            (None, Some(boot)) => (boot.kernel.clone(), boot.initrd.clone()),
            (None, None) => {
                let message = format!(
                    "VM {} has nothing to boot: there is no firmware yet that starts what is on a disk, so name a kernel in \
                     spec.boot, or make the first disk from an image that names one (ImageBoot)",
                    record.name
                );
                return Err(Failure::precondition(message));
            }
        };
        let cmdline = spec.cmdline.or_else(|| default.map(|boot| boot.cmdline)).unwrap_or_else(|| CMDLINE.to_owned());
        let kernel = self.storage.open_image(&kernel).await?;
        let initrd = match initrd {
            Some(initrd) => Some(self.storage.open_image(&initrd).await?),
            None => None,
        };
        Ok(OpenBoot { kernel, initrd, cmdline })
    }

    async fn build_seed(&self, record: &VmRecord) -> Result<Option<OwnedFd>, Failure> {
        let Some(seed) = &record.spec.cloud_init else { return Ok(None) };
        let files = seed_files(record, seed)?;
        Ok(Some(seed::build(&files)?))
    }

    async fn plug(&self, record: &VmRecord, nic: &NicSpec) -> Result<OpenNic, Failure> {
        let plugged = self.networks.plug(&plan(record, nic)?).await?;
        Ok(OpenNic { tap: plugged.tap, fds: plugged.fds })
    }

    async fn replug(&self, record: &VmRecord, nic: &NicSpec) -> Result<String, Failure> {
        let plan = plan(record, nic)?;
        self.networks.replug(&plan).await?;
        Ok(plan.tap())
    }

    async fn unplug(&self, vm: &Id) -> Result<(), Failure> {
        self.networks.unplug(vm).await
    }

    async fn addresses(&self, mac: Mac) -> Vec<IpAddr> {
        self.networks.addresses(mac).await
    }

    async fn delete_volume(&self, volume: &Id) -> Result<(), Failure> {
        let id = volume.clone();
        let noted = self.store.write(move |tx| {
            let mut volume = tx.get::<Volume>(&id)?.record;
            records::free_of_vms(disk_uses(tx)?.volumes.get(&id), "be deleted")?;
            records::free_of_links(tx, &Base::Volume(id), "be deleted")?;
            volume.phase = VolumePhase::Deleting;
            tx.update(&volume, None)?;
            Ok(volume)
        });
        match noted.await {
            Ok(volume) => self.storage.delete_volume(volume).await,
            Err(failure) if failure.kind() == FailureKind::NotFound => Ok(()),
            Err(failure) if failure.kind() == FailureKind::FailedPrecondition => {
                tracing::info!(%volume, "A volume outlives the VM that it was made with: {}", failure.chain());
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }
}

fn seed_files(record: &VmRecord, seed: &CloudInit) -> Result<seed::SeedFiles, Failure> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let account = seed::Account {
        hostname: seed.hostname.clone().unwrap_or_else(|| record.name.to_string()),
        user: text(&seed.user),
        ssh_keys: seed.ssh_keys.clone(),
        password_hash: text(&seed.password_hash),
    };
    let nics: Vec<seed::SeedNic> = record
        .spec
        .nics
        .iter()
        .filter_map(|nic| Some(seed::SeedNic { id: nic.id.to_string(), mac: nic.mac?.to_string() }))
        .collect();
    Ok(seed::SeedFiles {
        user_data: match &seed.user_data {
            Some(text) => text.clone(),
            None => seed::user_data(&account)?,
        },
        meta_data: seed.meta_data.clone().unwrap_or_else(|| seed::meta_data(&record.id, record.name.as_str())),
        network_config: seed.network_config.clone().unwrap_or_else(|| seed::network_config(&nics)),
    })
}

/// All of it, for the daemon.
pub fn node_resources(storage: Storage, networks: Networks, store: Store) -> Arc<dyn Resources> {
    Arc::new(NodeResources { storage, networks, store })
}
