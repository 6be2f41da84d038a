//! `VolumeService`: disks in pools. Async runtime; converts, authorises, calls.

use std::collections::HashMap;
use std::sync::Arc;

use quantix_api::v1;
use quantix_api::v1::volume_service_server::VolumeService;
use tonic::{Request, Response, Status};

use super::begin::Begin;
use super::convert::{answer, patience};
use crate::daemon::Rooms;
use crate::model::{Base, Caller, Failure, Fingerprint, Id, Name, Page, Pool, Volume, VolumeFormat, check_labels};
use crate::storage::{
    Meter, NewClone, NewVolume, Recipe, Storage, Usage, Uses, records, reserve_clone, reserve_deletion, reserve_resize,
    reserve_volume,
};
use crate::store::{ReadTx, Record as _, Store, Stored, WriteTx, parse_etag};
use crate::tasks::{TaskContext, Tasks};

/// The service.
pub struct VolumeRpc {
    store: Store,
    tasks: Tasks,
    storage: Storage,
}

/// What a volume's message needs besides its record.
struct Around {
    pools: HashMap<Id, Name>,
    uses: Uses,
}

impl VolumeRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self { store: rooms.store.clone(), tasks: rooms.tasks.clone(), storage: rooms.storage.clone() }
    }

    fn around(&self) -> impl FnOnce(&ReadTx<'_>) -> Result<Around, Failure> + Send + 'static {
        let users = self.storage.users();
        move |tx| {
            let pools = tx.all::<Pool>()?.into_iter().map(|stored| (stored.record.id, stored.record.name)).collect();
            Ok(Around { pools, uses: users.uses(tx)? })
        }
    }

    async fn show(&self, volumes: &[Stored<Volume>], around: &Around) -> Vec<v1::Volume> {
        let mut usages: HashMap<&Id, Arc<Usage>> = HashMap::new();
        for stored in volumes {
            let pool = &stored.record.pool;
            if !usages.contains_key(pool)
                && let Ok(live) = self.storage.live_pool(pool)
            {
                usages.insert(pool, live.usage().await);
            }
        }
        let used = |volume: &Volume| usages.get(&volume.pool).map_or(0, |usage| usage.of_volume(volume));
        volumes.iter().map(|stored| wire(stored, used(&stored.record), around)).collect()
    }

    async fn show_one(&self, stored: Stored<Volume>, around: &Around) -> Result<v1::Volume, Failure> {
        self.show(&[stored], around).await.pop().ok_or_else(|| Failure::bug("A volume has no message"))
    }

    async fn list(&self, request: v1::ListVolumesRequest) -> Result<v1::ListVolumesResponse, Failure> {
        let scope = format!("volumes?{}", request.pool);
        let page = Page::parse(request.page_size, &request.page_token, scope)?;
        let around = self.around();
        let look = move |tx: &ReadTx<'_>| {
            let pool = match request.pool.as_str() {
                "" => None,
                pool => Some(records::pool(tx, pool)?.record.id),
            };
            let shown =
                |volume: &Volume| volume.phase.is_visible() && pool.as_ref().is_none_or(|pool| volume.pool == *pool);
            Ok((tx.list::<Volume>(&page, shown)?, around(tx)?))
        };
        let (found, around) = self.store.read(look).await?;
        let volumes = self.show(&found.items, &around).await;
        Ok(v1::ListVolumesResponse { volumes, next_page_token: found.next })
    }

    async fn get(&self, asked: String) -> Result<v1::Volume, Failure> {
        let around = self.around();
        let look = move |tx: &ReadTx<'_>| Ok((records::volume(tx, &asked)?, around(tx)?));
        let (stored, around) = self.store.read(look).await?;
        self.show_one(stored, &around).await
    }

    async fn update(&self, request: v1::UpdateVolumeRequest) -> Result<v1::Volume, Failure> {
        let wish = request.volume.ok_or_else(|| Failure::invalid("volume", "", "is missing"))?;
        let changes = Changes::parse(&wish, request.update_mask).map_err(|failure| failure.under("volume"))?;
        let expected = parse_etag(&wish.etag)?;
        let around = self.around();
        let change = move |tx: &WriteTx<'_>| {
            let mut volume = records::volume(tx, &wish.id)?.record;
            changes.apply(&mut volume);
            let stored = tx.update(&volume, expected)?;
            Ok((stored, around(tx)?))
        };
        let (stored, around) = self.store.write(change).await?;
        self.show_one(stored, &around).await
    }

    fn begin(&self, caller: Caller, method: &'static str, request_id: String, fingerprint: Fingerprint) -> Begin<'_> {
        Begin { store: &self.store, tasks: &self.tasks, caller, method, request_id, fingerprint }
    }

    /// The work of a task that makes a reserved volume.
    fn maker(&self, step: &'static str) -> impl FnOnce(Recipe, TaskContext) -> MakeFuture + Send + 'static {
        let storage = self.storage.clone();
        move |recipe, context| {
            Box::pin(async move {
                context.step(step);
                storage.make_volume(recipe, &Meter::of_task(&context)).await.map(drop)
            })
        }
    }

    async fn create(&self, caller: Caller, mut request: v1::CreateVolumeRequest) -> Result<v1::Task, Failure> {
        let (wait, request_id) = (request.wait.take(), std::mem::take(&mut request.request_id));
        patience("wait", wait)?;
        let begin = self.begin(caller, "CreateVolume", request_id, Fingerprint::of(&request));
        let new = NewVolume {
            format: format("format", request.format)?,
            name: request.name,
            pool: request.pool,
            size_bytes: request.size_bytes,
            image: request.image,
            linked: request.linked,
            labels: request.labels,
        };
        let reserve =
            move |tx: &WriteTx<'_>| reserve_volume(tx, &new).map(|recipe| (recipe.volume.reference(), recipe));
        let task = begin.run(reserve, self.maker("Making the volume")).await?;
        answer(&self.tasks, &task, wait).await
    }

    async fn clone_one(&self, caller: Caller, mut request: v1::CloneVolumeRequest) -> Result<v1::Task, Failure> {
        let (wait, request_id) = (request.wait.take(), std::mem::take(&mut request.request_id));
        patience("wait", wait)?;
        let begin = self.begin(caller, "CloneVolume", request_id, Fingerprint::of(&request));
        let users = self.storage.users();
        let new = NewClone { volume: request.volume, name: request.name, pool: request.pool, linked: request.linked };
        let reserve =
            move |tx: &WriteTx<'_>| reserve_clone(tx, &*users, &new).map(|recipe| (recipe.volume.reference(), recipe));
        let task = begin.run(reserve, self.maker("Copying the volume")).await?;
        answer(&self.tasks, &task, wait).await
    }

    async fn resize(&self, caller: Caller, mut request: v1::ResizeVolumeRequest) -> Result<v1::Task, Failure> {
        let (wait, request_id) = (request.wait.take(), std::mem::take(&mut request.request_id));
        patience("wait", wait)?;
        let begin = self.begin(caller, "ResizeVolume", request_id, Fingerprint::of(&request));
        let storage = self.storage.clone();
        let reserve = move |tx: &WriteTx<'_>| {
            reserve_resize(tx, &request.volume, request.size_bytes).map(|volume| (volume.reference(), volume))
        };
        let work = |volume: Volume, context: TaskContext| async move {
            context.step("Making the volume larger");
            storage.resize_volume(volume, &Meter::of_task(&context)).await
        };
        let task = begin.run(reserve, work).await?;
        answer(&self.tasks, &task, wait).await
    }

    async fn delete(&self, caller: Caller, mut request: v1::DeleteVolumeRequest) -> Result<v1::Task, Failure> {
        let wait = request.wait.take();
        patience("wait", wait)?;
        let expected = parse_etag(&request.etag)?;
        let begin = self.begin(caller, "DeleteVolume", String::new(), Fingerprint::of(&request));
        let (storage, users) = (self.storage.clone(), self.storage.users());
        let reserve = move |tx: &WriteTx<'_>| {
            reserve_deletion(tx, &*users, &request.volume, expected).map(|volume| (volume.reference(), volume))
        };
        let work = |volume: Volume, context: TaskContext| async move {
            context.step("Deleting the volume");
            storage.delete_volume(volume).await
        };
        let task = begin.run(reserve, work).await?;
        answer(&self.tasks, &task, wait).await
    }
}

