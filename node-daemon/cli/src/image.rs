//! Images: read-only templates that volumes and VMs start from.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quantix_api::v1::{
    DeleteImageRequest, GetImageRequest, Image, ImageBoot, ImageDescription, ImageFormat, ImageKind,
    ImportImageRequest, ListImagesRequest,
};

use crate::failure::Failure;
use crate::output::Format;
use crate::pairs::parse_label;
use crate::progress::{Idempotent, Waiting, follow};
use crate::session::{Session, pages};
use crate::table::{Column, Facts, Sheet, View, labels};
use crate::units;
use crate::upload::upload;
use crate::words::{parser, word};

/// Commands on images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// List images
    #[command(visible_alias = "list", after_help = "Examples:\n  qx image ls\n  qx image ls --kind disk -o wide")]
    Ls {
        /// Only of this kind
        #[arg(long, value_parser = parser::<ImageKind>())]
        kind: Option<ImageKind>,
    },
    /// Show an image
    #[command(after_help = "Examples:\n  qx image show debian")]
    Show {
        /// Name or id
        image: String,
    },
    /// Upload an image from a file, or let the node fetch it from a URL
    ///
    /// A disk that has no boot loader for this machine is booted with --kernel and --initrd: they become images of their
    /// own (NAME-kernel, NAME-initrd), and VMs from this disk take them.
    #[command(after_help = "\
Examples:
  qx image add debian debian-12.qcow2
  qx image add debian debian-12.qcow2 --kernel vmlinuz --initrd initrd.img \\
      --cmdline 'root=/dev/vda1 console=ttyS0'
  qx image add alpine https://images.example.net/alpine.qcow2 \\
      --sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  qx image add vmlinux vmlinux --kind kernel
  qx image add rescue - --kind iso < rescue.iso")]
    Add(Box<AddArgs>),
    /// Delete an image
    #[command(visible_alias = "rm", after_help = "Examples:\n  qx image delete debian")]
    Delete {
        /// Name or id
        image: String,
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// What `image add` takes.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What to call it
    name: String,
    /// File, - for standard input, or a URL (http, https) that the node fetches
    source: Source,
    /// What it is
    #[arg(long, value_parser = parser::<ImageKind>(), default_value = "disk")]
    kind: ImageKind,
    /// Pool to keep it in
    #[arg(long, value_name = "POOL", default_value = "", hide_default_value = true)]
    pool: String,
    /// What its SHA-256 must be
    #[arg(long, value_name = "SHA256", default_value = "", hide_default_value = true)]
    sha256: String,
    /// Kernel that boots this disk: a file, a URL, or image:NAME for one that is there
    #[arg(long, value_name = "KERNEL")]
    kernel: Option<Source>,
    /// Initial RAM disk, named as the kernel is
    #[arg(long, value_name = "INITRD", requires = "kernel")]
    initrd: Option<Source>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", requires = "kernel", default_value = "", hide_default_value = true)]
    cmdline: String,
    /// Label (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    idempotent: Idempotent,
    #[command(flatten)]
    waiting: Waiting,
}

/// Where bytes come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file here; `-` is standard input.
    File(PathBuf),
    /// Fetched by the node.
    Url(String),
    /// An image that is there already.
    Image(String),
}

impl std::str::FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(name) = text.strip_prefix("image:") {
            Ok(Self::Image(name.to_owned()))
        } else if text.starts_with("http://") || text.starts_with("https://") {
            Ok(Self::Url(text.to_owned()))
        } else if text.contains("://") {
            Err(format!("'{text}': the node fetches http and https only"))
        } else {
            Ok(Self::File(text.into()))
        }
    }
}

const SHEET: Sheet<Image> = Sheet {
    plural: "images",
    name: |image| &image.name,
    columns: &[
        Column::text("NAME", |image, _| image.name.as_str().into()),
        Column::text("KIND", |image, _| word::<ImageKind>(image.kind).into()),
        Column::text("FORMAT", |image, _| format(image).into()),
        Column::number("FILE", |image, _| units::size(image.file_size_bytes).into()),
        Column::number("DISK", |image, _| disk_size(image).into()),
        Column::text("POOL", |image, _| image.pool.as_str().into()),
        Column::text("BOOTS WITH", |image, view| boots_with(image, view).into()),
        Column::number("AGE", |image, view| units::age(image.create_time.as_ref(), view.now).into()),
        Column::wide_text("SHA256", |image, _| image.sha256.as_str().into()),
        Column::wide_text("LABELS", |image, _| labels(&image.labels).into()),
        Column::wide_text("ID", |image, _| image.id.as_str().into()),
    ],
};

