//! The store's thread: reads one by one, writes in groups. What makes a write slow is the flush of the disk at its commit;
//! writes that wait at the same time share one. Each still is all or nothing, by a savepoint of its own, and none is
//! answered before the flush.

use std::sync::mpsc::Receiver;

use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::model::{Failure, FailureKind};

/// Writes of a group at most, so that reads need not wait for long.
const MOST: usize = 64;

/// Something to do.
pub(super) enum Job {
    /// Looks.
    Read(Read),
    /// Changes.
    Write(Write),
}

/// Looks and answers by itself.
pub(super) type Read = Box<dyn FnOnce(&mut Connection) + Send>;
/// Changes in a savepoint of this transaction, or hears why there is none; then answers when it hears of the commit.
pub(super) type Write = Box<dyn FnOnce(Result<&mut Transaction<'_>, Failure>) -> Answer + Send>;
/// Answers, given what came of the commit.
pub(super) type Answer = Box<dyn FnOnce(Result<(), Failure>)>;

/// Works until nobody has a handle on the store any more.
pub(super) fn run(connection: &mut Connection, inbox: &Receiver<Job>) {
    while let Ok(first) = inbox.recv() {
        let (mut reads, mut writes) = (Vec::new(), Vec::new());
        for job in std::iter::once(first).chain(inbox.try_iter()) {
            match job {
                Job::Read(read) => reads.push(read),
                Job::Write(write) => writes.push(write),
            }
            if reads.len() + writes.len() >= MOST {
                break;
            }
        }
        // Reads first: no write that they could have heard of is among those that wait.
        for read in reads {
            read(connection);
        }
        write(connection, writes);
    }
}

fn write(connection: &mut Connection, writes: Vec<Write>) {
    let mut writes = writes.into_iter();
    while writes.len() > 0 {
        let mut tx = match connection.transaction_with_behavior(TransactionBehavior::Immediate) {
            Ok(tx) => tx,
            Err(error) => {
                let failure = Failure::from(error);
                writes.for_each(|write| write(Err(again(&failure)))(Ok(())));
                return;
            }
        };
        let mut answers = Vec::new();
        let mut lost = false;
        for write in writes.by_ref() {
            answers.push(write(Ok(&mut tx)));
            // A full disk and the like take back the whole transaction, not only the savepoint.
            lost = tx.is_autocommit();
            if lost {
                break;
            }
        }
        let committed = if lost { Err(lost_with_another()) } else { tx.commit().map_err(Failure::from) };
        for answer in answers {
            answer(committed.as_ref().map_err(again).copied());
        }
    }
}

fn lost_with_another() -> Failure {
    let message =
        "The inventory's disk did not take a change that was made at the same time, nothing was changed: try again";
    Failure::new(FailureKind::Unavailable, message)
}

/// The same failure for another caller.
fn again(failure: &Failure) -> Failure {
    Failure::new(failure.kind(), failure.message()).caused_by(failure.chain())
}