type MakeFuture = std::pin::Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// What `UpdateVolume` may change.
struct Changes {
    name: Option<Name>,
    labels: Option<std::collections::BTreeMap<String, String>>,
}

impl Changes {
    fn parse(wish: &v1::Volume, mask: Option<prost_types::FieldMask>) -> Result<Self, Failure> {
        let paths = mask.unwrap_or_default().paths;
        if let Some(path) = paths.iter().find(|path| !matches!(path.as_str(), "name" | "labels")) {
            return Err(Failure::invalid("update_mask", path, "cannot be changed: name `name` or `labels`"));
        }
        let named = |path: &str, differs: bool| paths.iter().any(|p| p == path) || (paths.is_empty() && differs);
        let renamed = named("name", !wish.name.is_empty());
        let name = renamed.then(|| Name::parse("name", &wish.name)).transpose()?;
        let labels = named("labels", !wish.labels.is_empty()).then(|| wish.labels.clone());
        if let Some(labels) = &labels {
            check_labels("labels", labels)?;
        }
        Ok(Self { name, labels })
    }

    fn apply(self, volume: &mut Volume) {
        if let Some(name) = self.name {
            volume.name = name;
        }
        if let Some(labels) = self.labels {
            volume.labels = labels;
        }
    }
}

/// Reads a format; nothing for unspecified.
fn format(field: &str, value: i32) -> Result<Option<VolumeFormat>, Failure> {
    match v1::VolumeFormat::try_from(value) {
        Ok(v1::VolumeFormat::Unspecified) => Ok(None),
        Ok(v1::VolumeFormat::Raw) => Ok(Some(VolumeFormat::Raw)),
        Ok(v1::VolumeFormat::Qcow2) => Ok(Some(VolumeFormat::Qcow2)),
        Err(_) => Err(Failure::invalid(field, value, "is not a format: there are RAW and QCOW2")),
    }
}

