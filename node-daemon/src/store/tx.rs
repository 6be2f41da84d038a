//! A transaction, as rooms see it. Store thread. What it can do is in the neighbouring files, one per subject.

use std::cell::RefCell;
use std::ops::Deref;

use rusqlite::{Connection, OptionalExtension as _};

use super::requests::Unanswered;
use crate::model::{Event, Failure};

/// Looks at one consistent state.
pub struct ReadTx<'t> {
    pub(super) tx: &'t Connection,
    pub(super) epoch: &'t str,
}

/// Changes the state; also everything that `ReadTx` can.
pub struct WriteTx<'t> {
    read: ReadTx<'t>,
    pub(super) events: RefCell<Vec<Event>>,
    pub(super) unanswered: RefCell<Option<Unanswered>>,
}

impl<'t> ReadTx<'t> {
    pub(super) fn new(tx: &'t Connection, epoch: &'t str) -> Self {
        Self { tx, epoch }
    }

    /// A setting of the inventory itself, such as the node's id.
    pub fn meta(&self, key: &str) -> Result<Option<String>, Failure> {
        let mut statement = self.tx.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
        Ok(statement.query_row([key], |row| row.get(0)).optional()?)
    }
}

impl<'t> WriteTx<'t> {
    pub(super) fn new(tx: &'t Connection, epoch: &'t str) -> Self {
        Self { read: ReadTx::new(tx, epoch), events: RefCell::default(), unanswered: RefCell::default() }
    }

    pub(super) fn into_events(self) -> Vec<Event> {
        self.events.into_inner()
    }

    /// Sets a setting of the inventory itself.
    pub fn set_meta(&self, key: &str, value: &str) -> Result<(), Failure> {
        self.tx
            .prepare_cached("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value")?
            .execute([key, value])?;
        Ok(())
    }

    /// The next revision; grows over all records.
    pub(super) fn next_revision(&self) -> Result<u64, Failure> {
        let mut statement = self.tx.prepare_cached("UPDATE revision SET latest = latest + 1 RETURNING latest")?;
        Ok(statement.query_row([], |row| row.get(0))?)
    }
}

impl<'t> Deref for WriteTx<'t> {
    type Target = ReadTx<'t>;

    fn deref(&self) -> &Self::Target {
        &self.read
    }
}
