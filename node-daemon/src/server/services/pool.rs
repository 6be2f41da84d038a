//! `PoolService`: where volumes are kept. Async runtime; converts, authorises, calls.

use quantix_api::v1;
use quantix_api::v1::pool_service_server::PoolService;
use tonic::{Request, Response, Status};

use super::begin::Begin;
use super::convert::{answer, patience};
use crate::daemon::Rooms;
use crate::model::{Caller, Failure, Fingerprint, Name, Page, Pool, PoolPhase, PoolSource};
use crate::storage::{Health, Storage, forget_pool, records, reserve_pool};
use crate::store::{Record as _, Store, Stored, WriteTx, parse_etag};
use crate::tasks::Tasks;

/// The service.
pub struct PoolRpc {
    store: Store,
    tasks: Tasks,
    storage: Storage,
}

impl PoolRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self { store: rooms.store.clone(), tasks: rooms.tasks.clone(), storage: rooms.storage.clone() }
    }

    async fn list(&self, request: v1::ListPoolsRequest) -> Result<v1::ListPoolsResponse, Failure> {
        let page = Page::parse(request.page_size, &request.page_token, "pools")?;
        let ready = |pool: &Pool| pool.phase == PoolPhase::Ready;
        let found = self.store.read(move |tx| tx.list::<Pool>(&page, ready)).await?;
        let mut pools = Vec::new();
        for stored in &found.items {
            pools.push(self.show(stored).await);
        }
        Ok(v1::ListPoolsResponse { pools, next_page_token: found.next })
    }

    async fn get(&self, request: v1::GetPoolRequest) -> Result<v1::Pool, Failure> {
        let stored = self.store.read(move |tx| records::pool(tx, &request.pool)).await?;
        Ok(self.show(&stored).await)
    }

    async fn show(&self, stored: &Stored<Pool>) -> v1::Pool {
        let mut shown = v1::Pool {
            id: stored.record.id.to_string(),
            name: stored.record.name.to_string(),
            source: Some(wire_source(&stored.record.source)),
            state: v1::PoolState::Unavailable.into(),
            create_time: Some(stored.create_time.into()),
            etag: stored.etag(),
            ..v1::Pool::default()
        };
        match self.storage.live_pool(&stored.record.id) {
            Err(failure) => shown.state_reason = failure.chain(),
            Ok(live) => {
                shown.used_bytes = live.usage().await.total_bytes;
                let space = live.space();
                shown.capacity_bytes = space.capacity_bytes;
                shown.available_bytes = space.available_bytes;
                shown.reflink = live.reflink();
                match live.health() {
                    Health::Ready => shown.state = v1::PoolState::Ready.into(),
                    Health::Unavailable(reason) => shown.state_reason = reason,
                }
            }
        }
        shown
    }

    async fn create(&self, caller: Caller, mut request: v1::CreatePoolRequest) -> Result<v1::Task, Failure> {
        let (wait, request_id) = (request.wait.take(), std::mem::take(&mut request.request_id));
        patience("wait", wait)?;
        let fingerprint = Fingerprint::of(&request);
        let name = Name::parse("name", &request.name)?;
        let source = match request.source {
            Some(v1::create_pool_request::Source::Directory(directory)) => PoolSource::directory(&directory.path)?,
            Some(v1::create_pool_request::Source::Nfs(nfs)) => PoolSource::nfs(&nfs.server, &nfs.export, &nfs.options)?,
            None => return Err(Failure::invalid("source", "", "is missing: give `directory` or `nfs`")),
        };
        let (store, tasks) = (&self.store, &self.tasks);
        let begin = Begin { store, tasks, caller, method: "CreatePool", request_id, fingerprint };
        let storage = self.storage.clone();
        let reserve = move |tx: &WriteTx<'_>| {
            let pool = reserve_pool(tx, name, source)?;
            Ok((pool.reference(), pool))
        };
        let work = |pool: Pool, context: crate::tasks::TaskContext| async move {
            context.step("Taking the pool into use");
            storage.make_pool(&pool).await
        };
        let task = begin.run(reserve, work).await?;
        answer(tasks, &task, wait).await
    }

    async fn delete(&self, caller: Caller, mut request: v1::DeletePoolRequest) -> Result<v1::Task, Failure> {
        let wait = request.wait.take();
        patience("wait", wait)?;
        let (fingerprint, expected) = (Fingerprint::of(&request), parse_etag(&request.etag)?);
        let (store, tasks) = (&self.store, &self.tasks);
        let begin = Begin { store, tasks, caller, method: "DeletePool", request_id: String::new(), fingerprint };
        let storage = self.storage.clone();
        let reserve = move |tx: &WriteTx<'_>| {
            let pool = forget_pool(tx, &request.pool, expected)?;
            Ok((pool.reference(), pool))
        };
        let work = |pool: Pool, context: crate::tasks::TaskContext| async move {
            context.step("Letting go of the pool");
            storage.leave_pool(&pool.id).await
        };
        let task = begin.run(reserve, work).await?;
        answer(tasks, &task, wait).await
    }
}

fn wire_source(source: &PoolSource) -> v1::pool::Source {
    match source.clone() {
        PoolSource::Directory { path } => v1::pool::Source::Directory(v1::DirectorySource { path }),
        PoolSource::Nfs { server, export, options } => v1::pool::Source::Nfs(v1::NfsSource { server, export, options }),
    }
}

#[tonic::async_trait]
impl PoolService for PoolRpc {
    async fn list_pools(
        &self,
        request: Request<v1::ListPoolsRequest>,
    ) -> Result<Response<v1::ListPoolsResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn get_pool(&self, request: Request<v1::GetPoolRequest>) -> Result<Response<v1::Pool>, Status> {
        Ok(Response::new(self.get(request.into_inner()).await?))
    }

    async fn create_pool(&self, request: Request<v1::CreatePoolRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.create(caller, request.into_inner()).await?))
    }

    async fn delete_pool(&self, request: Request<v1::DeletePoolRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.delete(caller, request.into_inner()).await?))
    }
}
