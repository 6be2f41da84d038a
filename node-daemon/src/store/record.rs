//! Documents of resources: one STRICT table per kind, all of one shape, so this SQL is written once. Store thread.

use rusqlite::{ErrorCode, OptionalExtension as _, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::StoreError;
use super::tx::{ReadTx, WriteTx};
use crate::model::{Failure, FailureKind, Id, Page, PageOf, ResourceKind, ResourceRef, Time};

/// A resource that is kept as a document. Its migration makes the table: `-- documents: TABLE`.
pub trait Record: Serialize + DeserializeOwned {
    /// The table.
    const TABLE: &'static str;
    /// What it is.
    const KIND: ResourceKind;
    /// Its id; never changes.
    fn id(&self) -> &Id;
    /// Its name; unique in the table.
    fn name(&self) -> &str;

    /// A reference to it.
    fn reference(&self) -> ResourceRef {
        ResourceRef::new(Self::KIND, self.id(), self.name())
    }
}

/// A document with what the store knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// The document.
    pub record: T,
    /// Changes with every change; no two changes on this node have the same.
    pub revision: u64,
    /// When it was made, as the clock said.
    pub create_time: Time,
    /// When it was last changed, as the clock said.
    pub update_time: Time,
}

impl<T> Stored<T> {
    /// The revision as clients see it.
    pub fn etag(&self) -> String {
        self.revision.to_string()
    }
}

/// Reads a request's etag; empty means that any revision will do.
///
/// # Errors
/// `Aborted` when no revision ever looked like this: it is surely not the present one.
pub fn parse_etag(etag: &str) -> Result<Option<u64>, Failure> {
    if etag.is_empty() {
        return Ok(None);
    }
    etag.parse().map(Some).map_err(|_| stale())
}

fn stale() -> Failure {
    Failure::new(FailureKind::Aborted, "It was changed by somebody else meanwhile (etag): read it again and retry")
}

type Columns = (String, String, u64, i64, i64);

fn columns(row: &Row<'_>) -> rusqlite::Result<Columns> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn stored<T: Record>((id, body, revision, create, update): Columns) -> Result<Stored<T>, Failure> {
    let record = serde_json::from_str(&body).map_err(|source| StoreError::Document { table: T::TABLE, id, source })?;
    Ok(Stored { record, revision, create_time: Time::from_micros(create), update_time: Time::from_micros(update) })
}

fn body<T: Record>(record: &T) -> Result<String, Failure> {
    serde_json::to_string(record)
        .map_err(|source| StoreError::Document { table: T::TABLE, id: record.id().to_string(), source }.into())
}

const COLUMNS: &str = "id, body, revision, create_time, update_time";

impl ReadTx<'_> {
    fn by<T: Record>(&self, column: &str, value: &str) -> Result<Option<Stored<T>>, Failure> {
        let sql = format!("SELECT {COLUMNS} FROM {} WHERE {column} = ?1", T::TABLE);
        self.tx.prepare_cached(&sql)?.query_row([value], columns).optional()?.map(stored).transpose()
    }

    /// The document with this id.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn get<T: Record>(&self, id: &Id) -> Result<Stored<T>, Failure> {
        self.by("id", id.as_str())?.ok_or_else(|| Failure::not_found(T::KIND, id.as_str()))
    }

    /// The document with this id or, failing that, this name.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub fn find<T: Record>(&self, id_or_name: &str) -> Result<Stored<T>, Failure> {
        self.lookup(id_or_name)?.ok_or_else(|| Failure::not_found(T::KIND, id_or_name))
    }

    /// As `find`, with nothing found as no error.
    pub fn lookup<T: Record>(&self, id_or_name: &str) -> Result<Option<Stored<T>>, Failure> {
        if Id::is_id(id_or_name)
            && let Some(found) = self.by("id", id_or_name)?
        {
            return Ok(Some(found));
        }
        self.by("name", id_or_name)
    }

    /// A page of the documents that `filter` lets through, in the order of their ids (the order in which they were made).
    pub fn list<T: Record>(&self, page: &Page, filter: impl Fn(&T) -> bool) -> Result<PageOf<Stored<T>>, Failure> {
        let sql = format!("SELECT {COLUMNS} FROM {} WHERE id > ?1 ORDER BY id", T::TABLE);
        let mut statement = self.tx.prepare_cached(&sql)?;
        let mut rows = statement.query([page.after().unwrap_or("")])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let item = stored::<T>(columns(row)?)?;
            if filter(&item.record) {
                found.push(item);
                if found.len() > page.size() {
                    break;
                }
            }
        }
        Ok(page.cut(found, |item| item.record.id().to_string()))
    }

    /// All documents, in the order of their ids.
    pub fn all<T: Record>(&self) -> Result<Vec<Stored<T>>, Failure> {
        let sql = format!("SELECT {COLUMNS} FROM {} ORDER BY id", T::TABLE);
        let mut statement = self.tx.prepare_cached(&sql)?;
        let rows = statement.query_map([], columns)?;
        rows.map(|row| stored(row?)).collect()
    }
}

