//! Who changed what, and who was refused. Pure; entries are only ever added.

use super::{Id, ResourceRef, Time};

/// An entry to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewAudit {
    /// Who: a user's name, `uid:N`, or empty when nobody was logged in.
    pub user: String,
    /// The token that was used.
    pub token_id: Option<Id>,
    /// From where: an address with port, or `unix`.
    pub peer: String,
    /// The method: `quantix.node.v1.VmService/CreateVm`.
    pub method: String,
    /// To what.
    pub resource: Option<ResourceRef>,
    /// `google.rpc.Code`: 0 when it was let through.
    pub code: i32,
    /// Why it was refused, or what was changed.
    pub message: String,
}

/// One call that changed something, or that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Grows with every entry.
    pub sequence: u64,
    /// When, as the clock said.
    pub time: Time,
    /// What was written.
    pub entry: NewAudit,
}
