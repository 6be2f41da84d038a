//! Events on disk: one sequence, bounded. Store thread.

use rusqlite::{Row, params};

use super::tx::{ReadTx, WriteTx};
use crate::model::{Event, Failure, NewEvent, Page, PageOf, ResourceRef, Severity, Time};

/// Events that are kept.
const KEPT: u64 = 20_000;
/// Old events are removed once in so many new ones.
const SWEEP: u64 = 256;

/// Which events to list or watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Only kinds that begin with one of these; none means all.
    pub kinds: Vec<String>,
    /// Only those of this resource id.
    pub resource_id: Option<String>,
}

impl EventFilter {
    /// Whether this event is asked for.
    pub fn lets(&self, event: &Event) -> bool {
        let kind = self.kinds.is_empty() || self.kinds.iter().any(|kind| event.kind.starts_with(kind.as_str()));
        let resource = self
            .resource_id
            .as_ref()
            .is_none_or(|id| event.resource.as_ref().is_some_and(|resource| resource.id.as_str() == id));
        kind && resource
    }
}

const SEVERITIES: [(Severity, &str); 3] =
    [(Severity::Info, "info"), (Severity::Warning, "warning"), (Severity::Alarm, "alarm")];

fn severity_text(severity: Severity) -> &'static str {
    SEVERITIES.into_iter().find(|row| row.0 == severity).map_or("info", |row| row.1)
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error.into())
}

fn event(row: &Row<'_>, epoch: &str) -> rusqlite::Result<Event> {
    let severity: String = row.get(3)?;
    let resource: Option<String> = row.get(4)?;
    let resource = resource.map(|text| serde_json::from_str::<ResourceRef>(&text)).transpose().map_err(broken)?;
    Ok(Event {
        sequence: row.get(0)?,
        epoch: epoch.to_owned(),
        time: Time::from_micros(row.get(1)?),
        kind: row.get(2)?,
        severity: SEVERITIES.into_iter().find(|row| row.1 == severity).map_or(Severity::Info, |row| row.0),
        resource,
        message: row.get(5)?,
        details: serde_json::from_str(&row.get::<_, String>(6)?).map_err(broken)?,
    })
}

impl ReadTx<'_> {
    /// The first and the last sequence that are kept; (1, 0) when nothing is.
    pub fn event_range(&self) -> Result<(u64, u64), Failure> {
        let last: u64 = self
            .tx
            .prepare_cached("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)")?
            .query_row([], |row| row.get(0))?;
        let first: Option<u64> =
            self.tx.prepare_cached("SELECT min(sequence) FROM events")?.query_row([], |row| row.get(0))?;
        Ok((first.unwrap_or(last + 1), last))
    }

    /// At most `limit` events after `sequence` that `filter` lets through, oldest first.
    pub fn events_after(&self, sequence: u64, filter: &EventFilter, limit: usize) -> Result<Vec<Event>, Failure> {
        let by_resource = filter.resource_id.is_some();
        let mut statement = self.tx.prepare_cached(if by_resource {
            "SELECT sequence, time, kind, severity, resource, message, details FROM events \
             WHERE sequence > ?1 AND resource_id = ?2 ORDER BY sequence"
        } else {
            "SELECT sequence, time, kind, severity, resource, message, details FROM events \
             WHERE sequence > ?1 AND ?2 IS NULL ORDER BY sequence"
        })?;
        let mut rows = statement.query(params![sequence, filter.resource_id])?;
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(row) = rows.next()?
        {
            let event = event(row, self.epoch)?;
            if filter.lets(&event) {
                found.push(event);
            }
        }
        Ok(found)
    }

    /// A page of kept events, oldest first.
    pub fn list_events(&self, page: &Page, filter: &EventFilter) -> Result<PageOf<Event>, Failure> {
        let after = page.after().map_or(Ok(0), str::parse).map_err(|_| {
            Failure::invalid("page_token", page.after().unwrap_or_default(), "is not from an answer to this list")
        })?;
        let found = self.events_after(after, filter, page.size() + 1)?;
        Ok(page.cut(found, |event| event.sequence.to_string()))
    }
}

impl WriteTx<'_> {
    /// Records an event; subscribers get it after the commit.
    pub fn event(&self, new: NewEvent) -> Result<Event, Failure> {
        let time = Time::now();
        let json = |error| Failure::internal("An event cannot be written", error);
        let resource = new.resource.as_ref().map(serde_json::to_string).transpose().map_err(json)?;
        let details = serde_json::to_string(&new.details).map_err(json)?;
        self.tx
            .prepare_cached(
                "INSERT INTO events (time, kind, severity, resource, resource_id, message, details) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                time.micros(),
                new.kind,
                severity_text(new.severity),
                resource,
                new.resource.as_ref().map(|resource| resource.id.as_str()),
                new.message,
                details
            ])?;
        let sequence = u64::try_from(self.tx.last_insert_rowid()).unwrap_or(0);
        if sequence.is_multiple_of(SWEEP) {
            self.tx
                .prepare_cached("DELETE FROM events WHERE sequence <= ?1")?
                .execute([sequence.saturating_sub(KEPT)])?;
        }
        let event = Event {
            sequence,
            epoch: self.epoch.to_owned(),
            time,
            kind: new.kind,
            severity: new.severity,
            resource: new.resource,
            message: new.message,
            details: new.details,
        };
        self.events.borrow_mut().push(event.clone());
        Ok(event)
    }
}
