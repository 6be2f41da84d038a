//! The first administrator: who becomes it, and that nobody else does.

use super::{Auth, Peer, Refused, SETUP, Secret};
use crate::model::{Caller, FailureKind, Role};
use crate::store::Store;

const PASSWORD: &str = "correct horse";

async fn fresh() -> (tempfile::TempDir, Store, Auth) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.db");
    let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.unwrap().unwrap();
    let auth = Auth::start(store.clone()).await.unwrap();
    (directory, store, auth)
}

/// Puts a setup token in place of the one that was printed.
async fn known_setup_token(store: &Store) -> String {
    let secret = Secret::setup().unwrap();
    let hash = secret.hash().to_hex();
    store.write(move |tx| tx.set_meta(SETUP, &hash)).await.unwrap();
    secret.reveal().to_owned()
}

fn kind(refused: Refused) -> FailureKind {
    match refused {
        Refused::Failed(failure) => failure.kind(),
        Refused::TooOften(_) => FailureKind::ResourceExhausted,
    }
}

#[tokio::test]
async fn the_setup_token_works_once() {
    let (_directory, store, auth) = fresh().await;
    let peer = Peer::Network("192.0.2.1:1".parse().unwrap());
    let token = known_setup_token(&store).await;
    let wrong = auth.setup(&peer, "qxs_wrong", "root", PASSWORD.into()).await.unwrap_err();
    assert_eq!(kind(wrong), FailureKind::Unauthenticated);
    let short = auth.setup(&peer, &token, "root", "short".into()).await.unwrap_err();
    assert_eq!(kind(short), FailureKind::InvalidArgument);
    let login = auth.setup(&peer, &token, "root", PASSWORD.into()).await.unwrap();
    assert_eq!(login.user.record.role, Role::Admin);
    let again = auth.setup(&peer, &token, "other", PASSWORD.into()).await.unwrap_err();
    assert_eq!(kind(again), FailureKind::FailedPrecondition);
    assert_eq!(store.read(|tx| tx.meta(SETUP)).await.unwrap().unwrap(), "");
}

#[tokio::test]
async fn of_two_setups_at_once_one_wins() {
    let (_directory, store, auth) = fresh().await;
    let peer = Peer::Network("192.0.2.1:1".parse().unwrap());
    let token = known_setup_token(&store).await;
    let (a, b) = tokio::join!(
        auth.setup(&peer, &token, "one", PASSWORD.into()),
        auth.setup(&peer, &token, "two", PASSWORD.into()),
    );
    assert_eq!(usize::from(a.is_ok()) + usize::from(b.is_ok()), 1);
}

#[tokio::test]
async fn an_administrator_made_on_the_machine_ends_the_setup() {
    let (_directory, store, auth) = fresh().await;
    let token = known_setup_token(&store).await;
    let user = ("root", PASSWORD.to_owned(), Role::Admin);
    auth.create_user(Caller::daemon(), user, String::new()).await.unwrap();
    let peer = Peer::Network("192.0.2.1:1".parse().unwrap());
    let late = auth.setup(&peer, &token, "other", PASSWORD.into()).await.unwrap_err();
    assert_eq!(kind(late), FailureKind::FailedPrecondition);
}

#[tokio::test]
async fn the_same_request_makes_one_user() {
    let (_directory, _store, auth) = fresh().await;
    let make = |name: &'static str| {
        let user = (name, PASSWORD.to_owned(), Role::Viewer);
        auth.create_user(Caller::daemon(), user, "once".into())
    };
    let first = make("eve").await.unwrap();
    assert_eq!(make("eve").await.unwrap().record.id, first.record.id);
    assert_eq!(make("adam").await.unwrap_err().kind(), FailureKind::InvalidArgument);
}

#[tokio::test]
async fn sessions_survive_a_restart_and_setup_does_not_come_back() {
    let (_directory, store, auth) = fresh().await;
    let user = ("root", PASSWORD.to_owned(), Role::Admin);
    auth.create_user(Caller::daemon(), user, String::new()).await.unwrap();
    let login = auth.login(&Peer::Local { uid: 0 }, "root", PASSWORD.into()).await.unwrap();
    drop(auth);
    let auth = Auth::start(store.clone()).await.unwrap();
    let identities = auth.identities();
    assert_eq!(identities.of(&login.secret, crate::model::Time::now()).unwrap().name, "root");
    assert_eq!(identities.of(&login.secret, login.expires).unwrap_err(), super::identities::Unusable::Expired);
    assert_eq!(store.read(|tx| tx.meta(SETUP)).await.unwrap().unwrap(), "");
}
