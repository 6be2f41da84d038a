//! Everything that the lab builds lives here, outside the source tree, under a name that holds the hash of its recipe:
//! a changed recipe is another entry, an interrupted build leaves none. Runs on the caller's thread; several processes may
//! ask for the same entry at once (a file lock lets one of them build).

use crate::error::{IoContext, LabError};
use sha2::{Digest, Sha256};
use std::env;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// An entry that nobody asked for during this time makes room when a sibling is built.
const FORGET_AFTER: Duration = Duration::from_hours(336);
/// Every entry holds its recipe in words; its time stamp says when the entry was last wanted.
const RECIPE_FILE: &str = "RECIPE";

/// What an entry is made of. Whatever changes the result has to be an ingredient.
#[derive(Debug)]
pub struct Recipe {
    name: &'static str,
    ingredients: String,
}

impl Recipe {
    /// A recipe for an entry called `name`.
    pub fn new(name: &'static str) -> Self {
        Self { name, ingredients: format!("{name}\n") }
    }

    /// Adds an ingredient: a version, a list, a script's text.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        let value = value.as_ref();
        let text = match std::str::from_utf8(value) {
            Ok(text) if text.len() < 4096 && !text.contains('\n') => text.to_string(),
            _ => format!("sha256 {}", hex(&Sha256::digest(value))),
        };
        let _infallible = writeln!(self.ingredients, "{key}: {text}");
        self
    }

    fn key(&self) -> String {
        let digest = hex(&Sha256::digest(&self.ingredients));
        format!("{}-{}", self.name, digest.get(..16).unwrap_or(&digest))
    }
}

/// A directory of entries.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The user's cache: `$QUANTIX_CACHE`, else `$XDG_CACHE_HOME/quantix`, else `~/.cache/quantix`.
    ///
    /// # Errors
    /// [`LabError::Io`] when it cannot be made.
    pub fn open() -> Result<Self, LabError> {
        let root = env::var_os("QUANTIX_CACHE").map_or_else(
            || {
                let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
                let home = || PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(".cache");
                base.unwrap_or_else(home).join("quantix")
            },
            PathBuf::from,
        );
        Self::at(root)
    }

    /// A cache in `root`.
    ///
    /// # Errors
    /// [`LabError::Io`] when it cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Result<Self, LabError> {
        let root = root.into();
        fs::create_dir_all(root.join("locks")).on("create", &root)?;
        Ok(Self { root: root.canonicalize().on("resolve", &root)? })
    }

    /// Where the entries are.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The entry's directory; `build` fills it when it is not there yet, which is announced on standard error.
    ///
    /// # Errors
    /// What `build` says, or [`LabError::Io`].
    pub fn entry(
        &self,
        recipe: &Recipe,
        build: impl FnOnce(&Path) -> Result<(), LabError>,
    ) -> Result<PathBuf, LabError> {
        let key = recipe.key();
        let entry = self.root.join(&key);
        let lock_path = self.root.join(format!("locks/{key}"));
        let lock = File::create(&lock_path).on("create", &lock_path)?;
        lock.lock().on("lock", &lock_path)?;
        if touch(&entry.join(RECIPE_FILE)) {
            return Ok(entry);
        }
        eprintln!("lab: building {key} …");
        let start = Instant::now();
        let partial = self.root.join(format!("{key}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial).on("remove", &partial)?;
        }
        fs::create_dir(&partial).on("create", &partial)?;
        build(&partial)?;
        fs::write(partial.join(RECIPE_FILE), &recipe.ingredients).on("write", &partial)?;
        fs::rename(&partial, &entry).on("rename", &partial)?;
        eprintln!("lab: built {key} in {:.1} s", start.elapsed().as_secs_f32());
        self.forget(recipe.name, FORGET_AFTER);
        Ok(entry)
    }

    /// Removes the entries of one name that were not wanted for a while; a failure only costs space.
    fn forget(&self, name: &str, unwanted_for: Duration) {
        let Ok(entries) = fs::read_dir(&self.root) else { return };
        for entry in entries.filter_map(Result::ok) {
            let ours =
                entry.file_name().to_str().and_then(|file| file.rsplit_once('-')).is_some_and(|(stem, _)| stem == name);
            let age = entry
                .path()
                .join(RECIPE_FILE)
                .metadata()
                .and_then(|meta| meta.modified())
                .ok()
                .and_then(|time| SystemTime::now().duration_since(time).ok());
            if ours && age.is_some_and(|age| age > unwanted_for) {
                let _removed = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn touch(path: &Path) -> bool {
    File::options().append(true).open(path).is_ok_and(|file| file.set_modified(SystemTime::now()).is_ok())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{Cache, Recipe};
    use crate::error::LabError;
    use std::cell::Cell;
    use std::fs;
    use std::time::Duration;

    #[test]
    fn an_entry_is_built_once_for_each_recipe() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::at(directory.path()).expect("the cache opens");
        let builds = Cell::new(0);
        let ask = |version: &str| {
            let recipe = Recipe::new("thing").with("version", version);
            let entry = cache.entry(&recipe, |dir| {
                builds.set(builds.get() + 1);
                fs::write(dir.join("file"), version).map_err(|source| LabError::Io {
                    action: "write",
                    path: dir.into(),
                    source,
                })
            });
            fs::read_to_string(entry.expect("the entry is there").join("file")).expect("the file is there")
        };
        assert_eq!([ask("1"), ask("1"), ask("2"), ask("1")], ["1", "1", "2", "1"]);
        assert_eq!(builds.get(), 2);
    }

    #[test]
    fn a_failed_build_leaves_no_entry_and_old_entries_are_forgotten() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let cache = Cache::at(directory.path()).expect("the cache opens");
        let failing = |_: &std::path::Path| Err(LabError::Image { what: "thing", reason: "no".into() });
        assert!(cache.entry(&Recipe::new("thing"), failing).is_err());
        let entry = cache.entry(&Recipe::new("thing"), |_| Ok(())).expect("a second try builds");
        cache.forget("thing", Duration::from_hours(1));
        assert!(entry.exists());
        cache.forget("other", Duration::ZERO);
        assert!(entry.exists());
        cache.forget("thing", Duration::ZERO);
        assert!(!entry.exists());
    }
}
