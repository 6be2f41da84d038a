//! `ImageService`: read-only templates. Async runtime; converts, authorises, calls. [`ImageRpc::upload`] also serves the HTTP form.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use quantix_api::v1;
use quantix_api::v1::image_service_server::ImageService;
use tonic::{Request, Response, Status, Streaming};

use super::begin::Begin;
use super::convert::{answer, patience};
use crate::daemon::Rooms;
use crate::model::{
    Caller, Failure, FailureKind, Fingerprint, Id, Image, ImageFormat, ImageKind, ImagePhase, Name, Page, Pool,
};
use crate::storage::{Meter, NewImage, Storage, check_url, records, reserve_image, reserve_image_deletion};
use crate::store::{Idempotency, ReadTx, Record as _, Store, Stored, WriteTx, parse_etag};
use crate::tasks::{TaskContext, Tasks};

/// Most bytes of a message with data.
const PIECE_MAX: usize = 1 << 20;

/// The service.
#[derive(Clone)]
pub struct ImageRpc {
    store: Store,
    tasks: Tasks,
    storage: Storage,
}

type PoolNames = HashMap<Id, Name>;

fn pool_names(tx: &ReadTx<'_>) -> Result<PoolNames, Failure> {
    Ok(tx.all::<Pool>()?.into_iter().map(|stored| (stored.record.id, stored.record.name)).collect())
}

impl ImageRpc {
    /// The service on these rooms.
    pub fn new(rooms: &Rooms) -> Self {
        Self { store: rooms.store.clone(), tasks: rooms.tasks.clone(), storage: rooms.storage.clone() }
    }

    async fn list(&self, request: v1::ListImagesRequest) -> Result<v1::ListImagesResponse, Failure> {
        let wanted = match request.kind {
            0 => None,
            kind => Some(wire_kind("kind", kind)?),
        };
        let page = Page::parse(request.page_size, &request.page_token, format!("images?{}", request.kind))?;
        let shown =
            move |image: &Image| image.phase == ImagePhase::Ready && wanted.is_none_or(|kind| image.kind == kind);
        let look = move |tx: &ReadTx<'_>| Ok((tx.list::<Image>(&page, shown)?, pool_names(tx)?));
        let (found, pools) = self.store.read(look).await?;
        let images = found.items.iter().map(|stored| wire(stored, &pools)).collect();
        Ok(v1::ListImagesResponse { images, next_page_token: found.next })
    }

    async fn get(&self, asked: String) -> Result<v1::Image, Failure> {
        let look = move |tx: &ReadTx<'_>| Ok(wire(&records::image(tx, &asked)?, &pool_names(tx)?));
        self.store.read(look).await
    }

    /// Takes an image from a stream of bytes. It appears when all came and the checksum fits. A caller that goes away, and a stream
    /// that ends with an error, leave nothing behind.
    ///
    /// # Errors
    /// What is wrong with the description or the bytes; what the stream says.
    pub async fn upload<S>(
        &self,
        caller: Caller,
        mut description: v1::ImageDescription,
        stream: S,
    ) -> Result<v1::Image, Failure>
    where
        S: Stream<Item = Result<Bytes, Failure>> + Send,
    {
        const METHOD: &str = "UploadImage";
        let request_id = std::mem::take(&mut description.request_id);
        let fingerprint = Fingerprint::of(&description);
        let new = new_image(description, String::new())?;
        let (who, id) = (caller.clone(), request_id.clone());
        let reserved = self.store.write(move |tx| match tx.request(&who, METHOD, &id, fingerprint)? {
            Idempotency::Again(image) => Ok(Err(image)),
            Idempotency::First => Ok(Ok(reserve_image(tx, &new)?)),
        });
        let image = match reserved.await? {
            Ok(image) => image,
            Err(before) => return self.get(before.to_string()).await,
        };
        // Only what was taken is remembered, so that a failed upload can be tried again with the same id.
        let accept =
            move |tx: &WriteTx<'_>, image: &Image| match tx.request(&caller, METHOD, &request_id, fingerprint)? {
                Idempotency::First => tx.answer(&image.id),
                Idempotency::Again(_) => {
                    Err(Failure::new(FailureKind::Aborted, "The same upload was made twice at a time"))
                }
            };
        let stored = self.storage.receive(image, stream, accept).await?;
        let pools = self.store.read(pool_names).await?;
        Ok(wire(&stored, &pools))
    }

    async fn upload_messages(
        &self,
        caller: Caller,
        mut messages: Streaming<v1::UploadImageRequest>,
    ) -> Result<v1::Image, Failure> {
        let first = messages.message().await.map_err(broken)?.and_then(|message| message.part);
        let Some(v1::upload_image_request::Part::Description(description)) = first else {
            return Err(Failure::invalid("description", "", "is missing: the first message describes the image"));
        };
        let data = messages.map(|message| match message.map_err(broken)?.part {
            Some(v1::upload_image_request::Part::Data(data)) if data.len() <= PIECE_MAX => Ok(Bytes::from(data)),
            Some(v1::upload_image_request::Part::Data(data)) => {
                Err(Failure::invalid("data", data.len(), "bytes are too many in one message: send up to 1 MiB"))
            }
            _ => Err(Failure::invalid("data", "", "is missing: all messages but the first carry data")),
        });
        self.upload(caller, description, data).await
    }

    async fn import(&self, caller: Caller, mut request: v1::ImportImageRequest) -> Result<v1::Task, Failure> {
        let wait = request.wait.take();
        patience("wait", wait)?;
        let request_id = request.image.as_mut().map(|image| std::mem::take(&mut image.request_id)).unwrap_or_default();
        let fingerprint = Fingerprint::of(&request);
        check_url("url", &request.url)?;
        let description =
            request.image.ok_or_else(|| Failure::invalid("image", "", "is missing: describe the image"))?;
        let new = new_image(description, request.url).map_err(|failure| failure.under("image"))?;
        let (store, tasks) = (&self.store, &self.tasks);
        let begin = Begin { store, tasks, caller, method: "ImportImage", request_id, fingerprint };
        let storage = self.storage.clone();
        let reserve = move |tx: &WriteTx<'_>| {
            let image = reserve_image(tx, &new).map_err(|failure| failure.under("image"))?;
            Ok((image.reference(), image))
        };
        let work = |image: Image, context: TaskContext| async move {
            context.step("Fetching the image");
            storage.import(image, &Meter::of_task(&context)).await.map(drop)
        };
        let task = begin.run(reserve, work).await?;
        answer(tasks, &task, wait).await
    }

    async fn delete(&self, caller: Caller, mut request: v1::DeleteImageRequest) -> Result<v1::Task, Failure> {
        let wait = request.wait.take();
        patience("wait", wait)?;
        let (fingerprint, expected) = (Fingerprint::of(&request), parse_etag(&request.etag)?);
        let (store, tasks) = (&self.store, &self.tasks);
        let begin = Begin { store, tasks, caller, method: "DeleteImage", request_id: String::new(), fingerprint };
        let (storage, users) = (self.storage.clone(), self.storage.users());
        let reserve = move |tx: &WriteTx<'_>| {
            reserve_image_deletion(tx, &*users, &request.image, expected).map(|image| (image.reference(), image))
        };
        let work = |image: Image, context: TaskContext| async move {
            context.step("Deleting the image");
            storage.delete_image(image).await
        };
        let task = begin.run(reserve, work).await?;
        answer(tasks, &task, wait).await
    }
}

