//! The nodes that this user knows: `~/.config/quantix/contexts.toml`, readable by nobody else, because tokens are in it.
//! It is written whole and moved into place, so that two commands at once never leave half of it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use crate::connect::{self, Address};
use crate::failure::{ExitStatus, Failure};
use crate::output::Format;
use crate::session::Session;
use crate::style::Tone;
use crate::table::{Cell, grid};
use crate::trust::Fingerprint;

/// What is known of one node.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// Where it is.
    pub address: String,
    /// Who is logged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// SHA-256 of its certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Fingerprint>,
    /// Or who signed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl Context {
    /// Where it is.
    pub fn address(&self) -> Result<Address, Failure> {
        self.address.parse().map_err(Failure::usage)
    }
}

/// All that is known.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Contexts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

impl Contexts {
    /// Where they are kept.
    fn file() -> Result<PathBuf, Failure> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let directory = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
        let directory = directory.ok_or_else(|| Failure::failed("There is no home directory: set HOME"))?;
        Ok(directory.join("quantix").join("contexts.toml"))
    }

    /// Reads them; none when there is no file yet.
    pub fn load() -> Result<Self, Failure> {
        Self::load_from(&Self::file()?)
    }

    fn load_from(file: &Path) -> Result<Self, Failure> {
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::file(file, &error)),
        };
        let mode = std::fs::metadata(file).map_err(|error| Failure::file(file, &error))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(Failure::new(
                ExitStatus::Denied,
                format!("{} holds tokens, and others can read it", file.display()),
            )
            .hint(format!("chmod 600 {}", file.display())));
        }
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            Failure::failed(format!("{}, line {line}: {}", file.display(), error.message()))
        })
    }

    /// Writes them.
    pub fn save(&self) -> Result<(), Failure> {
        self.save_to(&Self::file()?)
    }

    fn save_to(&self, file: &Path) -> Result<(), Failure> {
        let directory = file.parent().unwrap_or(Path::new("/"));
        let wrong = |error: std::io::Error| Failure::file(file, &error);
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(wrong)?;
        // A temporary file of this crate is made with mode 0600.
        let mut new = tempfile::NamedTempFile::new_in(directory).map_err(wrong)?;
        let text = toml::to_string_pretty(self).expect("contexts have a TOML form");
        new.write_all(text.as_bytes()).map_err(wrong)?;
        new.as_file().sync_all().map_err(wrong)?;
        new.persist(file).map_err(|error| wrong(error.error))?;
        Ok(())
    }

    /// The context with this name.
    pub fn get(&self, name: &str) -> Result<&Context, Failure> {
        self.contexts.get(name).ok_or_else(|| {
            Failure::new(ExitStatus::NotFound, format!("There is no context '{name}'"))
                .hint("which there are: qx context ls")
        })
    }

    /// The name of the current one.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// The name of the context with this address.
    pub fn by_address(&self, address: &Address) -> Option<String> {
        let same = |context: &Context| context.address().is_ok_and(|known| known == *address);
        self.contexts.iter().find(|(_, context)| same(context)).map(|(name, _)| name.clone())
    }

    /// Adds a context, or puts it in the place of the one with that name. The first becomes the current one.
    pub fn set(&mut self, name: &str, context: Context) {
        self.contexts.insert(name.to_owned(), context);
        self.current.get_or_insert_with(|| name.to_owned());
    }

    /// Makes one the current.
    pub fn choose(&mut self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        self.current = Some(name.to_owned());
        Ok(())
    }

    /// Changes one, when it is there.
    pub fn change(&mut self, name: &str, change: impl FnOnce(&mut Context)) {
        if let Some(context) = self.contexts.get_mut(name) {
            change(context);
        }
    }

    fn remove(&mut self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        self.contexts.remove(name);
        if self.current.as_deref() == Some(name) {
            self.current = None;
        }
        Ok(())
    }
}

/// Commands on contexts.
#[derive(Debug, Subcommand)]
pub enum ContextCommand {
    /// List the nodes that this program knows
    #[command(visible_alias = "list", after_help = "Examples:\n  qx context ls\n  qx context ls -o json")]
    Ls,
    /// Make a context the current one
    #[command(after_help = "Examples:\n  qx context use lab")]
    Use {
        /// Which one
        name: String,
    },
    /// Add a node without logging in
    ///
    /// Shows the node's certificate and asks whether it is the right one. To log in at once, use qx login.
    #[command(
        after_help = "Examples:\n  qx context add lab node1.example.net\n  qx context add lab 10.0.0.5:9443 --trust-on-first-use"
    )]
    Add(AddArgs),
    /// Forget a node
    #[command(visible_alias = "rm", after_help = "Examples:\n  qx context remove lab")]
    Remove {
        /// Which one
        name: String,
    },
}

/// What `context add` takes.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// What to call it
    name: String,
    /// HOST, HOST:PORT or unix:PATH
    address: Address,
    /// Keep an API token with it: its first line; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Runs a command on contexts.
