//! What things are called: ids that machines make and names that people choose. Pure; parsing is in `TryFrom`.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Failure;

/// A UUIDv7 in its usual text form; ids of one process sort by the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id(String);

impl Id {
    /// A new one.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self(Uuid::now_v7().to_string())
    }

    /// Reads an id; `field` is the request's field that is blamed when it is none.
    ///
    /// # Errors
    /// When the text is not a UUID.
    pub fn parse(field: &str, text: &str) -> Result<Self, Failure> {
        Self::try_from(text).map_err(|reason| Failure::invalid(field, text, reason))
    }

    /// Whether this text has the form of an id. Names may have it too; look-ups try the id first.
    pub fn is_id(text: &str) -> bool {
        Uuid::try_parse(text).is_ok()
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Id {
    type Error = &'static str;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        match Uuid::try_parse(text) {
            // Only the hyphenated lower-case form, so that equal ids are equal texts.
            Ok(uuid) if uuid.to_string() == text => Ok(Self(text.to_owned())),
            _ => Err("is not an id: write a UUID with hyphens in lower case"),
        }
    }
}

impl TryFrom<String> for Id {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl From<Id> for String {
    fn from(id: Id) -> Self {
        id.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Id {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A name that people choose: `[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?`, so it is also a DNS label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Longest name, in bytes.
    pub const MAX: usize = 63;

    /// Reads a name; `field` is the request's field that is blamed when it is none.
    ///
    /// # Errors
    /// When the text breaks a rule of names; the failure says which.
    pub fn parse(field: &str, text: &str) -> Result<Self, Failure> {
        Self::try_from(text).map_err(|reason| Failure::invalid(field, text, reason))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Name {
    type Error = &'static str;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        if text.is_empty() {
            return Err("is missing: give a name of 1 to 63 of a-z, 0-9 and -");
        }
        if text.len() > Self::MAX {
            return Err("is too long: a name has at most 63 characters");
        }
        if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            return Err("has a character that names may not have: use a-z, 0-9 and -");
        }
        if text.starts_with('-') || text.ends_with('-') {
            return Err("begins or ends with -: a name begins and ends with a-z or 0-9");
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}
