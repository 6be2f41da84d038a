//! The one error that crosses rooms: a kind, one sentence, the fields at fault, and the cause. Pure. What it looks like on
//! the wire is the business of `server/`.

use std::error::Error;
use std::fmt;

use super::ResourceKind;

/// What sort of failure; each is a code of gRPC (`google.rpc.Code`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The request is wrong whatever the state is.
    InvalidArgument,
    /// There is no such thing.
    NotFound,
    /// There is such a thing already.
    AlreadyExists,
    /// The state does not allow it now.
    FailedPrecondition,
    /// Somebody else was faster (etag); read again and retry.
    Aborted,
    /// No room: disk, memory, a limit.
    ResourceExhausted,
    /// This caller may not.
    PermissionDenied,
    /// Who calls is not known.
    Unauthenticated,
    /// A position that is no longer, or not yet, there.
    OutOfRange,
    /// Not now; the same call may work later.
    Unavailable,
    /// Somebody asked for it to stop.
    Cancelled,
    /// It took longer than it was given.
    DeadlineExceeded,
    /// A fault of this node.
    Internal,
}

/// Kind, number in `google.rpc.Code`, and name on the wire.
const CODES: [(FailureKind, i32, &str); 13] = [
    (FailureKind::Cancelled, 1, "CANCELLED"),
    (FailureKind::InvalidArgument, 3, "INVALID_ARGUMENT"),
    (FailureKind::DeadlineExceeded, 4, "DEADLINE_EXCEEDED"),
    (FailureKind::NotFound, 5, "NOT_FOUND"),
    (FailureKind::AlreadyExists, 6, "ALREADY_EXISTS"),
    (FailureKind::PermissionDenied, 7, "PERMISSION_DENIED"),
    (FailureKind::ResourceExhausted, 8, "RESOURCE_EXHAUSTED"),
    (FailureKind::FailedPrecondition, 9, "FAILED_PRECONDITION"),
    (FailureKind::Aborted, 10, "ABORTED"),
    (FailureKind::OutOfRange, 11, "OUT_OF_RANGE"),
    (FailureKind::Internal, 13, "INTERNAL"),
    (FailureKind::Unavailable, 14, "UNAVAILABLE"),
    (FailureKind::Unauthenticated, 16, "UNAUTHENTICATED"),
];

impl FailureKind {
    fn row(self) -> (FailureKind, i32, &'static str) {
        CODES.into_iter().find(|row| row.0 == self).unwrap_or((self, 2, "UNKNOWN"))
    }

    /// The number in `google.rpc.Code`.
    pub fn code(self) -> i32 {
        self.row().1
    }

    /// The name in `google.rpc.Code`.
    pub fn as_str(self) -> &'static str {
        self.row().2
    }
}

/// One field that is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path from the request: `vm.spec.disks[1].size_bytes`.
    pub field: String,
    /// Which value, why not, and what would do.
    pub description: String,
}

/// What went wrong, in words for the caller.
#[derive(Debug)]
pub struct Failure {
    kind: FailureKind,
    message: String,
    violations: Vec<Violation>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

/// Longest piece of a caller's value that is repeated in a message, in characters.
const SHOWN: usize = 80;

/// A caller's value for a message: quoted, without control characters, short.
fn shown(value: &str) -> String {
    let mut text: String = value.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if value.chars().nth(SHOWN).is_some() {
        text.push('…');
    }
    format!("\"{text}\"")
}

impl Failure {
    /// Any kind, with one sentence.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), violations: Vec::new(), source: None }
    }

    /// A field has a value that it may not have; `reason` goes on after it: "is too long: …".
    pub fn invalid(field: impl Into<String>, value: impl fmt::Display, reason: impl fmt::Display) -> Self {
        let description = format!("{} {reason}", shown(&value.to_string()));
        Self::violations(vec![Violation { field: field.into(), description }])
    }

    /// Several fields at once. `violations` must not be empty.
    pub fn violations(violations: Vec<Violation>) -> Self {
        let message = match violations.as_slice() {
            [] => "The request is not valid".to_owned(),
            [one] => format!("{}: {}", one.field, one.description),
            [first, rest @ ..] => format!("{}: {} (and {} more)", first.field, first.description, rest.len()),
        };
        Self { kind: FailureKind::InvalidArgument, message, violations, source: None }
    }

    /// There is no such resource.
    pub fn not_found(kind: ResourceKind, name: &str) -> Self {
        Self::new(FailureKind::NotFound, format!("There is no {kind} {}", shown(name)))
    }

    /// The name is taken.
    pub fn exists(kind: ResourceKind, name: &str) -> Self {
        Self::new(FailureKind::AlreadyExists, format!("There is already a {kind} {}: choose another name", shown(name)))
    }

    /// The state does not allow it now.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(FailureKind::FailedPrecondition, message)
    }

    /// There is no room for it.
    pub fn exhausted(message: impl Into<String>) -> Self {
        Self::new(FailureKind::ResourceExhausted, message)
    }

    /// Not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Unavailable, message)
    }

    /// Somebody asked for it to stop.
    pub fn cancelled(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Cancelled, message)
    }

    /// A fault of this node, with its cause.
    pub fn internal(message: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(FailureKind::Internal, message).caused_by(source)
    }

    /// A fault of this node without a deeper cause.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Internal, message)
    }

    /// Adds the cause.
    pub fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts a path before the fields at fault, when a part was validated on its own: `spec` makes `vm.spec.cpus`
    /// of `cpus` with `vm.spec`.
    pub fn under(mut self, path: &str) -> Self {
        if self.violations.is_empty() {
            return self;
        }
        for violation in &mut self.violations {
            violation.field = format!("{path}.{}", violation.field);
        }
        let again = Self::violations(self.violations);
        Self { source: self.source, ..again }
    }

    /// The sort.
    pub fn kind(&self) -> FailureKind {
        self.kind
    }

    /// The sentence, without the cause.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The fields at fault.
    pub fn fields(&self) -> &[Violation] {
        &self.violations
    }

    /// The sentence and all its causes, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut source = self.source();
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text.replace('\n', " ")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}
