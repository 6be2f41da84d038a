//! Making VMs: what a draft names is looked up, volumes are reserved, and the record is written, all in one transaction; then
//! the volumes are made. A VM that cannot be made leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::rooms::VmUsers;
use super::{Change, Entry, Request, Vms};
use crate::model::vm::{Begun, DiskSource, DiskSpec, DraftSource, Resolve, VmDraft, VmRecord, VmSpec};
use crate::model::{Failure, Id, Image, ImageKind, Mac, Name, Network, NewEvent, VolumeFormat};
use crate::reconcile::lifecycle::Event;
use crate::storage::records::{self, DiskUsers as _};
use crate::storage::{Meter, NewClone, NewVolume, Recipe, Storage, reserve_clone, reserve_volume};
use crate::store::{ReadTx, Stored, WriteTx};
use crate::tasks::TaskContext;
use crate::telemetry::Timeline;

/// A VM to be made.
#[derive(Debug, Clone)]
pub struct NewVm {
    /// Its name.
    pub name: Name,
    /// For people.
    pub description: String,
    /// For programs.
    pub labels: BTreeMap<String, String>,
    /// What it shall be.
    pub draft: VmDraft,
}

/// A VM whose record is written, and whose volumes are reserved.
#[derive(Debug)]
pub struct Reserved {
    stored: Stored<VmRecord>,
    recipes: Vec<Recipe>,
}

impl Reserved {
    /// Its record.
    pub fn record(&self) -> &VmRecord {
        &self.stored.record
    }
}

/// Looks names up within a transaction. `reserve`: volumes may be made.
struct LookUp<'a, 't> {
    tx: &'a ReadTx<'t>,
    /// For a VM that is made: where its volumes are reserved, and its name.
    reserve: Option<(&'a WriteTx<'t>, &'a Name)>,
    /// The VM that is changed; what it has is not taken from it.
    own: Option<&'a Id>,
    taken_volumes: HashMap<Id, Vec<Id>>,
    taken_macs: BTreeSet<Mac>,
    recipes: Vec<Recipe>,
}

impl<'a, 't> LookUp<'a, 't> {
    fn new(
        tx: &'a ReadTx<'t>,
        reserve: Option<(&'a WriteTx<'t>, &'a Name)>,
        own: Option<&'a Id>,
    ) -> Result<Self, Failure> {
        let taken_volumes = VmUsers.uses(tx)?.volumes;
        let others = tx.all::<VmRecord>()?.into_iter().map(|stored| stored.record).filter(|vm| Some(&vm.id) != own);
        let taken_macs = others.flat_map(|vm| vm.spec.nics.into_iter().filter_map(|nic| nic.mac)).collect();
        Ok(Self { tx, reserve, own, taken_volumes, taken_macs, recipes: Vec::new() })
    }

    fn new_volume(
        &mut self,
        field: &str,
        disk: &DiskSpec<DraftSource>,
        new: &crate::model::vm::NewVolume,
    ) -> Result<Id, Failure> {
        let Some((tx, name)) = self.reserve else {
            return Err(Failure::invalid(
                field,
                "new_volume",
                "is only for VMs that are made: make the volume first, and name it",
            ));
        };
        let linked = !new.full_copy
            && new.image.is_some()
            && new.format.is_none_or(|f| f == crate::model::vm::VolumeFormat::Qcow2);
        let wanted = NewVolume {
            name: new.name.as_ref().map_or_else(|| format!("{name}-{}", disk.id), ToString::to_string),
            pool: new.pool.clone().unwrap_or_default(),
            format: new.format.map(|format| match format {
                crate::model::vm::VolumeFormat::Raw => VolumeFormat::Raw,
                crate::model::vm::VolumeFormat::Qcow2 => VolumeFormat::Qcow2,
            }),
            size_bytes: new.size_bytes,
            image: new.image.clone().unwrap_or_default(),
            linked,
            labels: BTreeMap::new(),
        };
        let recipe = reserve_volume(tx, &wanted).map_err(|failure| failure.under(&format!("{field}.new_volume")))?;
        let id = recipe.volume.id.clone();
        self.recipes.push(recipe);
        Ok(id)
    }
}

impl Resolve for LookUp<'_, '_> {
    type Failure = Failure;

    fn image(&mut self, field: &str, name: &str) -> Result<Id, Failure> {
        let kind = if field.ends_with("kernel") { ImageKind::Kernel } else { ImageKind::Initrd };
        Ok(records::image_of_kind(self.tx, field, name, kind)?.record.id)
    }

    fn network(&mut self, _field: &str, name: &str) -> Result<Id, Failure> {
        Ok(self.tx.find::<Network>(name)?.record.id)
    }

