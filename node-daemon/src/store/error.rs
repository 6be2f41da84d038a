//! What can go wrong with the database, and what callers are told of it. Any thread.

use std::path::PathBuf;

use rusqlite::ErrorCode;

use crate::model::{Failure, FailureKind};

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite said no.
    #[error("The inventory's database failed")]
    Sqlite(#[from] rusqlite::Error),
    /// A step of the shape did not work.
    #[error("Migration {name} of the inventory's database failed")]
    Migration {
        name: &'static str,
        #[source]
        source: rusqlite::Error,
    },
    /// Written by a later version.
    #[error(
        "The inventory's database has the shape {found}, this quantix-node knows up to {known}: start the version that wrote it, or a later one"
    )]
    Newer { found: u32, known: u32 },
    /// The check found damage.
    #[error("The inventory's database is damaged: {0}")]
    Damaged(String),
    /// The file system said no.
    #[error("Cannot {action} {path}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A document is not what its type says.
    #[error("{table}: the document {id} does not fit its type")]
    Document {
        table: &'static str,
        id: String,
        #[source]
        source: serde_json::Error,
    },
}

impl StoreError {
    /// Whether the file itself is bad, so that it has to be kept aside.
    pub(super) fn is_corruption(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sqlite(error) | Self::Migration { source: error, .. } => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::CannotOpen)
            ),
            _ => false,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => {
                Failure::exhausted("The disk that holds the inventory is full, nothing was changed: free space in the state directory")
            }
            Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => Failure::new(
                FailureKind::Unavailable,
                "The disk that holds the inventory does not take or give data, nothing was changed: look at the kernel's log",
            ),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Failure::bug(
                "The inventory's database is damaged: restart quantix-node, which keeps it aside and begins a new one",
            ),
            _ => Failure::bug("The inventory's database failed"),
        }
        .caused_by(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Sqlite(error) => error.into(),
            StoreError::Newer { .. } => Failure::precondition(error.to_string()),
            other => {
                let message = other.to_string();
                let source = std::error::Error::source(&other).map(ToString::to_string);
                match source {
                    Some(source) => Failure::internal(message, source),
                    None => Failure::bug(message),
                }
            }
        }
    }
}