pub async fn run(command: ContextCommand, session: &Session) -> Result<(), Failure> {
    let mut contexts = Contexts::load()?;
    match command {
        ContextCommand::Ls => list(&contexts, session),
        ContextCommand::Use { name } => {
            contexts.choose(&name)?;
            contexts.save()?;
            session.out.line(&format!("{name} is the current context now."))?;
            if connect::local_socket().is_some() {
                eprintln!("The node on this machine still comes first; use --context {name} to reach the other.");
            }
            Ok(())
        }
        ContextCommand::Add(args) => add(args, contexts, session).await,
        ContextCommand::Remove { name } => {
            contexts.remove(&name)?;
            contexts.save()?;
            session.out.line(&format!("Context {name} is forgotten."))
        }
    }
}

async fn add(args: AddArgs, mut contexts: Contexts, session: &Session) -> Result<(), Failure> {
    let mut context = Context { address: args.address.to_string(), ..Context::default() };
    if let Address::Tls(host, port) = &args.address {
        match &session.global.ca_file {
            Some(file) => {
                context.ca_file = Some(std::path::absolute(file).map_err(|error| Failure::file(file, &error))?);
            }
            None => context.fingerprint = Some(session.first_contact(host, *port).await?),
        }
    }
    if let Some(file) = &args.token_file {
        context.token = Some(crate::terminal::secret("Token: ", Some(file))?);
    }
    contexts.set(&args.name, context);
    contexts.save()?;
    session.out.line(&format!("Context {} is {}.", args.name, args.address))
}

fn list(contexts: &Contexts, session: &Session) -> Result<(), Failure> {
    match session.out.format {
        Format::Name => contexts.contexts.keys().try_for_each(|name| session.out.line(name)),
        Format::Json => {
            let all = contexts.contexts.iter().map(|(name, context)| {
                serde_json::json!({
                    "name": name,
                    "address": context.address,
                    "user": context.user,
                    "fingerprint": context.fingerprint,
                    "loggedIn": context.token.is_some(),
                    "current": contexts.current() == Some(name),
                })
            });
            let all = serde_json::Value::Array(all.collect());
            session.out.line(&serde_json::to_string_pretty(&all).expect("a JSON value has a text"))
        }
        Format::Table | Format::Wide => {
            let heads = [("", false), ("NAME", false), ("ADDRESS", false), ("USER", false), ("CERTIFICATE", false)];
            let rows = contexts.contexts.iter().map(|(name, context)| {
                let current = contexts.current() == Some(name);
                vec![
                    Cell::toned(if current { "*" } else { "" }, Tone::Good),
                    Cell::from(name.clone()),
                    Cell::from(context.address.clone()),
                    Cell::from(context.user.clone().unwrap_or_default()),
                    Cell::toned(certificate(context), Tone::Dim),
                ]
            });
            session.out.text(&grid(&heads, rows, &session.out.view()))?;
            if let Some(path) = connect::local_socket() {
                eprintln!("Without --context, the node on this machine is used ({}).", path.display());
            }
            Ok(())
        }
    }
}

fn certificate(context: &Context) -> String {
    match (&context.fingerprint, &context.ca_file) {
        (Some(fingerprint), _) => fingerprint.to_string().chars().take(16).chain("…".chars()).collect(),
        (None, Some(file)) => format!("signed by {}", file.display()),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_and_nobody_else_can_read_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deep/contexts.toml");
        let mut contexts = Contexts::load_from(&file).unwrap();
        let token = Some("secret".to_owned());
        contexts.set("lab", Context { address: "lab:9443".into(), token, ..Context::default() });
        contexts.save_to(&file).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Contexts::load_from(&file).unwrap();
        assert_eq!(again.current(), Some("lab"));
        assert_eq!(again.get("lab").unwrap().token.as_deref(), Some("secret"));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("contexts.toml");
        Contexts::default().save_to(&file).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        let failure = Contexts::load_from(&file).unwrap_err();
        assert_eq!(failure.status, ExitStatus::Denied);
        assert!(failure.hint.unwrap().starts_with("chmod 600 "));
    }

    #[test]
    fn a_fault_in_the_file_is_named_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("contexts.toml");
        Contexts::default().save_to(&file).unwrap();
        std::fs::write(&file, "[contexts.lab]\naddress = \"lab\"\nfingerprint = \"12\"\n").unwrap();
        let failure = Contexts::load_from(&file).unwrap_err();
        assert!(failure.message.contains("line 3: '12' is no SHA-256"), "{}", failure.message);
    }

    #[test]
    fn forgetting_the_current_one_leaves_none() {
        let mut contexts = Contexts::default();
        contexts.set("lab", Context { address: "lab".into(), ..Context::default() });
        contexts.remove("lab").unwrap();
        assert_eq!(contexts.current(), None);
        assert_eq!(contexts.remove("lab").unwrap_err().status, ExitStatus::NotFound);
    }
}