/// A stream that broke: what the client or the connection did.
#[allow(clippy::needless_pass_by_value)] // As map_err wants it.
fn broken(status: Status) -> Failure {
    Failure::new(FailureKind::Cancelled, format!("The upload broke off: {}", status.message()))
}

fn new_image(description: v1::ImageDescription, url: String) -> Result<NewImage, Failure> {
    let kind = match description.kind {
        0 => ImageKind::Disk,
        kind => wire_kind("kind", kind)?,
    };
    // An empty message is what clients send for "none".
    let boot = description.boot.filter(|boot| *boot != v1::ImageBoot::default());
    Ok(NewImage {
        name: description.name,
        kind,
        pool: description.pool,
        sha256: description.sha256,
        size_bytes: description.size_bytes,
        boot: boot.map(|boot| (boot.kernel, boot.initrd, boot.cmdline)),
        labels: description.labels,
        url,
    })
}

/// Kinds here and on the wire.
const KINDS: [(ImageKind, v1::ImageKind); 4] = [
    (ImageKind::Disk, v1::ImageKind::Disk),
    (ImageKind::Kernel, v1::ImageKind::Kernel),
    (ImageKind::Initrd, v1::ImageKind::Initrd),
    (ImageKind::Iso, v1::ImageKind::Iso),
];

fn wire_kind(field: &str, value: i32) -> Result<ImageKind, Failure> {
    let row = KINDS.into_iter().find(|(_, wire)| i32::from(*wire) == value);
    row.map(|(kind, _)| kind)
        .ok_or_else(|| Failure::invalid(field, value, "is not a kind of image: there are DISK, KERNEL, INITRD and ISO"))
}

fn wire(stored: &Stored<Image>, pools: &PoolNames) -> v1::Image {
    let image = &stored.record;
    let kind = KINDS.into_iter().find(|(kind, _)| *kind == image.kind).map_or(0, |(_, wire)| wire.into());
    let format = match image.format {
        ImageFormat::Raw => v1::ImageFormat::Raw,
        ImageFormat::Qcow2 => v1::ImageFormat::Qcow2,
    };
    let boot = image.boot.as_ref().map(|boot| v1::ImageBoot {
        kernel: boot.kernel.to_string(),
        initrd: boot.initrd.as_ref().map(Id::to_string).unwrap_or_default(),
        cmdline: boot.cmdline.clone(),
    });
    v1::Image {
        id: image.id.to_string(),
        name: image.name.to_string(),
        kind,
        format: format.into(),
        pool: pools.get(&image.pool).map(Name::to_string).unwrap_or_default(),
        file_size_bytes: image.file_size_bytes,
        virtual_size_bytes: image.virtual_size_bytes,
        sha256: image.sha256.as_str().to_owned(),
        boot,
        url: image.url.clone(),
        create_time: Some(stored.create_time.into()),
        labels: image.labels.clone(),
        etag: stored.etag(),
    }
}

#[tonic::async_trait]
impl ImageService for ImageRpc {
    async fn list_images(
        &self,
        request: Request<v1::ListImagesRequest>,
    ) -> Result<Response<v1::ListImagesResponse>, Status> {
        Ok(Response::new(self.list(request.into_inner()).await?))
    }

    async fn get_image(&self, request: Request<v1::GetImageRequest>) -> Result<Response<v1::Image>, Status> {
        Ok(Response::new(self.get(request.into_inner().image).await?))
    }

    async fn upload_image(
        &self,
        request: Request<Streaming<v1::UploadImageRequest>>,
    ) -> Result<Response<v1::Image>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.upload_messages(caller, request.into_inner()).await?))
    }

    async fn import_image(&self, request: Request<v1::ImportImageRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.import(caller, request.into_inner()).await?))
    }

    async fn delete_image(&self, request: Request<v1::DeleteImageRequest>) -> Result<Response<v1::Task>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.delete(caller, request.into_inner()).await?))
    }
}
