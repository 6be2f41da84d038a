//! Pools: where volumes and images are kept.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Subcommand};
use quantix_api::v1::{
    CreatePoolRequest, DeletePoolRequest, DirectorySource, GetPoolRequest, ListPoolsRequest, NfsSource, Pool,
    PoolState, create_pool_request, pool,
};

use crate::failure::Failure;
use crate::progress::{Idempotent, Waiting};
use crate::session::{Session, pages};
use crate::style::Tone;
use crate::table::{Cell, Column, Facts, Sheet, View};
use crate::units;
use crate::words::word;

/// Commands on pools.
#[derive(Debug, Subcommand)]
pub enum PoolCommand {
    /// List pools
    #[command(visible_alias = "list", after_help = "Examples:\n  qx pool ls\n  qx pool ls -o json")]
    Ls,
    /// Show a pool
    #[command(after_help = "Examples:\n  qx pool show default")]
    Show {
        /// Name or id
        pool: String,
    },
    /// Add a pool: a directory of the node, or an export of an NFS server
    #[command(after_help = "\
Examples:
  qx pool create fast --path /srv/fast
  qx pool create shared --nfs nas.example.net:/export/vms --nfs-options vers=4.2")]
    Create(CreateArgs),
    /// Forget a pool; nothing on disk is deleted
    #[command(visible_alias = "rm", after_help = "Examples:\n  qx pool delete fast")]
    Delete {
        /// Name or id
        pool: String,
        #[command(flatten)]
        waiting: Waiting,
    },
}

/// What `pool create` takes.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("source").required(true).args(["path", "nfs"])))]
pub struct CreateArgs {
    /// What to call it
    name: String,
    /// Directory of the node: empty, or a pool's from before
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
    /// Export of an NFS server
    #[arg(long, value_name = "SERVER:EXPORT", value_parser = parse_export)]
    nfs: Option<(String, String)>,
    /// Further mount options
    #[arg(long, value_name = "OPTIONS", conflicts_with = "path", default_value = "", hide_default_value = true)]
    nfs_options: String,
    #[command(flatten)]
    idempotent: Idempotent,
    #[command(flatten)]
    waiting: Waiting,
}

fn parse_export(text: &str) -> Result<(String, String), String> {
    // The server may be an IPv6 address, so the export begins at the last `:/`.
    match text.rsplit_once(":/") {
        Some((server, export)) if !server.is_empty() => Ok((server.to_owned(), format!("/{export}"))),
        _ => Err(format!("'{text}' is no export; write it as SERVER:/PATH")),
    }
}

const SHEET: Sheet<Pool> = Sheet {
    plural: "pools",
    name: |pool| &pool.name,
    columns: &[
        Column::text("NAME", |pool, _| pool.name.as_str().into()),
        Column::text("STATE", |pool, _| state(pool)),
        Column::text("SOURCE", |pool, _| source(pool).into()),
        Column::number("CAPACITY", |pool, _| units::size(pool.capacity_bytes).into()),
        Column::number("AVAILABLE", |pool, _| units::size(pool.available_bytes).into()),
        Column::number("USED", |pool, _| units::size(pool.used_bytes).into()),
        Column::wide_text("REFLINK", |pool, _| if pool.reflink { "yes".into() } else { "no".into() }),
        Column::number("AGE", |pool, view| units::age(pool.create_time.as_ref(), view.now).into()),
        Column::wide_text("ID", |pool, _| pool.id.as_str().into()),
    ],
};

/// Runs a command on pools.
pub async fn run(command: PoolCommand, session: &Session) -> Result<(), Failure> {
    let mut pools = session.pools().await?;
    match command {
        PoolCommand::Ls => {
            let all = pages!(&pools, list_pools, ListPoolsRequest::default(), pools)?;
            session.out.list(&all, &SHEET, &session.out.view())
        }
        PoolCommand::Show { pool } => {
            let pool = pools.get_pool(GetPoolRequest { pool }).await?.into_inner();
            session.out.show(&pool, &pool.name, facts)
        }
        PoolCommand::Create(args) => {
            let waiting = args.waiting.clone();
            let task = pools.create_pool(request(args)).await?.into_inner();
            waiting.finish(session, task, "Pool {} is there.").await
        }
        PoolCommand::Delete { pool, waiting } => {
            let task =
                pools.delete_pool(DeletePoolRequest { pool, ..DeletePoolRequest::default() }).await?.into_inner();
            waiting.finish(session, task, "Pool {} is forgotten; its files are still there.").await
        }
    }
}

fn request(args: CreateArgs) -> CreatePoolRequest {
    let source = match (args.path, args.nfs) {
        (Some(path), _) => {
            create_pool_request::Source::Directory(DirectorySource { path: path.to_string_lossy().into_owned() })
        }
        (None, nfs) => {
            let (server, export) = nfs.unwrap_or_default();
            create_pool_request::Source::Nfs(NfsSource { server, export, options: args.nfs_options })
        }
    };
    CreatePoolRequest {
        name: args.name,
        source: Some(source),
        request_id: args.idempotent.request_id,
        ..CreatePoolRequest::default()
    }
}

fn state(pool: &Pool) -> Cell {
    let tone = if pool.state() == PoolState::Ready { Tone::Good } else { Tone::Bad };
    Cell::toned(word::<PoolState>(pool.state), tone)
}

fn source(pool: &Pool) -> String {
    match &pool.source {
        Some(pool::Source::Directory(directory)) => directory.path.clone(),
        Some(pool::Source::Nfs(nfs)) => format!("{}:{}", nfs.server, nfs.export),
        None => String::new(),
    }
}

fn facts(pool: &Pool, _: &View) -> Facts {
    let mut facts = Facts::default();
    facts
        .add("Name", pool.name.as_str())
        .add("Id", pool.id.as_str())
        .add("State", state(pool))
        .add("Reason", pool.state_reason.as_str())
        .add("Source", source(pool));
    if let Some(pool::Source::Nfs(nfs)) = &pool.source {
        facts.add("Options", nfs.options.as_str());
    }
    facts
        .add("Capacity", units::size(pool.capacity_bytes))
        .add("Available", units::size(pool.available_bytes))
        .add("Used", format!("{} by volumes and images", units::size(pool.used_bytes)))
        .add("Reflink", if pool.reflink { "yes: copies share blocks" } else { "no" })
        .add("Created", units::when(pool.create_time.as_ref()));
    facts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::view;

    #[test]
    fn exports_are_read() {
        assert_eq!(parse_export("nas:/a/b"), Ok(("nas".into(), "/a/b".into())));
        assert_eq!(parse_export("fd00::1:/a"), Ok(("fd00::1".into(), "/a".into())));
        assert!(parse_export("/a/b").is_err());
    }

    #[test]
    fn a_list_of_pools() {
        let pool = Pool {
            name: "default".into(),
            source: Some(pool::Source::Directory(DirectorySource { path: "/var/lib/quantix/pools/default".into() })),
            state: PoolState::Ready.into(),
            capacity_bytes: 100 << 30,
            available_bytes: 60 << 30,
            used_bytes: 3 << 29,
            ..Pool::default()
        };
        assert_eq!(
            SHEET.render(&[pool], &view()),
            "NAME     STATE  SOURCE                          CAPACITY  AVAILABLE     USED  AGE\n\
             default  ready  /var/lib/quantix/pools/default   100 GiB     60 GiB  1.5 GiB\n"
        );
    }
}
