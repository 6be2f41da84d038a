//! What happened, in one order. Pure; keeping and sending events is the business of `store/` and `events/`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::{Failure, ResourceRef, Time};

/// How bad an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Somebody should look at it some time.
    Warning,
    /// Somebody should look at it now.
    Alarm,
}

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// What: `vm.created`, `volume.deleted`, `task.finished`.
    pub kind: String,
    /// How bad.
    pub severity: Severity,
    /// To what.
    pub resource: Option<ResourceRef>,
    /// One sentence for people.
    pub message: String,
    /// Details for programs.
    pub details: BTreeMap<String, String>,
}

impl NewEvent {
    fn new(severity: Severity, kind: &str, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), severity, resource: None, message: message.into(), details: BTreeMap::new() }
    }

    /// As it should be.
    pub fn info(kind: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Info, kind, message)
    }

    /// Somebody should look at it some time.
    pub fn warning(kind: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, kind, message)
    }

    /// Somebody should look at it now.
    pub fn alarm(kind: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Alarm, kind, message)
    }

    /// To what it happened.
    pub fn on(mut self, resource: ResourceRef) -> Self {
        self.resource = Some(resource);
        self
    }

    /// A detail for programs.
    // By value, so that numbers and texts are written as they are.
    #[allow(clippy::needless_pass_by_value)]
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        self.details.insert(key.into(), value.to_string());
        self
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Grows by one with every event, across restarts.
    pub sequence: u64,
    /// Which inventory it belongs to: a lost database begins a new count.
    pub epoch: String,
    /// When, as the clock said.
    pub time: Time,
    /// What: `vm.created`.
    pub kind: String,
    /// How bad.
    pub severity: Severity,
    /// To what.
    pub resource: Option<ResourceRef>,
    /// One sentence for people.
    pub message: String,
    /// Details for programs.
    pub details: BTreeMap<String, String>,
}

impl Event {
    /// Hand this to a watch to go on after this event.
    pub fn resume_token(&self) -> ResumeToken {
        ResumeToken { epoch: self.epoch.clone(), sequence: self.sequence }
    }
}

/// A place in the events of one inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeToken {
    /// Which inventory.
    pub epoch: String,
    /// The last event that was seen.
    pub sequence: u64,
}

impl ResumeToken {
    /// As it goes to clients: opaque text.
    pub fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!("{}\n{}", self.sequence, self.epoch))
    }

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    /// `InvalidArgument` when it is something else.
    pub fn parse(field: &str, text: &str) -> Result<Self, Failure> {
        let refused = || Failure::invalid(field, text, "is not a resume token: take it from an event");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| refused())?;
        let inner = String::from_utf8(bytes).map_err(|_| refused())?;
        let (sequence, epoch) = inner.split_once('\n').ok_or_else(refused)?;
        Ok(Self { epoch: epoch.into(), sequence: sequence.parse().map_err(|_| refused())? })
    }
}
