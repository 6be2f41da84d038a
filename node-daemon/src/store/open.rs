//! Opens the database file; keeps a damaged one aside. Store thread, at start. Must never overwrite what it cannot read.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _};

use super::error::StoreError;
use super::migrations;
use crate::model::{Id, Time};

/// A database that could not be read and now has another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAside {
    /// Where it is now.
    pub path: PathBuf,
    /// What was wrong with it.
    pub reason: String,
}

/// An open database.
pub(super) struct Opened {
    pub connection: Connection,
    pub epoch: String,
    pub kept_aside: Option<KeptAside>,
}

/// Opens, checks and migrates. A damaged file is kept aside and a new one begun.
pub(super) fn open(path: &Path) -> Result<Opened, StoreError> {
    match attempt(path) {
        Ok((connection, epoch)) => Ok(Opened { connection, epoch, kept_aside: None }),
        Err(error) if error.is_corruption() && path.exists() => {
            let reason = match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            let aside = set_aside(path)?;
            let (connection, epoch) = attempt(path)?;
            Ok(Opened { connection, epoch, kept_aside: Some(KeptAside { path: aside, reason }) })
        }
        Err(error) => Err(error),
    }
}

fn attempt(path: &Path) -> Result<(Connection, String), StoreError> {
    let mut connection = Connection::open(path)?;
    // Hashes of passwords and tokens are in it. SQLite gives its journals the mode of the database.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(|source| StoreError::Io {
        action: "keep others from reading",
        path: path.to_owned(),
        source,
    })?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(128);
    check(&connection)?;
    migrations::apply(&mut connection)?;
    let epoch = if let Some(epoch) = meta(&connection, "epoch")? {
        epoch
    } else {
        let epoch = Id::new().to_string();
        connection.execute("INSERT INTO meta VALUES ('epoch', ?1)", [&epoch])?;
        epoch
    };
    Ok((connection, epoch))
}

fn check(connection: &Connection) -> Result<(), StoreError> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(StoreError::Damaged(verdict)) }
}

fn meta(connection: &Connection, key: &str) -> Result<Option<String>, StoreError> {
    Ok(connection.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()?)
}

/// Renames the database and its journal; the new name is one that nobody has.
fn set_aside(path: &Path) -> Result<PathBuf, StoreError> {
    let stamp = Time::now().to_string().replace(':', "");
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let free = |number: u32| {
        let suffix = if number == 0 { String::new() } else { format!("-{number}") };
        path.with_file_name(format!("{name}.damaged-{stamp}{suffix}"))
    };
    let aside = (0..u32::MAX).map(free).find(|candidate| !candidate.exists()).unwrap_or_else(|| free(u32::MAX));
    for end in ["", "-wal", "-shm"] {
        let from = with_end(path, end);
        if !from.exists() {
            continue;
        }
        std::fs::rename(&from, with_end(&aside, end)).map_err(|source| StoreError::Io {
            action: "keep aside the damaged",
            path: from,
            source,
        })?;
    }
    Ok(aside)
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(end);
    text.into()
}
