//! Who changed what, and who was refused.

use clap::Args;
use quantix_api::v1::{AuditEntry, ListAuditEntriesRequest};
use tonic::Code;

use crate::failure::Failure;
use crate::session::{Session, pages};
use crate::style::Tone;
use crate::table::{Cell, Column, Sheet};
use crate::units;

/// What `audit` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  qx audit\n  qx audit --user alice --limit 500 -o json")]
pub struct AuditArgs {
    /// Only what this user did
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    user: String,
    /// The newest so many
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

const SHEET: Sheet<AuditEntry> = Sheet {
    plural: "entries in the audit log",
    name: |entry| &entry.method,
    columns: &[
        Column::wide_number("#", |entry, _| entry.sequence.to_string().into()),
        Column::text("TIME", |entry, _| units::when(entry.time.as_ref()).into()),
        Column::text(
            "USER",
            |entry, _| if entry.user.is_empty() { "(nobody)".into() } else { entry.user.as_str().into() },
        ),
        Column::text("FROM", |entry, _| entry.peer.as_str().into()),
        Column::text("METHOD", |entry, _| method(&entry.method).into()),
        Column::text("OF", |entry, _| entry.resource.as_ref().map_or("", |resource| &resource.name).into()),
        Column::text("RESULT", |entry, _| result(entry.code)),
        Column::text("MESSAGE", |entry, _| entry.message.as_str().into()),
        Column::wide_text("TOKEN", |entry, _| entry.token_id.as_str().into()),
    ],
};

/// Shows the audit log.
pub async fn run(args: AuditArgs, session: &Session) -> Result<(), Failure> {
    let request = ListAuditEntriesRequest { user: args.user, ..ListAuditEntriesRequest::default() };
    let entries = pages!(session.audit().await?, list_audit_entries, request, entries, Some(args.limit))?;
    session.out.list(&entries, &SHEET, &session.out.view())
}

/// A method without its package.
fn method(full: &str) -> &str {
    full.strip_prefix("quantix.node.v1.").unwrap_or(full)
}

fn result(code: i32) -> Cell {
    match Code::from_i32(code) {
        Code::Ok => Cell::toned("ok", Tone::Good),
        code @ (Code::PermissionDenied | Code::Unauthenticated) => Cell::toned(spelt(code), Tone::Bad),
        code => Cell::toned(spelt(code), Tone::Warn),
    }
}

/// A code as words: permission denied.
fn spelt(code: Code) -> String {
    let mut text = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::view;

    #[test]
    fn refusals_are_told_in_words() {
        let entry = AuditEntry {
            peer: "10.0.0.9:4711".into(),
            method: "quantix.node.v1.VmService/CreateVm".into(),
            code: Code::PermissionDenied as i32,
            message: "A viewer may not do this.".into(),
            ..AuditEntry::default()
        };
        let text = SHEET.render(&[entry], &view());
        assert!(
            text.contains("(nobody)  10.0.0.9:4711  VmService/CreateVm      permission denied  A viewer"),
            "{text}"
        );
    }

    #[test]
    fn codes_are_spelt_out() {
        assert_eq!(spelt(Code::PermissionDenied), "permission denied");
        assert_eq!(result(0).text, "ok");
    }
}
