//! Sends a file to the node as an image, with a bar, and compares the SHA-256 of what was sent with that of what the node
//! keeps. The file is read once, by the runtime's blocking threads; at most a few pieces are in memory.

use std::path::Path;
use std::sync::{Arc, Mutex};

use quantix_api::v1::upload_image_request::Part;
use quantix_api::v1::{DeleteImageRequest, Image, ImageDescription, UploadImageRequest};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::failure::{ExitStatus, Failure};
use crate::progress::Bar;
use crate::session::Session;
use crate::units;

/// The API takes at most 1 MiB in one message.
const PIECE: usize = 512 << 10;

/// Uploads a file; `-` is standard input.
pub async fn upload(path: &Path, mut description: ImageDescription, session: &Session) -> Result<Image, Failure> {
    let from: Box<dyn AsyncRead + Send + Unpin> = if path == Path::new("-") {
        Box::new(tokio::io::stdin())
    } else {
        let file = tokio::fs::File::open(path).await.map_err(|error| Failure::file(path, &error))?;
        let metadata = file.metadata().await.map_err(|error| Failure::file(path, &error))?;
        if metadata.is_dir() {
            return Err(Failure::usage(format!("{} is a directory", path.display())));
        }
        // Of a pipe or a device nobody knows the length.
        if metadata.is_file() {
            description.size_bytes = metadata.len();
        }
        Box::new(file)
    };
    let name = description.name.clone();
    let bar = Bar::new(&format!("upload {name}"));
    let (sender, receiver) = mpsc::channel(4);
    let reading =
        Reading { from, sender, size: description.size_bytes, bar, name: name.clone(), fault: Arc::default() };
    let fault = reading.fault.clone();
    let hash = tokio::spawn(reading.run(description));
    let mut images = session.images().await?;
    let sent = tokio::select! {
        sent = images.upload_image(ReceiverStream::new(receiver)) => sent,
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::new(ExitStatus::Interrupted, format!("The upload of {name} is broken off; nothing of it is kept")));
        }
    };
    // A file that cannot be read ends the stream; the node's complaint about that is not the reason.
    if let Some(fault) = fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
        return Err(Failure::file(path, &fault));
    }
    let image = sent?.into_inner();
    let hash = hash.await.map_err(|error| Failure::failed(format!("The file was not read to its end: {error}")))?;
    compare(image, &hash, session).await
}

/// What the node keeps must be what was read.
async fn compare(image: Image, hash: &str, session: &Session) -> Result<Image, Failure> {
    if image.sha256 == hash {
        return Ok(image);
    }
    let request = DeleteImageRequest { image: image.id.clone(), ..DeleteImageRequest::default() };
    let deleted = session.images().await?.delete_image(request).await.is_ok();
    let fate = if deleted { "it is deleted again" } else { "delete it" };
    Err(Failure::failed(format!(
        "Image {} was changed on its way ({} were read with SHA-256 {hash}, the node has {}): {fate}",
        image.name,
        units::size(image.file_size_bytes),
        image.sha256
    )))
}

/// The reading half of an upload.
struct Reading {
    from: Box<dyn AsyncRead + Send + Unpin>,
    sender: mpsc::Sender<UploadImageRequest>,
    size: u64,
    bar: Bar,
    name: String,
    fault: Arc<Mutex<Option<std::io::Error>>>,
}

impl Reading {
    /// Reads to the end, or until nobody listens; gives the SHA-256 of what was read.
    async fn run(mut self, description: ImageDescription) -> String {
        let mut hash = Sha256::new();
        let mut part = Part::Description(description);
        let mut done = 0;
        while self.sender.send(UploadImageRequest { part: Some(part) }).await.is_ok() {
            self.bar.set(&format!("upload {}", self.name), done, self.size, "bytes");
            let mut piece = Vec::with_capacity(PIECE);
            match (&mut self.from).take(PIECE as u64).read_to_end(&mut piece).await {
                Ok(0) => break,
                Ok(read) => done += read as u64,
                Err(error) => {
                    *self.fault.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
                    break;
                }
            }
            hash.update(&piece);
            part = Part::Data(piece);
        }
        // Until the node has checked and kept all of it.
        self.bar.set(&format!("upload {}: the node checks it", self.name), done, self.size, "bytes");
        hex(&hash.finalize())
    }
}

/// Bytes as lower-case hexadecimal, as the API writes checksums.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |text, byte| text + &format!("{byte:02x}"))
}
