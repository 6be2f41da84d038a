//! Sends what happens to whoever watches. Any task of the async runtime. The store keeps the events and their order; this
//! room only joins the kept ones and the new ones without a gap.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use crate::model::{Event, Failure, FailureKind, NewEvent, ResumeToken};
use crate::store::{EventFilter, Store};

/// Events that are read from the store at once.
const CHUNK: usize = 256;

/// The events of this node; cheap to clone.
#[derive(Clone)]
pub struct Events {
    store: Store,
    closing: CancellationToken,
}

impl Events {
    /// The events in this store.
    pub fn new(store: Store) -> Self {
        Self { store, closing: CancellationToken::new() }
    }

    /// Ends all watches: the daemon ends.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Records and sends an event that belongs to no transaction.
    ///
    /// # Errors
    /// What the store says.
    pub async fn publish(&self, event: NewEvent) -> Result<Event, Failure> {
        self.store.write(move |tx| tx.event(event)).await
    }

    /// As `publish`, for places that can do nothing about a failure: it is logged.
    pub async fn tell(&self, event: NewEvent) {
        let text = format!("{}: {}", event.kind, event.message);
        if let Err(failure) = self.publish(event).await {
            tracing::error!("Cannot record an event ({text}): {}", failure.chain());
        }
    }

    /// Follows events: those after `resume`, then each new one; without `resume` only new ones.
    ///
    /// # Errors
    /// `OutOfRange` when events after `resume` are no longer kept, or it belongs to another inventory: the state has to
    /// be read anew.
    pub async fn watch(&self, resume: Option<ResumeToken>, filter: EventFilter) -> Result<EventWatch, Failure> {
        // Subscribed first: what is committed from here on is heard, what was before is read.
        let live = self.store.subscribe();
        let (first, last) = self.store.read(|tx| tx.event_range()).await?;
        let seen = match resume {
            None => last,
            Some(token) => {
                if token.epoch != self.store.epoch() || token.sequence > last || token.sequence + 1 < first {
                    return Err(too_old(first, last));
                }
                token.sequence
            }
        };
        let closing = self.closing.clone();
        let ready = VecDeque::new();
        Ok(EventWatch { store: self.store.clone(), live, closing, filter, seen, behind: seen < last, ready })
    }
}

fn too_old(first: u64, last: u64) -> Failure {
    let message = format!(
        "The resume token is not of the events {first} to {last} that are kept: read the state anew and watch without a token"
    );
    Failure::new(FailureKind::OutOfRange, message)
}

/// Follows events.
pub struct EventWatch {
    store: Store,
    live: broadcast::Receiver<Arc<Event>>,
    closing: CancellationToken,
    filter: EventFilter,
    /// Every event up to this was looked at.
    seen: u64,
    /// There are events in the store that were not looked at.
    behind: bool,
    ready: VecDeque<Event>,
}

impl EventWatch {
    /// The next event; nothing when the daemon ends. Safe to drop and call again.
    ///
    /// # Errors
    /// `OutOfRange` when this watcher was so slow that events it did not see are no longer kept; what the store says.
    pub async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.behind {
                self.catch_up().await?;
                continue;
            }
            let heard = tokio::select! {
                heard = self.live.recv() => heard,
                () = self.closing.cancelled() => return Ok(None),
            };
            match heard {
                Ok(event) if event.sequence <= self.seen => {}
                Ok(event) => {
                    self.seen = event.sequence;
                    if self.filter.lets(&event) {
                        return Ok(Some(event.as_ref().clone()));
                    }
                }
                Err(RecvError::Lagged(_)) => self.behind = true,
                Err(RecvError::Closed) => return Ok(None),
            }
        }
    }

    /// Reads a chunk from the store.
    async fn catch_up(&mut self) -> Result<(), Failure> {
        let (seen, filter) = (self.seen, self.filter.clone());
        let (first, last, found) = self
            .store
            .read(move |tx| {
                let (first, last) = tx.event_range()?;
                Ok((first, last, tx.events_after(seen, &filter, CHUNK)?))
            })
            .await?;
        if seen + 1 < first {
            return Err(too_old(first, last));
        }
        self.behind = found.len() == CHUNK;
        self.seen = match found.last() {
            Some(event) if self.behind => event.sequence,
            _ => last,
        };
        self.ready.extend(found);
        Ok(())
    }
}