/// Runs a command on images.
pub async fn run(command: ImageCommand, session: &Session) -> Result<(), Failure> {
    let mut images = session.images().await?;
    match command {
        ImageCommand::Ls { kind } => {
            let all = pages!(&images, list_images, ListImagesRequest::default(), images)?;
            let mut view = session.out.view();
            view.names.extend(all.iter().map(|image| (image.id.clone(), image.name.clone())));
            // Names are needed of all of them, so the kind is chosen here.
            let of_kind = |image: &Image| kind.is_none_or(|kind| image.kind() == kind);
            let chosen: Vec<Image> = all.into_iter().filter(of_kind).collect();
            session.out.list(&chosen, &SHEET, &view)
        }
        ImageCommand::Show { image } => {
            let image = images.get_image(GetImageRequest { image }).await?.into_inner();
            let mut view = session.out.view();
            if image.boot.is_some() && matches!(session.out.format, Format::Table | Format::Wide) {
                let all = pages!(&images, list_images, ListImagesRequest::default(), images)?;
                view.names.extend(all.into_iter().map(|image| (image.id, image.name)));
            }
            session.out.show(&image, &image.name, |image, _| facts(image, &view))
        }
        ImageCommand::Add(args) => add(*args, session).await,
        ImageCommand::Delete { image, waiting } => {
            let request = DeleteImageRequest { image, ..DeleteImageRequest::default() };
            let task = images.delete_image(request).await?.into_inner();
            waiting.finish(session, task, "Image {} is deleted.").await
        }
    }
}

/// Brings the parts first and the disk last, so that the disk never points to what is not there.
async fn add(args: AddArgs, session: &Session) -> Result<(), Failure> {
    if args.kernel.is_some() && args.kind != ImageKind::Disk {
        return Err(Failure::usage("--kernel is for disks only"));
    }
    if let Source::Image(_) = args.source {
        return Err(Failure::usage("image:NAME is only for --kernel and --initrd"));
    }
    if args.waiting.no_wait && !matches!(args.source, Source::Url(_)) {
        return Err(Failure::usage("--no-wait is only for images that the node fetches from a URL"));
    }
    let mut made = Vec::new();
    let added = add_all(&args, session, &mut made).await;
    if added.is_err() {
        for image in &made {
            let request = DeleteImageRequest { image: image.clone(), ..DeleteImageRequest::default() };
            let gone = session.images().await?.delete_image(request).await.is_ok();
            eprintln!("Image {image} {}.", if gone { "is deleted again" } else { "was made, and is still there" });
        }
    }
    added
}

async fn add_all(args: &AddArgs, session: &Session, made: &mut Vec<String>) -> Result<(), Failure> {
    let mut boot = None;
    if let Some(kernel) = &args.kernel {
        let kernel = part(args, kernel, ImageKind::Kernel, session, made).await?;
        let initrd = match &args.initrd {
            Some(initrd) => part(args, initrd, ImageKind::Initrd, session, made).await?,
            None => String::new(),
        };
        boot = Some(ImageBoot { kernel, initrd, cmdline: args.cmdline.clone() });
    }
    let description = ImageDescription {
        name: args.name.clone(),
        kind: args.kind.into(),
        pool: args.pool.clone(),
        sha256: args.sha256.to_ascii_lowercase(),
        boot,
        labels: args.labels.iter().cloned().collect(),
        request_id: args.idempotent.request_id.clone(),
        size_bytes: 0,
    };
    if let Source::Url(url) = &args.source {
        let request = ImportImageRequest { image: Some(description), url: url.clone(), wait: None };
        let task = session.images().await?.import_image(request).await?.into_inner();
        return args.waiting.finish(session, task, "Image {} is there.").await;
    }
    let image = bring(&args.source, description, session).await?;
    let sentence =
        format!("Image {} is there ({}, SHA-256 {}).", image.name, units::size(image.file_size_bytes), image.sha256);
    session.out.done(&image, &image.name, &sentence)
}

