//! Idempotency: the same call again with its `request_id` does nothing twice and answers the same. Store thread.

use rusqlite::{OptionalExtension as _, params};

use super::tx::WriteTx;
use crate::model::{Caller, Failure, FailureKind, Fingerprint, Id, Violation};

/// Answers that are remembered.
const KEPT: u64 = 20_000;
/// Longest `request_id`, in bytes.
const LONGEST: usize = 256;

/// Whether this request was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// It was not: do it.
    First,
    /// It was: answer with this task (or, for calls that answer with a resource, this resource).
    Again(Id),
}

/// A first request that waits for its answer.
pub(super) struct Unanswered {
    caller: String,
    method: &'static str,
    request_id: String,
    fingerprint: Fingerprint,
}

impl WriteTx<'_> {
    /// Looks whether this caller has made this request before. After `First`, the next `task` of this transaction
    /// becomes its answer by itself; a call that answers with a resource says it by `answer`.
    ///
    /// # Errors
    /// `InvalidArgument` when the `request_id` was used for something else, or is too long.
    pub fn request(
        &self,
        caller: &Caller,
        method: &'static str,
        request_id: &str,
        fingerprint: Fingerprint,
    ) -> Result<Idempotency, Failure> {
        if request_id.is_empty() {
            return Ok(Idempotency::First);
        }
        if request_id.len() > LONGEST {
            return Err(Failure::invalid("request_id", request_id, "is too long: use at most 256 bytes"));
        }
        let before: Option<(Vec<u8>, String)> = self
            .tx
            .prepare_cached(
                "SELECT fingerprint, answer FROM requests WHERE caller = ?1 AND method = ?2 AND request_id = ?3",
            )?
            .query_row(params![caller.name, method, request_id], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        match before {
            Some((was, answer)) if was == fingerprint.as_bytes() => Ok(Idempotency::Again(
                Id::try_from(answer).map_err(|error| Failure::internal("A remembered answer is damaged", error))?,
            )),
            Some(_) => Err(Failure::violations(vec![Violation {
                field: "request_id".into(),
                description: "was used by you for another request to this method: choose a new one".into(),
            }])),
            None => {
                *self.unanswered.borrow_mut() = Some(Unanswered {
                    caller: caller.name.clone(),
                    method,
                    request_id: request_id.into(),
                    fingerprint,
                });
                Ok(Idempotency::First)
            }
        }
    }

    /// Remembers the answer to the request of this transaction; nothing to do when it had no `request_id`.
    pub fn answer(&self, id: &Id) -> Result<(), Failure> {
        let Some(request) = self.unanswered.borrow_mut().take() else { return Ok(()) };
        self.tx
            .prepare_cached(
                "INSERT INTO requests (caller, method, request_id, fingerprint, answer) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![
                request.caller,
                request.method,
                request.request_id,
                request.fingerprint.as_bytes(),
                id.as_str()
            ])?;
        let newest = u64::try_from(self.tx.last_insert_rowid()).unwrap_or(0);
        self.tx.prepare_cached("DELETE FROM requests WHERE number <= ?1")?.execute([newest.saturating_sub(KEPT)])?;
        Ok(())
    }
}

/// The failure for an answer that is remembered but whose task is gone (tasks are kept bounded).
pub(super) fn forgotten(id: &Id) -> Failure {
    Failure::new(
        FailureKind::NotFound,
        format!("There is no task {id}: it is over, and only the newest tasks are kept"),
    )
}
