//! `AuditService`: reads the audit log. Async runtime. That only administrators may is a row in the table of `auth/`.

use quantix_api::v1;
use quantix_api::v1::audit_service_server::AuditService;
use tonic::{Request, Response, Status};

use super::convert::reference;
use crate::daemon::Rooms;
use crate::model::{AuditEntry, Failure, Id, Page};
use crate::store::Store;

/// The service.
pub struct AuditRpc {
    pub(super) store: Store,
}

impl AuditRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self { store: rooms.store.clone() }
    }

    async fn list(&self, request: v1::ListAuditEntriesRequest) -> Result<v1::ListAuditEntriesResponse, Failure> {
        let page = Page::parse(request.page_size, &request.page_token, format!("audit?{}", request.user))?;
        let user = (!request.user.is_empty()).then_some(request.user);
        let found = self.store.read(move |tx| tx.list_audit(&page, user.as_deref())).await?;
        Ok(v1::ListAuditEntriesResponse {
            entries: found.items.into_iter().map(Into::into).collect(),
            next_page_token: found.next,
        })
    }
}

impl From<AuditEntry> for v1::AuditEntry {
    fn from(AuditEntry { sequence, time, entry }: AuditEntry) -> Self {
        Self {
            sequence,
            time: Some(time.into()),
            user: entry.user,
            token_id: entry.token_id.as_ref().map(Id::to_string).unwrap_or_default(),
            peer: entry.peer,
            method: entry.method,
            resource: entry.resource.as_ref().map(reference),
            code: entry.code,
            message: entry.message,
        }
    }
}

#[tonic::async_trait]
impl AuditService for AuditRpc {
    async fn list_audit_entries(
        &self,
        request: Request<v1::ListAuditEntriesRequest>,
    ) -> Result<Response<v1::ListAuditEntriesResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }
}
