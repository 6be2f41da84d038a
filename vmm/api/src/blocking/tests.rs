//! Tests of the blocking client against the other end of a socket pair.

use super::*;
use crate::v1::response::Outcome;
use crate::v1::{ControlError, Done, ErrorCode, GetInfo, Info, Pause, TakeFd};

const SOON: Duration = Duration::from_secs(10);

fn pair() -> (BlockingClient, Connection) {
    let (client, server) = Connection::pair().expect("a pair");
    (BlockingClient::new(client), server)
}

fn answer(server: &Connection, id: u64, outcome: Outcome, fds: &[BorrowedFd<'_>]) {
    let response = Message::Response(Response { id, outcome: Some(outcome) });
    server.send(&Envelope { message: Some(response) }, fds).expect("sent");
}

fn push(server: &Connection, sequence: u64) {
    let event = Message::Event(Event { sequence, ..Event::default() });
    server.send(&Envelope { message: Some(event) }, &[]).expect("sent");
}

#[test]
fn events_before_the_answer_are_kept() {
    let (mut client, server) = pair();
    push(&server, 1);
    push(&server, 2);
    answer(&server, 1, Outcome::Info(Info { cpus: 4, ..Info::default() }), &[]);
    assert_eq!(client.call(GetInfo {}, SOON).expect("answered").cpus, 4);
    push(&server, 3);
    for expected in 1..=3 {
        assert_eq!(client.next_event(SOON).expect("alive").expect("an event").sequence, expected);
    }
    assert!(client.next_event(Duration::ZERO).expect("alive").is_none());
}

#[test]
fn refusal_deadline_and_end_are_told_apart() {
    let (mut client, server) = pair();
    let missed = client.call(Pause {}, Duration::from_millis(1));
    assert!(matches!(missed, Err(BlockingError::Deadline { .. })));

    // The late answer to the first call is not taken for one to the second.
    answer(&server, 1, Outcome::Done(Done {}), &[]);
    answer(&server, 2, Outcome::Error(ControlError::new(ErrorCode::WrongPhase, "No").on("x")), &[]);
    let refused = client.call(Pause {}, SOON);
    assert!(matches!(refused, Err(BlockingError::Call(CallError::Refused(error))) if error.field == "x"));

    drop(server);
    let closed = client.call(Pause {}, SOON);
    assert!(matches!(closed, Err(BlockingError::Transport(TransportError::Closed))));
}

#[test]
fn answers_must_fit_their_command() {
    let (mut client, server) = pair();
    answer(&server, 1, Outcome::Done(Done {}), &[server.as_fd()]);
    let (_, fds) = client.call_with_fds(TakeFd { name: "a".into() }, &[], SOON).expect("answered");
    assert_eq!(fds.len(), 1);

    answer(&server, 2, Outcome::Done(Done {}), &[]);
    let wrong = client.call(TakeFd { name: "a".into() }, SOON);
    assert!(matches!(wrong, Err(BlockingError::Call(CallError::WrongAnswer))));
    answer(&server, 3, Outcome::Info(Info::default()), &[]);
    assert!(matches!(client.call(Pause {}, SOON), Err(BlockingError::Call(CallError::WrongAnswer))));
}
