//! `TaskService`: follows and ends tasks. Async runtime.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, stream};
use quantix_api::v1;
use quantix_api::v1::task_service_server::TaskService;
use tonic::{Request, Response, Status};

use super::convert::patience;
use crate::daemon::Rooms;
use crate::model::{Failure, Id, Page};
use crate::store::{Store, TaskFilter};
use crate::tasks::{TaskWatch, Tasks};

/// How long `WaitTask` waits when the caller does not say.
const DEFAULT_WAIT: Duration = Duration::from_mins(1);

/// The service.
pub struct TaskRpc {
    pub(super) store: Store,
    pub(super) tasks: Tasks,
}

impl TaskRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self { store: rooms.store.clone(), tasks: rooms.tasks.clone() }
    }

    async fn list(&self, request: v1::ListTasksRequest) -> Result<v1::ListTasksResponse, Failure> {
        let filter = TaskFilter {
            resource_id: (!request.resource_id.is_empty()).then_some(request.resource_id),
            active_only: request.active_only,
        };
        let scope = format!("tasks?{}&{}", filter.resource_id.as_deref().unwrap_or_default(), filter.active_only);
        let page = Page::parse(request.page_size, &request.page_token, scope)?;
        let found = self.store.read(move |tx| tx.list_tasks(&page, &filter)).await?;
        // The store has states only; what runs knows its progress.
        let tasks = found.items.iter().map(|task| (&self.tasks.freshen(task)).into()).collect();
        Ok(v1::ListTasksResponse { tasks, next_page_token: found.next })
    }

    async fn wait(&self, request: v1::WaitTaskRequest) -> Result<v1::Task, Failure> {
        let id = Id::parse("task", &request.task)?;
        let timeout = patience("timeout", request.timeout)?.unwrap_or(DEFAULT_WAIT);
        Ok((&self.tasks.wait(&id, Some(timeout)).await?).into())
    }

    async fn cancel(&self, request: v1::CancelTaskRequest) -> Result<v1::Task, Failure> {
        let id = Id::parse("task", &request.task)?;
        Ok((&self.tasks.cancel(&id).await?).into())
    }
}

/// The changes of a task, beginning with how it is now.
fn changes(watch: TaskWatch) -> impl Stream<Item = Result<v1::Task, Status>> {
    let first = (&watch.task()).into();
    let rest = stream::try_unfold(watch, |mut watch| async move {
        Ok::<_, Status>(watch.next().await?.map(|task| ((&task).into(), watch)))
    });
    futures_util::StreamExt::chain(stream::iter([Ok(first)]), rest)
}

#[tonic::async_trait]
impl TaskService for TaskRpc {
    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::Task>, Status> {
        let id = Id::parse("task", &request.into_inner().task)?;
        Ok(Response::new((&self.tasks.get(&id).await?).into()))
    }

    async fn wait_task(&self, request: Request<v1::WaitTaskRequest>) -> Result<Response<v1::Task>, Status> {
        Ok(Response::new(self.wait(request.into_inner()).await?))
    }

    type WatchTaskStream = Pin<Box<dyn Stream<Item = Result<v1::Task, Status>> + Send>>;

    async fn watch_task(
        &self,
        request: Request<v1::WatchTaskRequest>,
    ) -> Result<Response<Self::WatchTaskStream>, Status> {
        let id = Id::parse("task", &request.into_inner().task)?;
        Ok(Response::new(Box::pin(changes(self.tasks.watch(&id).await?))))
    }

    async fn cancel_task(&self, request: Request<v1::CancelTaskRequest>) -> Result<Response<v1::Task>, Status> {
        Ok(Response::new(self.cancel(request.into_inner()).await?))
    }
}