/// Brings a kernel or an initial RAM disk; gives what the disk is to point to.
async fn part(
    args: &AddArgs,
    source: &Source,
    kind: ImageKind,
    session: &Session,
    made: &mut Vec<String>,
) -> Result<String, Failure> {
    if let Source::Image(name) = source {
        return Ok(name.clone());
    }
    let suffix = word::<ImageKind>(kind.into());
    let suffixed = |text: &str| if text.is_empty() { String::new() } else { format!("{text}-{suffix}") };
    let description = ImageDescription {
        name: suffixed(&args.name),
        kind: kind.into(),
        pool: args.pool.clone(),
        request_id: suffixed(&args.idempotent.request_id),
        ..ImageDescription::default()
    };
    let image = bring(source, description, session).await?;
    made.push(image.name.clone());
    Ok(image.id)
}

async fn bring(source: &Source, description: ImageDescription, session: &Session) -> Result<Image, Failure> {
    match source {
        Source::File(path) => upload(path, description, session).await,
        Source::Url(url) => {
            let name = description.name.clone();
            let request = ImportImageRequest { image: Some(description), url: url.clone(), wait: None };
            let mut images = session.images().await?;
            let task = images.import_image(request).await?.into_inner();
            follow(session, task).await?;
            Ok(images.get_image(GetImageRequest { image: name }).await?.into_inner())
        }
        Source::Image(name) => {
            Ok(session.images().await?.get_image(GetImageRequest { image: name.clone() }).await?.into_inner())
        }
    }
}

fn format(image: &Image) -> String {
    match image.format {
        0 => String::new(),
        format => word::<ImageFormat>(format),
    }
}

fn disk_size(image: &Image) -> String {
    if image.kind() == ImageKind::Disk { units::size(image.virtual_size_bytes) } else { String::new() }
}

fn boots_with(image: &Image, view: &View) -> String {
    let Some(boot) = &image.boot else { return String::new() };
    [&boot.kernel, &boot.initrd]
        .into_iter()
        .filter(|id| !id.is_empty())
        .map(|id| view.name(id))
        .collect::<Vec<_>>()
        .join(" ")
}

fn facts(image: &Image, view: &View) -> Facts {
    let mut facts = Facts::default();
    facts
        .add("Name", image.name.as_str())
        .add("Id", image.id.as_str())
        .add("Kind", word::<ImageKind>(image.kind))
        .add("Format", format(image))
        .add("File", units::size(image.file_size_bytes))
        .add("Disk", disk_size(image))
        .add("SHA-256", image.sha256.as_str())
        .add("Pool", image.pool.as_str())
        .add("Fetched from", image.url.as_str())
        .add("Boots with", boots_with(image, view));
    if let Some(boot) = &image.boot {
        facts.add("Command line", boot.cmdline.as_str());
    }
    facts.add("Labels", labels(&image.labels)).add("Created", units::when(image.create_time.as_ref()));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::view;

    #[test]
    fn where_bytes_come_from_is_seen() {
        assert_eq!("disk.qcow2".parse(), Ok(Source::File("disk.qcow2".into())));
        assert_eq!("https://x/y".parse(), Ok(Source::Url("https://x/y".into())));
        assert_eq!("image:linux".parse(), Ok(Source::Image("linux".into())));
        assert!("ftp://x/y".parse::<Source>().unwrap_err().contains("http and https only"));
    }

    #[test]
    fn a_list_of_images() {
        let disk = Image {
            name: "debian".into(),
            kind: ImageKind::Disk.into(),
            format: ImageFormat::Qcow2.into(),
            file_size_bytes: 400 << 20,
            virtual_size_bytes: 2 << 30,
            pool: "default".into(),
            boot: Some(ImageBoot { kernel: "k".into(), initrd: "gone".into(), cmdline: String::new() }),
            ..Image::default()
        };
        let kernel = Image {
            id: "k".into(),
            name: "debian-kernel".into(),
            kind: ImageKind::Kernel.into(),
            file_size_bytes: 12 << 20,
            pool: "default".into(),
            ..Image::default()
        };
        let mut view = view();
        view.names.insert("k".into(), "debian-kernel".into());
        assert_eq!(
            SHEET.render(&[disk, kernel], &view),
            "NAME           KIND    FORMAT     FILE   DISK  POOL     BOOTS WITH          AGE\n\
             debian         disk    qcow2   400 MiB  2 GiB  default  debian-kernel gone\n\
             debian-kernel  kernel           12 MiB         default\n"
        );
    }
}
