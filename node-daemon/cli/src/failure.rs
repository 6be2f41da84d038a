//! How a command fails: one line for people, perhaps a hint what to do, and an exit status for scripts. Refusals of the
//! node become failures here, with the field that is to blame and the option that sets it.

use std::io::ErrorKind;
use std::process::ExitCode;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::style::Tone;

/// The exit statuses of `qx`, for scripts. 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Nobody reads the output any more: no failure.
    ReaderGone = 0,
    /// It was tried, and did not succeed.
    Failed = 1,
    /// It can never succeed as it was asked for.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// Nobody is logged in, or whoever is may not do this.
    Denied = 4,
    /// The node does not answer.
    Unavailable = 5,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the program exits with.
    pub status: ExitStatus,
    /// One sentence, without a full stop at its end.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with an exit status.
    pub fn new(status: ExitStatus, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, message: message.trim_end_matches('.').to_owned(), hint: None }
    }

    /// Something was tried and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ExitStatus::Failed, message)
    }

    /// The command line is wrong in a way that clap does not see.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ExitStatus::Usage, message)
    }

    /// The same with what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Something with a file failed.
    pub fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        let status = if error.kind() == ErrorKind::NotFound { ExitStatus::Usage } else { ExitStatus::Failed };
        Self::new(status, format!("{}: {error}", path.display()))
    }

    /// Writes it to standard error.
    pub fn report(&self, colour: bool) {
        if self.status == ExitStatus::ReaderGone {
            return;
        }
        eprintln!("{} {}", Tone::Bad.paint("qx:", colour), self.message);
        if let Some(hint) = &self.hint {
            eprintln!("{} {hint}", Tone::Dim.paint("hint:", colour));
        }
    }
}

/// Writing to standard output failed.
impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::new(ExitStatus::ReaderGone, "Nobody reads the output"),
            _ => Self::failed(format!("The output cannot be written: {error}")),
        }
    }
}

/// The node said no, or nothing at all.
impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let mut failure = Self::new(exit_status(status.code()), sentence(&status));
        failure.hint = hint(&status).map(str::to_owned);
        failure
    }
}

/// What a script is told for a code of gRPC.
pub fn exit_status(code: Code) -> ExitStatus {
    match code {
        Code::NotFound => ExitStatus::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => ExitStatus::Denied,
        Code::Unavailable | Code::DeadlineExceeded => ExitStatus::Unavailable,
        Code::InvalidArgument => ExitStatus::Usage,
        _ => ExitStatus::Failed,
    }
}

/// The message, and what each field did wrong when the message does not say so itself.
fn sentence(status: &Status) -> String {
    let mut text = match status.message() {
        "" => format!("The node answered {:?} without a reason", status.code()),
        message => message.trim_end_matches('.').to_owned(),
    };
    let Some(request) = status.get_details_bad_request() else { return text };
    let blamed: Vec<String> = request
        .field_violations
        .iter()
        .map(|violation| {
            let why = violation.description.trim_end_matches('.');
            match option_of(&violation.field) {
                Some(option) => format!("{} ({option}): {why}", violation.field),
                None => format!("{}: {why}", violation.field),
            }
        })
        .collect();
    match blamed.as_slice() {
        [] => text,
        // The one thing that is wrong says more than that something is.
        [one] => one.clone(),
        several => {
            text.push_str(": ");
            text.push_str(&several.join("; "));
            text
        }
    }
}

/// What to do about a refusal.
fn hint(status: &Status) -> Option<&'static str> {
    Some(match status.code() {
        Code::Unauthenticated => "log in with: qx login",
        Code::PermissionDenied => "who you are here, and what you may do: qx whoami",
        Code::Unavailable => "is the node up, and is this its address? See: qx context ls",
        Code::DeadlineExceeded => "the node is slow to answer; what it does: qx task ls --active",
        Code::Aborted => "somebody changed it meanwhile; look again and repeat",
        Code::Unimplemented => "the node is older than this qx; compare: qx --version and qx host",
        _ => return None,
    })
}

/// Which option of `qx` sets a field of the API. The beginning of a field's path decides, longer ones first.
const OPTIONS: &[(&str, &str)] = &[
    ("spec.autostart", "--autostart"),
    ("spec.boot.cmdline", "--cmdline"),
    ("spec.boot.initrd", "--initrd"),
    ("spec.boot.kernel", "--kernel"),
    ("spec.cloud_init.meta_data", "--meta-data"),
    ("spec.cloud_init.network_config", "--network-config"),
    ("spec.cloud_init.ssh_keys", "--ssh-key"),
    ("spec.cloud_init.user_data", "--user-data"),
    ("spec.cpus.cores", "--cores"),
    ("spec.cpus.pinning", "--pin"),
    ("spec.cpus.quota_percent", "--cpu-quota"),
    ("spec.cpus.sockets", "--sockets"),
    ("spec.cpus.threads", "--threads"),
    ("spec.cpus.weight", "--cpu-weight"),
    ("spec.cpus", "--cpus"),
    ("spec.disks", "--disk"),
    ("spec.memory", "--memory"),
    ("spec.nics", "--network"),
    ("spec.restart", "--restart"),
    ("labels", "--label"),
    ("request_id", "--request-id"),
    ("size_bytes", "--size"),
];

/// The option for a field's path.
fn option_of(field: &str) -> Option<&'static str> {
    OPTIONS.iter().find(|(beginning, _)| field.starts_with(beginning)).map(|(_, option)| *option)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, FieldViolation};

    #[test]
    fn scripts_can_tell_the_refusals_apart() {
        for (code, status) in [
            (Code::NotFound, 3),
            (Code::PermissionDenied, 4),
            (Code::Unauthenticated, 4),
            (Code::Unavailable, 5),
            (Code::InvalidArgument, 2),
            (Code::FailedPrecondition, 1),
            (Code::AlreadyExists, 1),
            (Code::Internal, 1),
        ] {
            assert_eq!(Failure::from(Status::new(code, "x")).status as u8, status, "{code:?}");
        }
    }

    #[test]
    fn the_field_that_is_to_blame_is_named_with_its_option() {
        let details = ErrorDetails::with_bad_request(vec![FieldViolation::new(
            "spec.memory.size_bytes",
            "1 is below 1 MiB; give more.",
        )]);
        let status = Status::with_error_details(Code::InvalidArgument, "The request is not valid.", details);
        let failure = Failure::from(status);
        assert_eq!(failure.message, "spec.memory.size_bytes (--memory): 1 is below 1 MiB; give more");
    }

    #[test]
    fn several_fields_are_all_named() {
        let details = ErrorDetails::with_bad_request(vec![
            FieldViolation::new("name", "empty"),
            FieldViolation::new("spec.cpus.count", "0 is not 1 to 128"),
        ]);
        let failure =
            Failure::from(Status::with_error_details(Code::InvalidArgument, "Two fields are wrong.", details));
        assert_eq!(failure.message, "Two fields are wrong: name: empty; spec.cpus.count (--cpus): 0 is not 1 to 128");
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure() {
        let failure = Failure::from(std::io::Error::from(ErrorKind::BrokenPipe));
        assert_eq!(failure.status as u8, 0);
    }
}
