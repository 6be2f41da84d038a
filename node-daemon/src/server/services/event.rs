//! `EventService`: what happens on this node. Async runtime.

use std::pin::Pin;

use futures_util::{Stream, stream};
use quantix_api::v1;
use quantix_api::v1::event_service_server::EventService;
use tonic::{Request, Response, Status};

use crate::daemon::Rooms;
use crate::events::{EventWatch, Events};
use crate::model::{Failure, Page, ResumeToken};
use crate::store::{EventFilter, Store};

/// Kinds that one call may name.
const MOST_KINDS: usize = 64;

/// The service.
pub struct EventRpc {
    pub(super) store: Store,
    pub(super) events: Events,
}

impl EventRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self { store: rooms.store.clone(), events: rooms.events.clone() }
    }

    async fn list(&self, request: v1::ListEventsRequest) -> Result<v1::ListEventsResponse, Failure> {
        let filter = filter(request.kinds, request.resource_id)?;
        let scope = format!("events?{filter:?}");
        let page = Page::parse(request.page_size, &request.page_token, scope)?;
        let found = self.store.read(move |tx| tx.list_events(&page, &filter)).await?;
        Ok(v1::ListEventsResponse {
            events: found.items.into_iter().map(Into::into).collect(),
            next_page_token: found.next,
        })
    }

    async fn watch(&self, request: v1::WatchEventsRequest) -> Result<EventWatch, Failure> {
        let filter = filter(request.kinds, request.resource_id)?;
        let token = request.resume_token;
        let resume = (!token.is_empty()).then(|| ResumeToken::parse("resume_token", &token)).transpose()?;
        self.events.watch(resume, filter).await
    }
}

fn filter(kinds: Vec<String>, resource_id: String) -> Result<EventFilter, Failure> {
    if kinds.len() > MOST_KINDS {
        return Err(Failure::invalid("kinds", kinds.len(), "are too many: name at most 64 kinds"));
    }
    Ok(EventFilter { kinds, resource_id: (!resource_id.is_empty()).then_some(resource_id) })
}

#[tonic::async_trait]
impl EventService for EventRpc {
    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let watch = self.watch(request.into_inner()).await?;
        let events = stream::try_unfold(watch, |mut watch| async move {
            Ok::<_, Status>(watch.next().await?.map(|event| (event.into(), watch)))
        });
        Ok(Response::new(Box::pin(events)))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Result<Response<v1::ListEventsResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }
}
