//! Images come in and go: the second half, on the pools. Async runtime; bytes are written on a pool's thread.
//!
//! Order of things as for volumes: reservation, file under its temporary name, its name, record says `Ready`.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::fetch::fetch;
use super::intake::{Facts, Intake};
use super::place::{Part, remove};
use super::volumes::erase;
use super::{Meter, Storage, StorageError, StorageFault};
use crate::model::{Failure, FailureKind, Id, Image, ImagePhase, NewEvent};
use crate::store::{Record as _, Stored, WriteTx};

/// Pieces that wait to be written while the client already sends the next.
const PIECES: usize = 4;
/// A client that sends nothing for so long is given up.
const IDLE: Duration = Duration::from_mins(1);

/// A piece of an upload. Without an end, what came is thrown away.
#[derive(Debug)]
enum Piece {
    /// Bytes.
    Data(Bytes),
    /// All came.
    End,
}

impl Storage {
    /// Takes the bytes of a reserved image from a stream. `accept` is part of the transaction that makes the image appear. When this
    /// fails, or is dropped before its end, nothing is left of the image.
    ///
    /// # Errors
    /// What the stream says; bytes that are not what was announced; no room; a pool that cannot be used.
    pub async fn receive<S, A>(&self, image: Image, stream: S, accept: A) -> Result<Stored<Image>, Failure>
    where
        S: Stream<Item = Result<Bytes, Failure>> + Send,
        A: FnOnce(&WriteTx<'_>, &Image) -> Result<(), Failure> + Send + 'static,
    {
        let (pieces, inbox) = mpsc::channel(PIECES);
        let storage = self.clone();
        // On a task of its own: a caller who goes away drops `pieces`, and the rest is cleaned up all the same.
        let worker = tokio::spawn(async move {
            let work = move |part: Part, image: &Image, meter: &Meter| take(part, image, inbox, meter);
            storage.fill_image(image, &Meter::silent(), work, accept).await
        });
        let fed = feed(stream, pieces).await;
        let made = worker.await.map_err(|error| Failure::internal("Taking an image panicked", error))?;
        // Why the stream ended is the better reason than that it did.
        fed.and(made)
    }

    /// Fetches a reserved image from its URL. When this fails, nothing is left of it.
    ///
    /// # Errors
    /// What the server says; bytes that are not what was announced; no room; a pool that cannot be used.
    pub async fn import(&self, image: Image, meter: &Meter) -> Result<Stored<Image>, Failure> {
        let work = |part: Part, image: &Image, meter: &Meter| {
            let intake = Intake::new(part, image, meter);
            fetch(&image.url, image.file_size_bytes, intake, meter)
        };
        self.fill_image(image, meter, work, |_, _| Ok(())).await
    }

    async fn fill_image<W, A>(&self, image: Image, meter: &Meter, work: W, accept: A) -> Result<Stored<Image>, Failure>
    where
        W: FnOnce(Part, &Image, &Meter) -> Result<Facts, StorageError> + Send + 'static,
        A: FnOnce(&WriteTx<'_>, &Image) -> Result<(), Failure> + Send + 'static,
    {
        let id = image.id.clone();
        let made = match self.write_image(image.clone(), meter, work).await {
            Ok(facts) => {
                self.store()
                    .write(move |tx| {
                        let stored = announce(tx, image, facts)?;
                        accept(tx, &stored.record)?;
                        Ok(stored)
                    })
                    .await
            }
            Err(failure) => Err(failure),
        };
        if made.is_err() {
            self.undo_image(&id).await;
        }
        made
    }

    async fn write_image<W>(&self, image: Image, meter: &Meter, work: W) -> Result<Facts, Failure>
    where
        W: FnOnce(Part, &Image, &Meter) -> Result<Facts, StorageError> + Send + 'static,
    {
        let pool = self.pools().ready(&image.pool)?;
        let target = pool.place().image(&image.id);
        let available = pool.space().available_bytes;
        if image.file_size_bytes > available {
            let message =
                format!("Pool {} has {available} bytes left, the image has {}", pool.name(), image.file_size_bytes);
            return Err(Failure::new(FailureKind::ResourceExhausted, message));
        }
        let whole = move |meter: &Meter| work(Part::begin(target, &image.id)?, &image, meter);
        let facts = pool.gate().long("take an image", meter, whole).await?;
        pool.usage_changed();
        Ok(facts)
    }

    async fn undo_image(&self, id: &Id) {
        let id = id.clone();
        let asked = id.clone();
        let undone = async {
            let image = self.store().read(move |tx| tx.get::<Image>(&asked)).await?.record;
            let pool = self.pools().get(&image.pool)?;
            let path = pool.place().image(&image.id);
            pool.gate().call("remove an image", super::pool::PATIENCE, move || remove(&path)).await?;
            self.store().write(move |tx| tx.delete::<Image>(&id, None).map(drop)).await
        };
        if let Err(failure) = undone.await {
            tracing::error!("An image that was not taken is removed at the next start: {}", failure.chain());
        }
    }

    /// Deletes an image that was noted for it. When it fails, the image is as it was.
    ///
    /// # Errors
    /// `FailedPrecondition` while somebody reads it; a pool that cannot be used.
    pub async fn delete_image(&self, mut image: Image) -> Result<(), Failure> {
        let deleted = self.erase_image(&image).await;
        if deleted.is_err() {
            image.phase = ImagePhase::Ready;
            self.store().write(move |tx| tx.update(&image, None).map(drop)).await?;
            return deleted;
        }
        self.store()
            .write(move |tx| {
                tx.delete::<Image>(&image.id, None)?;
                let event = NewEvent::info("image.deleted", format!("Image {} was deleted", image.name));
                tx.event(event.on(image.reference())).map(drop)
            })
            .await
    }

    async fn erase_image(&self, image: &Image) -> Result<(), Failure> {
        let pool = self.pools().ready(&image.pool)?;
        let path = pool.place().image(&image.id);
        let work = move |_: &Meter| erase(&path);
        pool.gate().long("delete an image", &Meter::silent(), work).await?;
        pool.usage_changed();
        Ok(())
    }
}

fn announce(tx: &WriteTx<'_>, mut image: Image, facts: Facts) -> Result<Stored<Image>, Failure> {
    image.phase = ImagePhase::Ready;
    image.format = facts.format;
    image.file_size_bytes = facts.file_size_bytes;
    image.virtual_size_bytes = facts.virtual_size_bytes;
    image.sha256 = facts.sha256;
    let stored = tx.update(&image, None)?;
    let event = NewEvent::info("image.created", format!("Image {} was added", image.name));
    tx.event(event.on(image.reference()).with("sha256", image.sha256.as_str()))?;
    Ok(stored)
}

/// Hands a stream on, piece by piece. An error ends it without an end.
async fn feed<S>(stream: S, pieces: mpsc::Sender<Piece>) -> Result<(), Failure>
where
    S: Stream<Item = Result<Bytes, Failure>> + Send,
{
    let mut stream = std::pin::pin!(stream);
    loop {
        let next = timeout(IDLE, stream.next()).await.map_err(|_| {
            let message = format!("Nothing came for {} s: the image was thrown away, upload it again", IDLE.as_secs());
            Failure::new(FailureKind::DeadlineExceeded, message)
        })?;
        let piece = match next {
            Some(bytes) => Piece::Data(bytes?),
            None => Piece::End,
        };
        let last = matches!(piece, Piece::End);
        // The writer went away: it knows why.
        if pieces.send(piece).await.is_err() || last {
            return Ok(());
        }
    }
}

fn take(part: Part, image: &Image, mut inbox: mpsc::Receiver<Piece>, meter: &Meter) -> Result<Facts, StorageError> {
    let mut intake = Intake::new(part, image, meter);
    loop {
        match inbox.blocking_recv() {
            Some(Piece::Data(bytes)) => intake.push(&bytes)?,
            Some(Piece::End) => return intake.finish(),
            None => {
                let what = "The upload ended before all bytes came; nothing of it is left";
                return Err(StorageError::new(StorageFault::Cancelled, what));
            }
        }
    }
}