    fn disk(&mut self, field: &str, disk: &DiskSpec<DraftSource>) -> Result<DiskSource, Failure> {
        match &disk.source {
            DraftSource::Volume(name) => {
                let volume = records::attachable_volume(self.tx, name, disk.readonly)?.record;
                let others: Vec<Id> = self
                    .taken_volumes
                    .get(&volume.id)
                    .into_iter()
                    .flatten()
                    .filter(|vm| Some(*vm) != self.own)
                    .cloned()
                    .collect();
                records::free_of_vms(Some(&others), "be a disk of this VM")?;
                Ok(DiskSource::Volume(volume.id))
            }
            DraftSource::Image(name) => {
                let image: Image = records::image(self.tx, name)?.record;
                if !matches!(image.kind, ImageKind::Iso | ImageKind::Disk) {
                    let reason = format!(
                        "is an image of kind {}: a disk is made of one of kind ISO or DISK",
                        image.kind.as_str()
                    );
                    return Err(Failure::invalid(format!("{field}.image"), name, reason));
                }
                Ok(DiskSource::Image(image.id))
            }
            DraftSource::New(new) => self.new_volume(field, disk, new).map(DiskSource::Volume),
        }
    }

    fn mac(&mut self, field: &str, mac: Option<Mac>) -> Result<Mac, Failure> {
        let mac = match mac {
            Some(mac) if self.taken_macs.contains(&mac) => {
                return Err(Failure::invalid(field, mac, "is the address of a NIC of another VM: choose another"));
            }
            Some(mac) => mac,
            None => loop {
                let mut tail = [0; 3];
                getrandom::fill(&mut tail)
                    .map_err(|error| Failure::internal("The kernel gives no random bytes", error))?;
                let mac = Mac::ours(tail);
                if !self.taken_macs.contains(&mac) {
                    break mac;
                }
            },
        };
        self.taken_macs.insert(mac);
        Ok(mac)
    }
}

/// Fixed addresses must be of the networks that NICs are in.
fn check_addresses(tx: &ReadTx<'_>, spec: &VmSpec) -> Result<(), Failure> {
    for (index, nic) in spec.nics.iter().enumerate() {
        if let Some(address) = nic.address {
            let network = tx.get::<Network>(&nic.network)?.record;
            network.check_address(&format!("nics[{index}].address"), &address.to_string())?;
        }
    }
    Ok(())
}

/// The smallest number that no VM has.
fn free_slot(tx: &ReadTx<'_>) -> Result<u32, Failure> {
    let taken: BTreeSet<u32> = tx.all::<VmRecord>()?.into_iter().map(|stored| stored.record.slot).collect();
    (0..u32::MAX)
        .find(|slot| !taken.contains(slot))
        .ok_or_else(|| Failure::exhausted("This node has no ids for another VM"))
}

/// Reserves a VM: its record, and its new volumes.
///
/// # Errors
/// The field at fault; `NotFound` for what the draft names; `AlreadyExists` for the name.
pub fn reserve(tx: &WriteTx<'_>, new: NewVm) -> Result<Reserved, Failure> {
    let mut look = LookUp::new(tx, Some((tx, &new.name)), None)?;
    let spec = VmSpec::resolve(&new.draft, &mut look).map_err(|failure| failure.under("spec"))?;
    let recipes = look.recipes;
    check_addresses(tx, &spec).map_err(|failure| failure.under("spec"))?;
    insert(tx, (new.name, new.description, new.labels), spec, recipes)
}

/// Reserves a copy of a VM. Its volumes are copied, by reflink where the file system has it; its NICs have addresses of
/// their own.
///
/// # Errors
/// As for [`reserve`].
pub fn reserve_copy(tx: &WriteTx<'_>, origin: &Id, name: Name) -> Result<Reserved, Failure> {
    let origin = tx.get::<VmRecord>(origin)?.record;
    let mut look = LookUp::new(tx, None, None)?;
    let mut spec = origin.spec.clone();
    for nic in &mut spec.nics {
        nic.mac = Some(look.mac("mac", None)?);
        nic.address = None;
    }
    let mut recipes = Vec::new();
    for disk in &mut spec.disks {
        let DiskSource::Volume(id) = &disk.source else { continue };
        let copy = NewClone {
            volume: id.to_string(),
            name: format!("{name}-{}", disk.id),
            pool: String::new(),
            linked: false,
        };
        let recipe = reserve_clone(tx, &VmUsers, &copy)?;
        disk.source = DiskSource::Volume(recipe.volume.id.clone());
        recipes.push(recipe);
    }
    insert(tx, (name, origin.description, origin.labels), spec, recipes)
}

fn insert(
    tx: &WriteTx<'_>,
    (name, description, labels): (Name, String, BTreeMap<String, String>),
    spec: VmSpec,
    recipes: Vec<Recipe>,
) -> Result<Reserved, Failure> {
    let record = VmRecord {
        id: Id::new(),
        name,
        description,
        labels,
        spec,
        slot: free_slot(tx)?,
        begun: Begun::Creation,
        running: false,
        failed: None,
        made_volumes: recipes.iter().map(|recipe| recipe.volume.id.clone()).collect(),
        last_exit: None,
    };
    Ok(Reserved { stored: tx.insert(&record)?, recipes })
}

/// The spec of a VM after a change.
///
/// # Errors
/// As for [`reserve`].
pub fn resolve_change(tx: &ReadTx<'_>, vm: &VmRecord, draft: &VmDraft) -> Result<VmSpec, Failure> {
    let mut look = LookUp::new(tx, None, Some(&vm.id))?;
    let spec = VmSpec::resolve(draft, &mut look)?;
    check_addresses(tx, &spec)?;
    Ok(spec)
}

impl Vms {
    /// Makes what was reserved; with `start`, starts it then.
    ///
    /// # Errors
    /// A volume could not be made: then nothing is left of the VM. Or it did not start: then it is there.
    pub async fn make(
        self,
        storage: Storage,
        reserved: Reserved,
        start: Option<Timeline>,
        context: TaskContext,
    ) -> Result<(), Failure> {
        let Reserved { stored, recipes } = reserved;
        let entry = self.add_created(stored);
        let span = start.as_ref().map(|timeline| timeline.span("make volumes"));
        let made = self.make_volumes(&storage, &entry, recipes, &context).await;
        drop(span);
        let wanted = start.is_some();
        let span = start.as_ref().map(|timeline| timeline.span("note"));
        let noted = match made {
            Ok(()) => {
                let noted = entry.change(self.store(), Change::Note, move |tx, record| {
                    record.begun = Begun::Nothing;
                    record.running = wanted;
                    let event = NewEvent::info("vm.created", format!("VM {} was made", record.name));
                    tx.event(event.on(record.resource())).map(drop)
                });
                noted.await
            }
            Err(failure) => Err(failure),
        };
        drop(span);
        if let Err(failure) = noted {
            self.unmake(&entry).await;
            return Err(failure);
        }
        entry.ask(Request::new(Event::Made)).await?;
        let Some(timeline) = start else { return Ok(()) };
        context.step("Starting");
        self.start_vm(&entry, timeline, &context).await
    }

