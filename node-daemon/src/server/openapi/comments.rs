//! The comments of the protos, as descriptions. Pure.

use std::collections::HashMap;

use prost_reflect::FileDescriptor;
use quantix_api::json::POOL;

/// Comments by file and by path within the file's descriptor.
pub struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    /// Reads the comments of all files of the API.
    pub fn read() -> Self {
        let mut comments = HashMap::new();
        for file in POOL.files().filter(|f| f.package_name().starts_with("quantix.")) {
            let info = file.file_descriptor_proto().source_code_info.clone().unwrap_or_default();
            for location in info.location {
                if let Some(text) = location.leading_comments {
                    comments.insert((file.name().to_owned(), location.path), tidy(&text));
                }
            }
        }
        Self(comments)
    }

    /// The comment at `path`; empty when there is none.
    pub fn at(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.0.get(&(file.name().to_owned(), path.to_vec())).map_or("", String::as_str)
    }
}

/// Joins a comment's lines: the protos break them at a width that means nothing to a reader of the document.
fn tidy(text: &str) -> String {
    text.split("\n\n").map(|p| p.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n\n")
}
