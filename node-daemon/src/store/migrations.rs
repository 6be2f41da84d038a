//! The database's shape, as numbered steps. Store thread, at start. A step that was released is never edited: add one.

use rusqlite::{Connection, TransactionBehavior};

use super::error::StoreError;
use crate::model::Time;

/// One step.
struct Migration {
    number: u32,
    name: &'static str,
    sql: &'static str,
}

macro_rules! migrations {
    ($($number:literal $name:literal),* $(,)?) => {
        &[$(Migration { number: $number, name: $name, sql: include_str!(concat!("migrations/", $name, ".sql")) }),*]
    };
}

/// All steps, in order; each room has a file of its own.
const MIGRATIONS: &[Migration] = migrations![
    1 "0001_core",
    2 "0002_auth",
    3 "0003_storage",
    4 "0004_network",
    5 "0005_vm",
    6 "0006_telemetry",
];

/// A document's table: every resource kind has one of this shape, so its SQL is written once, in `record.rs`.
/// `-- documents: NAME` in a migration stands for it.
pub(super) fn documents(table: &str) -> String {
    format!(
        "CREATE TABLE {table} (id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, revision INTEGER NOT NULL, \
         body TEXT NOT NULL, create_time INTEGER NOT NULL, update_time INTEGER NOT NULL) STRICT;"
    )
}

fn expand(sql: &str) -> String {
    let lines = sql.lines().map(|line| match line.strip_prefix("-- documents: ") {
        Some(table) => documents(table.trim()),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Brings the database to the shape of this program, each step in a transaction of its own.
pub(super) fn apply(connection: &mut Connection) -> Result<(), StoreError> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, time INTEGER NOT NULL) STRICT",
    )?;
    let done: u32 = connection.query_row("SELECT coalesce(max(number), 0) FROM migrations", [], |row| row.get(0))?;
    let known = MIGRATIONS.last().map_or(0, |last| last.number);
    if done > known {
        return Err(StoreError::Newer { found: done, known });
    }
    for step in MIGRATIONS.iter().filter(|step| step.number > done) {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch(&expand(step.sql)).map_err(|source| StoreError::Migration { name: step.name, source })?;
        tx.execute(
            "INSERT INTO migrations VALUES (?1, ?2, ?3)",
            rusqlite::params![step.number, step.name, Time::now().micros()],
        )?;
        tx.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_by_one() {
        for (at, step) in MIGRATIONS.iter().enumerate() {
            assert_eq!(step.number as usize, at + 1);
            assert!(step.name.starts_with(&format!("{:04}_", step.number)));
        }
    }

    #[test]
    fn applying_twice_does_nothing_and_every_table_is_strict() {
        let mut connection = Connection::open_in_memory().unwrap();
        apply(&mut connection).unwrap();
        apply(&mut connection).unwrap();
        let loose: i64 = connection
            .query_row(
                "SELECT count(*) FROM pragma_table_list WHERE type = 'table' AND NOT strict AND name NOT LIKE 'sqlite_%'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(loose, 0);
    }

    #[test]
    fn a_newer_database_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        apply(&mut connection).unwrap();
        connection.execute("INSERT INTO migrations VALUES (99, 'later', 0)", []).unwrap();
        assert!(matches!(apply(&mut connection), Err(StoreError::Newer { found: 99, .. })));
    }
}
