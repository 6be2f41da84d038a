//! Who calls. Put into a request's extensions by the layer of `auth/`, read by the services. Pure.

use serde::{Deserialize, Serialize};

use super::{Failure, FailureKind, Id};

/// What a caller may do; each includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May look.
    Viewer,
    /// May work with VMs, volumes, images and networks.
    Operator,
    /// May do everything.
    Admin,
}

/// Who made this request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// A user's name, or `uid:N` on the local socket.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The token that was used, if one was.
    pub token_id: Option<Id>,
    /// From where: an address with port, or `unix`.
    pub peer: String,
}

impl Caller {
    /// The daemon itself: autostart, restart policies, supervision.
    pub fn daemon() -> Self {
        Self { name: "quantix-node".into(), role: Role::Admin, token_id: None, peer: String::new() }
    }

    /// Who made this request.
    ///
    /// # Errors
    /// `Unauthenticated` when no layer found that out.
    pub fn of<T>(request: &tonic::Request<T>) -> Result<Self, Failure> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Failure::new(FailureKind::Unauthenticated, "Nobody is logged in: send a token"))
    }
}
