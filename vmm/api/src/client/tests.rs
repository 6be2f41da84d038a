//! Tests of the asynchronous client against the other end of a socket pair.

use super::*;
use crate::v1::{Done, GetInfo, Info, Pause, Response, TakeFd};

const SOON: Duration = Duration::from_secs(10);

fn pair() -> (Client, Connection) {
    let (client, server) = Connection::pair().expect("a pair");
    (Client::from_fd(client.into()).expect("a client"), server)
}

fn answer(server: &Connection, id: u64, outcome: Outcome, fds: &[BorrowedFd<'_>]) {
    let response = Message::Response(Response { id, outcome: Some(outcome) });
    server.send(&Envelope { message: Some(response) }, fds).expect("sent");
}

fn push(server: &Connection, sequence: u64, lost: u64) -> Result<(), TransportError> {
    let event = Message::Event(Event { sequence, lost, ..Event::default() });
    server.send(&Envelope { message: Some(event) }, &[])
}

/// Receives on a thread of its own, because the client needs ours.
async fn requests(server: Arc<Connection>, count: usize) -> Vec<u64> {
    let wait = move || {
        let mut buffer = PacketBuffer::new();
        let mut ids = Vec::new();
        while ids.len() < count {
            let mut ready = [rustix::event::PollFd::new(&*server, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut ready, None).expect("ready");
            let packet = server.receive(&mut buffer).expect("a request");
            if let Some(Message::Request(request)) = packet.envelope.message {
                ids.push(request.id);
            }
        }
        ids
    };
    tokio::task::spawn_blocking(wait).await.expect("received")
}

#[tokio::test]
async fn answers_in_any_order_find_their_calls() {
    let (client, server) = pair();
    let server = Arc::new(server);
    let calls: Vec<_> = (0..8_u32)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call(GetInfo {}, SOON).await })
        })
        .collect();
    let mut ids = requests(Arc::clone(&server), 8).await;
    ids.reverse();
    for id in ids {
        answer(&server, id, Outcome::Info(Info { pid: id as u32, ..Info::default() }), &[]);
    }
    let mut seen = Vec::new();
    for call in calls {
        seen.push(call.await.expect("joined").expect("answered").pid);
    }
    seen.sort_unstable();
    assert_eq!(seen, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn descriptors_come_with_the_answer() {
    let (client, server) = pair();
    let server = Arc::new(server);
    let call = tokio::spawn(async move {
        client.call_with_fds(TakeFd { name: "disk".into() }, &[], SOON).await.map(|(_, fds)| fds.len())
    });
    let ids = requests(Arc::clone(&server), 1).await;
    answer(&server, ids[0], Outcome::Done(Done {}), &[server.as_fd()]);
    assert_eq!(call.await.expect("joined").expect("answered"), 1);
}

#[tokio::test]
async fn missed_deadline_leaves_nothing_behind() {
    let (client, _server) = pair();
    let missed = client.call(Pause {}, Duration::from_millis(1)).await;
    assert!(matches!(missed, Err(ClientError::Deadline { .. })));
    assert!(lock(&client.shared.pending).as_ref().expect("open").is_empty());
}

#[tokio::test]
async fn the_end_is_told_to_every_caller_and_stream() {
    let (client, server) = pair();
    let server = Arc::new(server);
    let subscriber = client.clone();
    let stream = tokio::spawn(async move { subscriber.events(&[], SOON).await });
    let ids = requests(Arc::clone(&server), 1).await;
    answer(&server, ids[0], Outcome::Done(Done {}), &[]);
    let mut stream = stream.await.expect("joined").expect("subscribed");

    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call(Pause {}, SOON).await });
    requests(Arc::clone(&server), 1).await;
    drop(server);
    assert!(matches!(call.await.expect("joined"), Err(ClientError::Disconnected)));
    assert_eq!(stream.next().await, None);
    client.closed().await;
    assert!(matches!(client.call(Pause {}, SOON).await, Err(ClientError::Disconnected)));
}

#[tokio::test]
async fn a_peer_that_breaks_the_rules_is_left() {
    let (client, server) = pair();
    rustix::net::send(&server, &[0xff; 16], rustix::net::SendFlags::empty()).expect("sent");
    tokio::time::timeout(SOON, client.closed()).await.expect("closed");
}

#[tokio::test]
async fn a_slow_stream_is_told_how_much_it_lost() {
    let (client, server) = pair();
    let server = Arc::new(server);
    let subscriber = client.clone();
    let stream = tokio::spawn(async move { subscriber.events(&[EventKind::PhaseChanged], SOON).await });
    let ids = requests(Arc::clone(&server), 1).await;
    answer(&server, ids[0], Outcome::Done(Done {}), &[]);
    let mut stream = stream.await.expect("joined").expect("subscribed");

    push(&server, 1, 0).expect("sent");
    push(&server, 5, 3).expect("sent");
    let event = |sequence, lost| StreamItem::Event(Event { sequence, lost, ..Event::default() });
    assert_eq!(stream.next().await, Some(event(1, 0)));
    assert_eq!(stream.next().await, Some(StreamItem::Lagged(3)));
    assert_eq!(stream.next().await, Some(event(5, 3)));

    // More than the stream holds, then the end; so the reader has taken all in.
    let total = EVENT_BUFFER as u64 + 100;
    let mut sequence = 100;
    while sequence < 100 + total {
        match push(&server, sequence, 0) {
            Ok(()) => sequence += 1,
            Err(_) => tokio::task::yield_now().await,
        }
    }
    drop(server);
    client.closed().await;
    assert_eq!(stream.next().await, Some(StreamItem::Lagged(100)));
    assert_eq!(stream.next().await, Some(event(200, 0)));
}
