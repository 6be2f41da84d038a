//! Volumes: the disks of VMs.

use clap::{Args, Subcommand};
use prost_types::FieldMask;
use quantix_api::v1::{
    CloneVolumeRequest, CreateVolumeRequest, DeleteVolumeRequest, GetVolumeRequest, ListImagesRequest, ListVmsRequest,
    ListVolumesRequest, ResizeVolumeRequest, UpdateVolumeRequest, Volume, VolumeFormat,
};

use crate::failure::Failure;
use crate::output::Format;
use crate::pairs::parse_label;
use crate::progress::{Idempotent, Waiting};
use crate::session::{Session, pages};
use crate::table::{Column, Facts, Sheet, View, labels};
use crate::units::{self, parse_some_size};
use crate::words::{parser, word};

/// Commands on volumes.
#[derive(Debug, Subcommand)]
pub enum VolumeCommand {
    /// List volumes
    #[command(visible_alias = "list", after_help = "Examples:\n  qx volume ls\n  qx volume ls --pool fast -o wide")]
    Ls {
        /// Only of this pool
        #[arg(long, value_name = "POOL", default_value = "", hide_default_value = true)]
        pool: String,
    },
    /// Show a volume
    #[command(after_help = "Examples:\n  qx volume show demo-disk0")]
    Show {
        /// Name or id
        volume: String,
    },
    /// Make a volume: empty, or from an image
    #[command(after_help = "\
Examples:
  qx volume create data --size 50G
  qx volume create root --image debian --size 20G --linked --pool fast")]
    Create(CreateArgs),
    /// Change name or labels
    #[command(
        after_help = "Examples:\n  qx volume edit data --rename archive\n  qx volume edit data --label tier=cold --unlabel owner"
    )]
    Edit(EditArgs),
    /// Make a volume larger
    #[command(after_help = "Examples:\n  qx volume resize data 100G")]
    Resize {
        /// Name or id
        volume: String,
        /// How large it shall be
        #[arg(value_parser = parse_some_size)]
        size: u64,
        #[command(flatten)]
        idempotent: Idempotent,
        #[command(flatten)]
        waiting: Waiting,
    },
    /// Copy a volume
    #[command(after_help = "Examples:\n  qx volume clone data data-copy\n  qx volume clone golden web1 --linked")]
    Clone(CloneArgs),
    /// Delete a volume with what is on it
    #[command(visible_alias = "rm", after_help = "Examples:\n  qx volume delete data")]
    Delete {
        /// Name or id
        volume: String,
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// What `volume create` takes.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What to call it
    name: String,
    /// How large it is; the image's own size when it is made from one
    #[arg(long, value_name = "SIZE", value_parser = parse_some_size, required_unless_present = "image")]
    size: Option<u64>,
    /// Pool to make it in
    #[arg(long, value_name = "POOL", default_value = "", hide_default_value = true)]
    pool: String,
    /// How it is kept: raw for an empty volume, qcow2 for one from an image, when nothing is said
    #[arg(long, value_parser = parser::<VolumeFormat>())]
    format: Option<VolumeFormat>,
    /// Image to start from
    #[arg(long, value_name = "IMAGE", default_value = "", hide_default_value = true)]
    image: String,
    /// Hold only the differences to the image
    #[arg(long, requires = "image")]
    linked: bool,
    /// Label (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    idempotent: Idempotent,
    #[command(flatten)]
    waiting: Waiting,
}

/// What `volume edit` takes.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Name or id
    volume: String,
    /// New name
    #[arg(long, value_name = "NAME")]
    rename: Option<String>,
    /// Set a label (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Remove a label (repeatable)
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,
}

/// What `volume clone` takes.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// Name or id
    volume: String,
    /// Name of the copy
    name: String,
    /// Pool of the copy; the same when nothing is said
    #[arg(long, value_name = "POOL", default_value = "", hide_default_value = true)]
    pool: String,
    /// Hold only the differences; the origin may belong to no VM then
    #[arg(long)]
    linked: bool,
    #[command(flatten)]
    idempotent: Idempotent,
    #[command(flatten)]
    waiting: Waiting,
}

const SHEET: Sheet<Volume> = Sheet {
    plural: "volumes",
    name: |volume| &volume.name,
    columns: &[
        Column::text("NAME", |volume, _| volume.name.as_str().into()),
        Column::text("POOL", |volume, _| volume.pool.as_str().into()),
        Column::text("FORMAT", |volume, _| word::<VolumeFormat>(volume.format).into()),
        Column::number("SIZE", |volume, _| units::size(volume.size_bytes).into()),
        Column::number("USED", |volume, _| units::size(volume.used_bytes).into()),
        Column::text("IMAGE", |volume, view| view.name(&volume.image).into()),
        Column::text("VMS", |volume, view| vms(volume, view).into()),
        Column::number("AGE", |volume, view| units::age(volume.create_time.as_ref(), view.now).into()),
        Column::wide_text("LABELS", |volume, _| labels(&volume.labels).into()),
        Column::wide_text("ID", |volume, _| volume.id.as_str().into()),
    ],
};

