//! Pure types that every room speaks: ids, names, failures, callers, and one file per resource. Any thread; must not do
//! I/O, know a room, or name a wire type.

#![forbid(unsafe_code)]

// Foundation.
mod audit;
mod caller;
mod event;
mod failure;
mod id;
mod page;
mod request;
mod resource;
mod task;
mod time;

pub use audit::{AuditEntry, NewAudit};
pub use caller::{Caller, Role};
pub use event::{Event, NewEvent, ResumeToken, Severity};
pub use failure::{Failure, FailureKind, Violation};
pub use id::{Id, Name};
pub use page::{Page, PageOf};
pub use request::Fingerprint;
pub use resource::{ResourceKind, ResourceRef};
pub use task::{NewTask, Progress, Task, TaskError, TaskState};
pub use time::Time;

// One line a resource, by the room that owns it. Keep the comment lines: they keep merges apart.
mod user;
pub use user::{Token, TokenKind, User};
// auth: user, token
// storage: pool, volume, image
mod image;
mod pool;
mod volume;
pub use image::{Image, ImageBoot, ImageFormat, ImageKind, ImagePhase, Sha256Hex, check_cmdline};
pub use pool::{Pool, PoolPhase, PoolSource};
pub use volume::{Base, Volume, VolumeFormat, VolumePhase, check_labels, check_size, whole_sectors};
// network: network
mod network;
pub use network::{
    DEFAULT_DOMAIN, Direction, FirewallRule, Mac, Nat, NatRequest, Network, NetworkKind, Ports, Protocol, Range,
    Remote, RuleAction, Subnet, Uplink, check_domain, check_servers, free_subnet,
};
// vm: vm
pub mod vm;

#[cfg(test)]
mod tests;
