//! The audit log on disk: only ever added to; triggers of the database refuse the rest. Store thread.

use rusqlite::{Row, params};

use super::tx::{ReadTx, WriteTx};
use crate::model::{AuditEntry, Failure, Id, NewAudit, Page, PageOf, ResourceRef, Time};

fn entry(row: &Row<'_>) -> rusqlite::Result<AuditEntry> {
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error)
    };
    let token_id: Option<String> = row.get(3)?;
    let resource: Option<String> = row.get(6)?;
    Ok(AuditEntry {
        sequence: row.get(0)?,
        time: Time::from_micros(row.get(1)?),
        entry: NewAudit {
            user: row.get(2)?,
            token_id: token_id.map(Id::try_from).transpose().map_err(|error| broken(error.into()))?,
            peer: row.get(4)?,
            method: row.get(5)?,
            resource: resource
                .map(|text| serde_json::from_str::<ResourceRef>(&text))
                .transpose()
                .map_err(|error| broken(error.into()))?,
            code: row.get(7)?,
            message: row.get(8)?,
        },
    })
}

impl ReadTx<'_> {
    /// A page of entries, newest first; of one user when `user` is given.
    pub fn list_audit(&self, page: &Page, user: Option<&str>) -> Result<PageOf<AuditEntry>, Failure> {
        let before: i64 = page.after().map_or(Ok(i64::MAX), str::parse).map_err(|_| {
            Failure::invalid("page_token", page.after().unwrap_or_default(), "is not from an answer to this list")
        })?;
        let limit = i64::try_from(page.size() + 1).unwrap_or(i64::MAX);
        let mut statement = self.tx.prepare_cached(if user.is_some() {
            "SELECT * FROM audit WHERE sequence < ?1 AND user = ?2 ORDER BY sequence DESC LIMIT ?3"
        } else {
            "SELECT * FROM audit WHERE sequence < ?1 AND ?2 IS NULL ORDER BY sequence DESC LIMIT ?3"
        })?;
        let rows = statement.query_map(params![before, user, limit], entry)?;
        let found = rows.collect::<Result<Vec<_>, _>>()?;
        Ok(page.cut(found, |entry| entry.sequence.to_string()))
    }
}

impl WriteTx<'_> {
    /// Adds an entry.
    pub fn audit(&self, new: &NewAudit) -> Result<(), Failure> {
        let resource = new
            .resource
            .as_ref()
            .map(serde_json::to_string)
            .transpose()
            .map_err(|error| Failure::internal("An audit entry cannot be written", error))?;
        self.tx
            .prepare_cached(
                "INSERT INTO audit (time, user, token_id, peer, method, resource, code, message) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                Time::now().micros(),
                new.user,
                new.token_id.as_ref().map(Id::as_str),
                new.peer,
                new.method,
                resource,
                new.code,
                new.message
            ])?;
        Ok(())
    }
}