impl WriteTx<'_> {
    /// Adds a document.
    ///
    /// # Errors
    /// `AlreadyExists` when the id or name is taken.
    pub fn insert<T: Record>(&self, record: &T) -> Result<Stored<T>, Failure> {
        let (text, revision, now) = (body(record)?, self.next_revision()?, Time::now());
        let sql = format!(
            "INSERT INTO {} (id, name, revision, body, create_time, update_time) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
            T::TABLE
        );
        self.tx
            .prepare_cached(&sql)?
            .execute(params![record.id().as_str(), record.name(), revision, text, now.micros()])
            .map_err(|error| taken::<T>(record, error))?;
        self.get(record.id())
    }

    /// Replaces a document; with `expected` only when it still has that revision.
    ///
    /// # Errors
    /// `NotFound`; `Aborted` when the revision is another; `AlreadyExists` when a new name is taken.
    pub fn update<T: Record>(&self, record: &T, expected: Option<u64>) -> Result<Stored<T>, Failure> {
        self.check_revision::<T>(record.id(), expected)?;
        let (text, revision, now) = (body(record)?, self.next_revision()?, Time::now());
        let sql =
            format!("UPDATE {} SET name = ?2, revision = ?3, body = ?4, update_time = ?5 WHERE id = ?1", T::TABLE);
        self.tx
            .prepare_cached(&sql)?
            .execute(params![record.id().as_str(), record.name(), revision, text, now.micros()])
            .map_err(|error| taken::<T>(record, error))?;
        self.get(record.id())
    }

    /// Replaces a document without a new revision or update time: for what is observed, not wished, so that it does
    /// not make clients' etags stale.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn note<T: Record>(&self, record: &T) -> Result<(), Failure> {
        let sql = format!("UPDATE {} SET body = ?2 WHERE id = ?1", T::TABLE);
        match self.tx.prepare_cached(&sql)?.execute(params![record.id().as_str(), body(record)?])? {
            0 => Err(Failure::not_found(T::KIND, record.id().as_str())),
            _ => Ok(()),
        }
    }

    /// Removes a document and returns it; with `expected` only when it still has that revision.
    ///
    /// # Errors
    /// `NotFound`; `Aborted` when the revision is another.
    pub fn delete<T: Record>(&self, id: &Id, expected: Option<u64>) -> Result<Stored<T>, Failure> {
        let gone = self.check_revision::<T>(id, expected)?;
        self.tx.prepare_cached(&format!("DELETE FROM {} WHERE id = ?1", T::TABLE))?.execute([id.as_str()])?;
        Ok(gone)
    }

    fn check_revision<T: Record>(&self, id: &Id, expected: Option<u64>) -> Result<Stored<T>, Failure> {
        let present = self.get::<T>(id)?;
        match expected {
            Some(revision) if revision != present.revision => Err(stale()),
            _ => Ok(present),
        }
    }
}

fn taken<T: Record>(record: &T, error: rusqlite::Error) -> Failure {
    match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => Failure::exists(T::KIND, record.name()),
        _ => error.into(),
    }
}