    async fn make_volumes(
        &self,
        storage: &Storage,
        entry: &Entry,
        recipes: Vec<Recipe>,
        context: &TaskContext,
    ) -> Result<(), Failure> {
        for recipe in recipes {
            context.step(&format!("Making volume {}", recipe.volume.name));
            context.check()?;
            tracing::debug!(vm = %entry.id, volume = %recipe.volume.name, "making a volume");
            storage.make_volume(recipe, &Meter::of_task(context)).await?;
        }
        Ok(())
    }

    /// Removes what there is of a VM that could not be made. What cannot be removed now is at the next start.
    async fn unmake(&self, entry: &Arc<Entry>) {
        let volumes = entry.view().record().made_volumes.clone();
        for volume in volumes {
            // Its own record still has the volume: from here on it has not.
            let gone = entry.change(self.store(), Change::Note, |_, record| {
                record.begun = Begun::Deletion;
                Ok(())
            });
            let removed = match gone.await {
                Ok(()) => self.resources().delete_volume(&volume).await,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = removed {
                tracing::warn!(vm = %entry.id, %volume, "A volume stays until the next start: {}", failure.chain());
                return;
            }
        }
        let id = entry.id.clone();
        let removed = self.store().write(move |tx| tx.delete::<VmRecord>(&id, None).map(drop)).await;
        if let Err(failure) = removed {
            tracing::warn!(vm = %entry.id, "A record stays until the next start: {}", failure.chain());
            return;
        }
        if let Err(failure) = entry.ask(Request::new(Event::NotMade)).await {
            tracing::debug!(vm = %entry.id, "{}", failure.chain());
        }
    }

    /// Starts a VM whose wish is noted, and waits until it runs. When the task is cancelled, the start is given up.
    ///
    /// # Errors
    /// Why it does not run.
    pub async fn start_vm(&self, entry: &Arc<Entry>, timeline: Timeline, context: &TaskContext) -> Result<(), Failure> {
        let cancelled = context.cancelled();
        tokio::select! {
            started = entry.ask(Request { timeline: Some(timeline), ..Request::new(Event::Start) }) => started,
            () = cancelled.cancelled() => {
                entry.change(self.store(), Change::Note, |_, record| {
                    record.running = false;
                    Ok(())
                }).await?;
                entry.ask(Request::new(Event::Kill)).await?;
                Err(Failure::cancelled("The start was given up because somebody asked for it"))
            }
        }
    }
}
