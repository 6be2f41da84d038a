//! The console stream: what the guest prints to the caller, what the caller types to the guest. Two tokio tasks for each
//! caller, which end with the stream.

use std::time::Duration;

use bytes::Bytes;
use quantix_api::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::Out;
use crate::console::Console;
use crate::model::Failure;
use crate::vm::Vms;

/// Answers that wait for a caller; what is beyond stays in the console's ring, and is lost there when it is too much.
const AHEAD: usize = 4;
/// Longest piece of typing in one message, in bytes.
const TYPED_BYTES: usize = 64 << 10;
/// How long the first message may take.
const FIRST: Duration = Duration::from_secs(30);

/// Serves one caller.
///
/// # Errors
/// The first message does not name a VM.
pub async fn serve(vms: &Vms, mut input: Streaming<v1::ConsoleInput>) -> Result<Out<v1::ConsoleOutput>, Status> {
    let missing = || Failure::invalid("vm", "", "is missing: name the VM in the first message");
    let first = tokio::time::timeout(FIRST, input.message()).await.map_err(|_| missing())??.ok_or_else(missing)?;
    let entry = vms.find(&first.vm)?;
    let console = entry.console.clone();
    let mut viewer = console.view();
    let (sender, receiver) = mpsc::channel(AHEAD);
    let closed = sender.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = type_all(console, first.data, input) => {}
            () = closed.closed() => {}
        }
    });
    let mut watch = entry.watch();
    drop(entry);
    tokio::spawn(async move {
        loop {
            let seen = tokio::select! {
                seen = viewer.next() => seen,
                () = sender.closed() => return,
                // The last who can change a VM is gone: it was deleted.
                changed = watch.changed() => if changed.is_ok() { continue } else { return },
            };
            let output = v1::ConsoleOutput { data: seen.data.into(), replay: seen.replay, lost_bytes: seen.lost_bytes };
            if sender.send(Ok(output)).await.is_err() {
                return;
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Types until the caller types no more. What is typed while the VM is off is dropped, as by any serial line.
async fn type_all(console: Console, first: Vec<u8>, mut input: Streaming<v1::ConsoleInput>) {
    let mut data = first;
    loop {
        for piece in data.chunks(TYPED_BYTES) {
            if console.type_in(Bytes::copy_from_slice(piece)).await.is_err() {
                break;
            }
        }
        match input.message().await {
            Ok(Some(message)) => data = message.data,
            Ok(None) | Err(_) => return,
        }
    }
}