fn wire(stored: &Stored<Volume>, used_bytes: u64, around: &Around) -> v1::Volume {
    let volume = &stored.record;
    let format = match volume.format {
        VolumeFormat::Raw => v1::VolumeFormat::Raw,
        VolumeFormat::Qcow2 => v1::VolumeFormat::Qcow2,
    };
    let vms = around.uses.volumes.get(&volume.id).map(|vms| vms.iter().map(Id::to_string).collect());
    v1::Volume {
        id: volume.id.to_string(),
        name: volume.name.to_string(),
        pool: around.pools.get(&volume.pool).map(Name::to_string).unwrap_or_default(),
        format: format.into(),
        size_bytes: volume.size_bytes,
        used_bytes,
        backing_volume: match &volume.base {
            Some(Base::Volume(id)) => id.to_string(),
            _ => String::new(),
        },
        image: volume.image.as_ref().map(Id::to_string).unwrap_or_default(),
        vms: vms.unwrap_or_default(),
        labels: volume.labels.clone(),
        create_time: Some(stored.create_time.into()),
        update_time: Some(stored.update_time.into()),
        etag: stored.etag(),
    }
}

#[tonic::async_trait]
impl VolumeService for VolumeRpc {
    async fn list_volumes(
        &self,
        request: Request<v1::ListVolumesRequest>,
    ) -> Result<Response<v1::ListVolumesResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn get_volume(&self, request: Request<v1::GetVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        Ok(Response::new(self.get(request.into_inner().volume).await?))
    }

    async fn create_volume(&self, request: Request<v1::CreateVolumeRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.create(caller, request.into_inner()).await?))
    }

    async fn update_volume(&self, request: Request<v1::UpdateVolumeRequest>) -> Result<Response<v1::Volume>, Status> {
        Ok(Response::new(self.update(request.into_inner()).await?))
    }

    async fn resize_volume(&self, request: Request<v1::ResizeVolumeRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.resize(caller, request.into_inner()).await?))
    }

    async fn clone_volume(&self, request: Request<v1::CloneVolumeRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.clone_one(caller, request.into_inner()).await?))
    }

    async fn delete_volume(&self, request: Request<v1::DeleteVolumeRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.delete(caller, request.into_inner()).await?))
    }
}
