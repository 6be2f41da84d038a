//! What happened on the node, and what happens.

use clap::Args;
use quantix_api::v1::{Event, ListEventsRequest, Severity, WatchEventsRequest};
use tokio_stream::StreamExt;
use tonic::Code;

use crate::failure::{ExitStatus, Failure};
use crate::output::Format;
use crate::session::{Session, pages};
use crate::style::Tone;
use crate::table::{Cell, Column, Sheet, printable};
use crate::units;
use crate::words::{severity_tone, word};

const EXAMPLES: &str = "\
Examples:
  qx events
  qx events --follow
  qx events --follow --kind vm. --kind task.finished
  qx events --since 1c9f2 -o json   # go on after the last event that was seen (its resumeToken)";

/// What `events` takes.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct EventsArgs {
    /// Go on with what happens from now on
    #[arg(short, long)]
    follow: bool,
    /// Follow from the event after this resume token
    #[arg(long, value_name = "TOKEN")]
    since: Option<String>,
    /// Only kinds that begin so, such as vm. or task.finished (repeatable)
    #[arg(long = "kind", value_name = "KIND")]
    kinds: Vec<String>,
    /// Only events of this resource, by id
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    resource: String,
    /// The newest so many of the past
    #[arg(long, value_name = "N", default_value_t = 50, conflicts_with = "since")]
    limit: usize,
}

const SHEET: Sheet<Event> = Sheet {
    plural: "events",
    name: |event| &event.resume_token,
    columns: &[
        Column::text("TIME", |event, _| units::when(event.time.as_ref()).into()),
        Column::text("SEVERITY", |event, _| {
            Cell::toned(word::<Severity>(event.severity), severity_tone(event.severity))
        }),
        Column::text("KIND", |event, _| event.kind.as_str().into()),
        Column::text("OF", |event, _| event.resource.as_ref().map_or("", |resource| &resource.name).into()),
        Column::text("MESSAGE", |event, _| event.message.as_str().into()),
        Column::wide_text("TOKEN", |event, _| event.resume_token.as_str().into()),
    ],
};

/// Shows events.
pub async fn run(args: EventsArgs, session: &Session) -> Result<(), Failure> {
    let resume_token = match &args.since {
        Some(token) => token.clone(),
        None => past(&args, session).await?,
    };
    if args.follow || args.since.is_some() { follow(args, resume_token, session).await } else { Ok(()) }
}

/// Shows the newest of the past; gives the token of the last.
async fn past(args: &EventsArgs, session: &Session) -> Result<String, Failure> {
    let request = ListEventsRequest {
        kinds: args.kinds.clone(),
        resource_id: args.resource.clone(),
        ..ListEventsRequest::default()
    };
    let mut all = pages!(session.events().await?, list_events, request, events)?;
    // They come oldest first.
    let all = all.split_off(all.len().saturating_sub(args.limit));
    match session.out.format {
        // A stream of lines whether it ends or not, so that one reader reads both.
        Format::Json => all.iter().try_for_each(|event| session.out.json_line(event))?,
        _ if args.follow => all.iter().try_for_each(|event| show(event, session))?,
        _ => session.out.list(&all, &SHEET, &session.out.view())?,
    }
    Ok(all.last().map(|event| event.resume_token.clone()).unwrap_or_default())
}

async fn follow(args: EventsArgs, resume_token: String, session: &Session) -> Result<(), Failure> {
    let request = WatchEventsRequest { resume_token, kinds: args.kinds, resource_id: args.resource };
    let too_old = |status: tonic::Status| {
        let old = status.code() == Code::OutOfRange;
        let failure = Failure::from(status);
        if old {
            failure.hint("events since then are gone; look at the state anew, then: qx events --follow")
        } else {
            failure
        }
    };
    let mut events = session.events().await?.watch_events(request).await.map_err(too_old)?.into_inner();
    while let Some(event) = events.next().await {
        show(&event.map_err(too_old)?, session)?;
    }
    Err(Failure::new(ExitStatus::Unavailable, "The node ended the stream of events"))
}

/// One event on one line.
fn show(event: &Event, session: &Session) -> Result<(), Failure> {
    let out = &session.out;
    match out.format {
        Format::Json => out.json_line(event),
        Format::Name => out.line(&event.resume_token),
        Format::Table | Format::Wide => out.line(&line(event, out.colour)),
    }
}

fn line(event: &Event, colour: bool) -> String {
    let severity = format!("{:7}", word::<Severity>(event.severity));
    let name = event.resource.as_ref().map_or("", |resource| &resource.name);
    format!(
        "{}  {}  {:18}  {:16}  {}",
        Tone::Dim.paint(&units::when(event.time.as_ref()), colour),
        severity_tone(event.severity).paint(&severity, colour),
        printable(&event.kind),
        printable(name),
        printable(&event.message),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use quantix_api::v1::ResourceRef;

    #[test]
    fn one_event_is_one_line_whatever_a_guest_wrote() {
        let event = Event {
            kind: "vm.exited".into(),
            severity: Severity::Warning.into(),
            resource: Some(ResourceRef { kind: "vm".into(), id: "i".into(), name: "demo".into() }),
            message: "The guest said\nbye\u{1b}[2J.".into(),
            ..Event::default()
        };
        let line = line(&event, false);
        assert_eq!(line.trim_start(), "warning  vm.exited           demo              The guest said·bye·[2J.");
    }
}
