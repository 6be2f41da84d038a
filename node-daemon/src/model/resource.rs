//! What there is on a node, and references to it. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Id;

/// A kind of thing that the API manages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ResourceKind {
    /// A virtual machine.
    Vm,
    /// A disk in a pool.
    Volume,
    /// A place for volumes and images.
    Pool,
    /// A read-only template or ISO.
    Image,
    /// A bridge with its addressing.
    Network,
    /// A person or program that may log in.
    User,
    /// An API token.
    Token,
    /// The node itself.
    Host,
    /// A long operation.
    Task,
}

impl ResourceKind {
    /// As it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Volume => "volume",
            Self::Pool => "pool",
            Self::Image => "image",
            Self::Network => "network",
            Self::User => "user",
            Self::Token => "token",
            Self::Host => "host",
            Self::Task => "task",
        }
    }
}

impl fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In sentences an abbreviation is written as people write it.
        f.write_str(if *self == Self::Vm { "VM" } else { self.as_str() })
    }
}

/// A resource by what it is; stays readable after the resource is gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResourceRef {
    /// What it is.
    pub kind: ResourceKind,
    /// Its id.
    pub id: Id,
    /// Its name at that time.
    pub name: String,
}

impl ResourceRef {
    /// A reference.
    pub fn new(kind: ResourceKind, id: &Id, name: impl Into<String>) -> Self {
        Self { kind, id: id.clone(), name: name.into() }
    }
}