/// Runs a command on volumes.
pub async fn run(command: VolumeCommand, session: &Session) -> Result<(), Failure> {
    let mut volumes = session.volumes().await?;
    match command {
        VolumeCommand::Ls { pool } => {
            let request = ListVolumesRequest { pool, ..ListVolumesRequest::default() };
            let all = pages!(&volumes, list_volumes, request, volumes)?;
            session.out.list(&all, &SHEET, &view(session, &all).await?)
        }
        VolumeCommand::Show { volume } => {
            let volume = volumes.get_volume(GetVolumeRequest { volume }).await?.into_inner();
            let view = view(session, std::slice::from_ref(&volume)).await?;
            session.out.show(&volume, &volume.name, |volume, _| facts(volume, &view))
        }
        VolumeCommand::Create(args) => {
            let waiting = args.waiting.clone();
            let task = volumes.create_volume(create_request(args)).await?.into_inner();
            waiting.finish(session, task, "Volume {} is there.").await
        }
        VolumeCommand::Edit(args) => edit(args, session).await,
        VolumeCommand::Resize { volume, size, idempotent, waiting } => {
            let request =
                ResizeVolumeRequest { volume, size_bytes: size, request_id: idempotent.request_id, wait: None };
            let task = volumes.resize_volume(request).await?.into_inner();
            waiting.finish(session, task, &format!("Volume {{}} has {} now.", units::size(size))).await
        }
        VolumeCommand::Clone(args) => {
            let request = CloneVolumeRequest {
                volume: args.volume.clone(),
                name: args.name.clone(),
                pool: args.pool,
                linked: args.linked,
                request_id: args.idempotent.request_id,
                wait: None,
            };
            let task = volumes.clone_volume(request).await?.into_inner();
            args.waiting.finish(session, task, &format!("{} is a copy of {}.", args.name, args.volume)).await
        }
        VolumeCommand::Delete { volume, waiting } => {
            let request = DeleteVolumeRequest { volume, ..DeleteVolumeRequest::default() };
            let task = volumes.delete_volume(request).await?.into_inner();
            waiting.finish(session, task, "Volume {} is deleted.").await
        }
    }
}

fn create_request(args: CreateArgs) -> CreateVolumeRequest {
    CreateVolumeRequest {
        name: args.name,
        pool: args.pool,
        format: args.format.unwrap_or_default().into(),
        size_bytes: args.size.unwrap_or_default(),
        image: args.image,
        linked: args.linked,
        labels: args.labels.into_iter().collect(),
        request_id: args.idempotent.request_id,
        wait: None,
    }
}

async fn edit(args: EditArgs, session: &Session) -> Result<(), Failure> {
    let mut volumes = session.volumes().await?;
    let mut volume = volumes.get_volume(GetVolumeRequest { volume: args.volume }).await?.into_inner();
    let mut paths = Vec::new();
    if let Some(name) = args.rename {
        volume.name = name;
        paths.push("name".to_owned());
    }
    if !args.labels.is_empty() || !args.unlabels.is_empty() {
        volume.labels.retain(|key, _| !args.unlabels.contains(key));
        volume.labels.extend(args.labels);
        paths.push("labels".to_owned());
    }
    if paths.is_empty() {
        return Err(Failure::usage("Nothing is to be changed").hint("what can be: qx volume edit --help"));
    }
    let request = UpdateVolumeRequest { volume: Some(volume), update_mask: Some(FieldMask { paths }) };
    let volume = volumes.update_volume(request).await?.into_inner();
    session.out.done(&volume, &volume.name, &format!("Volume {} is changed.", volume.name))
}

/// The view with the names of images, VMs and volumes that these volumes point to. JSON shows ids as they are.
async fn view(session: &Session, volumes: &[Volume]) -> Result<View, Failure> {
    let mut view = session.out.view();
    if matches!(session.out.format, Format::Json | Format::Name) {
        return Ok(view);
    }
    if volumes.iter().any(|volume| !volume.image.is_empty()) {
        let images = pages!(session.images().await?, list_images, ListImagesRequest::default(), images)?;
        view.names.extend(images.into_iter().map(|image| (image.id, image.name)));
    }
    if volumes.iter().any(|volume| !volume.vms.is_empty()) {
        let vms = pages!(session.vms().await?, list_vms, ListVmsRequest::default(), vms)?;
        view.names.extend(vms.into_iter().map(|vm| (vm.id, vm.name)));
    }
    view.names.extend(volumes.iter().map(|volume| (volume.id.clone(), volume.name.clone())));
    Ok(view)
}

fn vms(volume: &Volume, view: &View) -> String {
    volume.vms.iter().map(|id| view.name(id)).collect::<Vec<_>>().join(" ")
}

fn facts(volume: &Volume, view: &View) -> Facts {
    let mut facts = Facts::default();
    facts
        .add("Name", volume.name.as_str())
        .add("Id", volume.id.as_str())
        .add("Pool", volume.pool.as_str())
        .add("Format", word::<VolumeFormat>(volume.format))
        .add("Size", units::size(volume.size_bytes))
        .add("Used", units::size(volume.used_bytes))
        .add("Image", view.name(&volume.image))
        .add("Differs from", view.name(&volume.backing_volume))
        .add("VMs", vms(volume, view))
        .add("Labels", labels(&volume.labels))
        .add("Created", units::when(volume.create_time.as_ref()))
        .add("Changed", units::when(volume.update_time.as_ref()));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::view;

    #[test]
    fn names_stand_where_ids_came() {
        let volume = Volume {
            id: "v".into(),
            name: "demo-disk0".into(),
            pool: "default".into(),
            format: VolumeFormat::Qcow2.into(),
            size_bytes: 10 << 30,
            used_bytes: 700 << 20,
            image: "i".into(),
            vms: vec!["m".into(), "unknown".into()],
            ..Volume::default()
        };
        let mut view = view();
        view.names.insert("i".into(), "debian".into());
        view.names.insert("m".into(), "demo".into());
        assert_eq!(
            SHEET.render(&[volume], &view),
            "NAME        POOL     FORMAT    SIZE     USED  IMAGE   VMS           AGE\n\
             demo-disk0  default  qcow2   10 GiB  700 MiB  debian  demo unknown\n"
        );
    }
}
