//! Kernel modules in the order in which they have to be loaded, from `modules.dep`. Pure parsing, plus one function that
//! packs the files into an initramfs.

use super::cpio::Archive;
use crate::error::{IoContext, LabError};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Adds the named modules and what they need to `archive` as `modules/*.ko`, and `modules/order`, one file name a line.
///
/// # Errors
/// [`LabError::Image`] for a name that the kernel has neither as a module nor built in.
pub fn pack(archive: &mut Archive, tree: &Path, wanted: &[&str]) -> Result<(), LabError> {
    let read = |file: &str| fs::read_to_string(tree.join(file)).on("read", tree.join(file));
    let (dependencies, builtin) = (read("modules.dep")?, read("modules.builtin")?);
    let index = Index::parse(&dependencies, &builtin);
    let mut order = String::new();
    for path in index.load_order(wanted)? {
        let file = path.rsplit('/').next().unwrap_or(path);
        let from = tree.join(path);
        archive.file(&format!("modules/{file}"), 0o644, &fs::read(&from).on("read", from)?);
        order.push_str(file);
        order.push('\n');
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(())
}

struct Index<'a> {
    /// Module name → its file and the files it needs, which `depmod` lists in reverse loading order.
    files: BTreeMap<String, (&'a str, Vec<&'a str>)>,
    builtin: Vec<String>,
}

impl<'a> Index<'a> {
    fn parse(dependencies: &'a str, builtin: &str) -> Self {
        let files = dependencies
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(file, needs)| (name_of(file), (file, needs.split_whitespace().collect())))
            .collect();
        Self { files, builtin: builtin.lines().map(name_of).collect() }
    }

    fn load_order(&self, wanted: &[&str]) -> Result<Vec<&'a str>, LabError> {
        let mut order = Vec::new();
        for name in wanted {
            match self.files.get(&name_of(name)) {
                Some((file, needs)) => {
                    for path in needs.iter().rev().chain([file]) {
                        if !order.contains(path) {
                            order.push(*path);
                        }
                    }
                }
                None if self.builtin.contains(&name_of(name)) => {}
                None => {
                    return Err(LabError::Image {
                        what: "initramfs",
                        reason: format!("the kernel has no module {name}"),
                    });
                }
            }
        }
        Ok(order)
    }
}

/// The kernel takes `-` and `_` in a module's name for the same.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::Index;

    const DEPENDENCIES: &str = "kernel/a/top-one.ko: kernel/b/middle.ko kernel/c/base.ko\n\
                                kernel/b/middle.ko: kernel/c/base.ko\n\
                                kernel/c/base.ko:\n";

    #[test]
    fn what_is_needed_comes_first_and_only_once() {
        let index = Index::parse(DEPENDENCIES, "kernel/fs/built-in.ko\n");
        let order = index.load_order(&["middle", "top_one", "built_in"]).expect("all are known");
        assert_eq!(order, ["kernel/c/base.ko", "kernel/b/middle.ko", "kernel/a/top-one.ko"]);
    }

    #[test]
    fn an_unknown_module_is_named() {
        let error = Index::parse(DEPENDENCIES, "").load_order(&["absent"]).expect_err("it is not there");
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
