//! Moves bytes between a VMM's stream and the console. One tokio task for each VM that runs.

use std::io;
use std::sync::Weak;

use bytes::Bytes;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::Shared;
use super::log::ConsoleLog;

/// Read at once, in bytes. Small, because every VM has one.
const READ_BYTES: usize = 4096;

/// Runs until the stream ends or the console is gone.
pub(super) async fn run(
    shared: Weak<Shared>,
    stream: UnixStream,
    mut typed: mpsc::Receiver<Bytes>,
    mut log: ConsoleLog,
) {
    let mut pending = Bytes::new();
    let mut keyboard = true;
    loop {
        let interest = if pending.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        tokio::select! {
            ready = stream.ready(interest) => {
                let Ok(ready) = ready else { break };
                if ready.is_writable() && !pending.is_empty() && !give(&stream, &mut pending) {
                    pending = Bytes::new();
                }
                if (ready.is_readable() || ready.is_read_closed()) && !take(&shared, &stream, &mut log) {
                    break;
                }
            }
            piece = typed.recv(), if keyboard && pending.is_empty() => match piece {
                Some(piece) => pending = piece,
                None => keyboard = false,
            },
            () = log.worked() => {}
        }
    }
    log.finish().await;
}

/// Shows what came; false at the end of the stream.
fn take(shared: &Weak<Shared>, stream: &UnixStream, log: &mut ConsoleLog) -> bool {
    let mut buffer = [0; READ_BYTES];
    match stream.try_read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => {
            let bytes = buffer.get(..length).unwrap_or_default();
            let Some(shared) = shared.upgrade() else { return false };
            shared.print(bytes);
            log.write(bytes);
            true
        }
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// Types what the guest takes; false when it is gone.
fn give(stream: &UnixStream, pending: &mut Bytes) -> bool {
    match stream.try_write(pending) {
        Ok(length) => {
            drop(pending.split_to(length.min(pending.len())));
            true
        }
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}
