//! The front door of a live daemon in temporary directories, spoken to as a client would, and as somebody with bad intent.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::auth::policy::{self, Access};
use crate::auth::{Auth, Peer};
use crate::daemon::Daemon;
use crate::model::{Caller, Role};
use crate::settings::Settings;

/// Nothing here takes so long, unless it hangs.
const DEADLINE: Duration = Duration::from_mins(1);
const PASSWORD: &str = "correct horse";

struct Node {
    daemon: Daemon,
    tls: TlsConnector,
    _directory: tempfile::TempDir,
}

/// A status and a JSON document.
type Answer = (u16, Value);

impl Node {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let daemon = Daemon::start(settings(directory.path())).await.unwrap();
        let pem = std::fs::read(directory.path().join("state/tls/node.crt")).unwrap();
        let mut roots = RootCertStore::empty();
        for der in rustls_pemfile::certs(&mut pem.as_slice()) {
            roots.add(CertificateDer::from(der.unwrap().to_vec())).unwrap();
        }
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { daemon, tls: TlsConnector::from(Arc::new(config)), _directory: directory }
    }

    fn auth(&self) -> &Auth {
        &self.daemon.rooms().auth
    }

    /// Makes a user and returns a session's token.
    async fn token(&self, name: &str, role: Role) -> String {
        let user = (name, PASSWORD.to_owned(), role);
        self.auth().create_user(Caller::daemon(), user, String::new()).await.unwrap();
        let peer = Peer::Local { uid: 0 };
        self.auth().login(&peer, name, PASSWORD.into()).await.unwrap().secret
    }

    async fn connect(&self) -> TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.daemon.server().rest()).await.unwrap();
        self.tls.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    /// Sends bytes as they are, and reads to the end.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // A server that has had enough may close before all was sent.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("an answer");
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn call(&self, line: &str, token: &str, body: &str) -> Answer {
        let login = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let typed = match body.len() {
            0 => String::new(),
            length => format!("Content-Type: application/json\r\nContent-Length: {length}\r\n"),
        };
        let request = format!("{line} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n{login}{typed}");
        parse(&self.raw(format!("{request}\r\n{body}").as_bytes()).await)
    }
}

fn settings(directory: &std::path::Path) -> Settings {
    let mut settings = Settings {
        state_dir: directory.join("state"),
        run_dir: directory.join("run"),
        log_dir: directory.join("log"),
        ..Settings::default()
    };
    settings.listen.grpc = "127.0.0.1:0".parse().unwrap();
    settings.listen.rest = "127.0.0.1:0".parse().unwrap();
    settings.network.default_network = false;
    settings
}

fn parse(answer: &str) -> Answer {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn users_come_and_go_over_rest() {
    let node = Node::start().await;
    let admin = node.token("root", Role::Admin).await;
    let (status, user) =
        node.call("POST /v1/users", &admin, r#"{"name":"eve","password":"long enough","role":"ROLE_VIEWER"}"#).await;
    assert_eq!((status, &user["role"]), (200, &"ROLE_VIEWER".into()), "{user}");
    let (_, login) = node.call("POST /v1/auth:login", "", r#"{"name":"eve","password":"long enough"}"#).await;
    let eve = login["token"].as_str().unwrap().to_owned();
    assert_eq!(node.call("GET /v1/auth:whoami", &eve, "").await.1["name"], "eve");
    assert_eq!(node.call("GET /v1/users", &eve, "").await.0, 403);
    // The last administrator stays.
    for call in ["DELETE /v1/users/root", "PATCH /v1/users/root"] {
        let body = if call.starts_with("PATCH") { r#"{"disabled":true}"# } else { "" };
        let (status, refused) = node.call(call, &admin, body).await;
        assert_eq!((status, &refused["code"]), (400, &9.into()), "{refused}");
    }
    // A stale etag is refused, the present one not.
    let stale = format!(r#"{{"role":"ROLE_OPERATOR","etag":"{}0"}}"#, user["etag"].as_str().unwrap());
    assert_eq!(node.call("PATCH /v1/users/eve", &admin, &stale).await.0, 409);
    let fresh = format!(r#"{{"role":"ROLE_OPERATOR","etag":"{}"}}"#, user["etag"].as_str().unwrap());
    assert_eq!(node.call("PATCH /v1/users/eve", &admin, &fresh).await.1["role"], "ROLE_OPERATOR");
    // The own password needs the old one, and a new one ends all sessions.
    let (status, _) = node.call("POST /v1/users/eve:setPassword", &eve, r#"{"password":"even longer"}"#).await;
    assert_eq!(status, 403);
    let body = r#"{"password":"even longer","oldPassword":"long enough"}"#;
    assert_eq!(node.call("POST /v1/users/eve:setPassword", &eve, body).await.0, 200);
    assert_eq!(node.call("GET /v1/auth:whoami", &eve, "").await.0, 401);
    assert_eq!(node.call("DELETE /v1/users/eve", &admin, "").await.0, 200);
    let (_, audit) = node.call("GET /v1/audit", &admin, "").await;
    let newest = &audit["entries"][0];
    assert_eq!(
        (&newest["method"], &newest["resource"]["name"]),
        (&"quantix.node.v1.AuthService/DeleteUser".into(), &"eve".into())
    );
    assert_eq!(node.call("POST /v1/auth:logout", &admin, "{}").await.0, 200);
    assert_eq!(node.call("GET /v1/auth:whoami", &admin, "").await.0, 401);
    node.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_stop_to_work_when_they_should() {
    let node = Node::start().await;
    let admin = node.token("root", Role::Admin).await;
    let (_, made) = node.call("POST /v1/tokens", &admin, r#"{"name":"ci","role":"ROLE_VIEWER"}"#).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    assert_eq!(node.call("GET /v1/auth:whoami", &secret, "").await.1["role"], "ROLE_VIEWER");
    // A viewer's token makes no administrator's.
    let (status, _) = node.call("POST /v1/tokens", &secret, r#"{"name":"more","role":"ROLE_ADMIN"}"#).await;
    assert_eq!(status, 403);
    let id = made["token"]["id"].as_str().unwrap();
    assert_eq!(node.call(&format!("DELETE /v1/tokens/{id}"), &admin, "").await.0, 200);
    assert_eq!(node.call("GET /v1/auth:whoami", &secret, "").await.0, 401);
    // Expired: its time is over when it is used, not when it is made.
    let soon = prost_types::Timestamp::from(std::time::SystemTime::now() + Duration::from_millis(300)).to_string();
    let body = format!(r#"{{"name":"short","expireTime":"{soon}"}}"#);
    let (_, made) = node.call("POST /v1/tokens", &admin, &body).await;
    let secret = made["secret"].as_str().unwrap().to_owned();
    let expired = tokio::time::timeout(DEADLINE, async {
        loop {
            let (status, answer) = node.call("GET /v1/auth:whoami", &secret, "").await;
            if status == 401 {
                return answer;
            }
        }
    });
    assert!(expired.await.unwrap()["message"].as_str().unwrap().contains("time is over"));
    for wrong in ["qxt_wrong", "x", "Bearer"] {
        let (status, answer) = node.call("GET /v1/auth:whoami", wrong, "").await;
        assert_eq!((status, &answer["code"]), (401, &16.into()));
    }
    node.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_is_refused_to_every_role_below_its_own() {
    let node = Node::start().await;
    let mut tokens = vec![(None, String::new())];
    for (name, role) in [("root", Role::Admin), ("olga", Role::Operator), ("vera", Role::Viewer)] {
        tokens.push((Some(role), node.token(name, role).await));
    }
    let routes = super::rest::routes::Routes::read();
    for route in routes.iter() {
        let super::rest::routes::Target::Method(method, _) = &route.target else { continue };
        let rule = policy::of(&format!("{}/{}", method.parent_service().full_name(), method.name())).unwrap();
        let needed = match rule.access {
            Access::Public => continue,
            Access::LoggedIn | Access::Viewer => Role::Viewer,
            Access::Operator => Role::Operator,
            Access::Admin => Role::Admin,
        };
        let path = route.template.fields().fold(route.path.clone(), |p, f| p.replace(&format!("{{{f}}}"), "nothing"));
        for (role, token) in &tokens {
            if role.is_some_and(|role| role >= needed) {
                continue;
            }
            let (status, answer) = node.call(&format!("{} {path}", route.verb), token, "").await;
            let expected = if role.is_some() { 403 } else { 401 };
            assert_eq!(status, expected, "{} as {role:?}: {answer}", rule.method);
        }
    }
    let counted = node.auth().counters().read();
    let value = |name| counted.iter().find(|c| c.0 == name).map(|c| c.2).unwrap();
    assert!(value("denied_calls") > 30 && value("unauthenticated_calls") > 50, "{counted:?}");
    node.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_logins_are_refused_and_counted() {
    let node = Node::start().await;
    node.token("root", Role::Admin).await;
    let peer = Peer::Network("192.0.2.1:1".parse().unwrap());
    let mut looked_at = 0;
    for attempt in 0..10_000 {
        let name = if attempt % 2 == 0 { "root".to_owned() } else { format!("user{attempt}") };
        match node.auth().login(&peer, &name, "wrong password".into()).await.unwrap_err() {
            crate::auth::Refused::TooOften(_) => {}
            crate::auth::Refused::Failed(failure) => {
                assert_eq!(failure.kind(), crate::model::FailureKind::Unauthenticated);
                looked_at += 1;
            }
        }
    }
    let counted = node.auth().counters().read();
    let value = |name| counted.iter().find(|c| c.0 == name).map(|c| c.2).unwrap();
    assert_eq!((value("failed_logins"), value("limited_logins")), (looked_at, 10_000 - looked_at));
    assert!(looked_at < 100, "{looked_at} passwords were looked at");
    // Over the network too, with the time to wait, and in the metrics.
    let body = r#"{"name":"root","password":"wrong password"}"#;
    let request = format!(
        "POST /v1/auth:login HTTP/1.1\r\nHost: n\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = node.raw(request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("retry-after: "), "{answer}");
    let peer = Peer::Local { uid: 0 };
    // Who is on the machine is not kept out by who is not; the name's own limit is.
    assert!(matches!(node.auth().login(&peer, "root", PASSWORD.into()).await, Err(crate::auth::Refused::TooOften(_))));
    node.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_request_gets_a_proper_answer() {
    let node = Node::start().await;
    let admin = node.token("root", Role::Admin).await;
    for (line, body, status) in [
        ("GET /nothing", "", 404),
        ("GET /v1/vms/", "", 404),
        ("PUT /v1/users", "", 405),
        ("GET /v1/auth:login", "", 405),
        ("GET /v1/tasks?pagesize=1", "", 400),
        ("GET /v1/tasks/%ff", "", 400),
        ("POST /v1/users", "{", 400),
        ("GET /v1/tasks", "{}", 400),
        ("GET /v1/vms/demo/console", "", 426),
    ] {
        let (got, answer) = node.call(line, &admin, body).await;
        assert_eq!(got, status, "{line}: {answer}");
        assert!(answer["code"].is_i64() && answer["message"].is_string(), "{line}: {answer}");
    }
    let typed = "POST /v1/users HTTP/1.1\r\nHost: n\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    assert!(node.raw(typed.as_bytes()).await.starts_with("HTTP/1.1 415"));
    let options = node.raw(b"OPTIONS /v1/users HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await;
    assert!(options.starts_with("HTTP/1.1 204") && options.contains("allow: GET, POST, HEAD, OPTIONS"), "{options}");
    let head = node.raw(b"HEAD /openapi.json HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await;
    assert!(head.contains("content-length: ") && head.ends_with("\r\n\r\n"), "{head}");
    let metrics =
        format!("GET /metrics HTTP/1.1\r\nHost: n\r\nConnection: close\r\nAuthorization: Bearer {admin}\r\n\r\n");
    let metrics = node.raw(metrics.as_bytes()).await;
    assert!(metrics.contains("quantix_api_logins_total") && metrics.contains("# EOF"), "{metrics}");
    assert_eq!(node.call("GET /metrics", "", "").await.0, 401);
    node.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bytes_cost_one_connection_and_no_more() {
    let node = Node::start().await;
    let admin = node.token("root", Role::Admin).await;
    // Garbage instead of TLS, on both ports.
    for address in [node.daemon.server().grpc(), node.daemon.server().rest()] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&[0x55; 4096]).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("the connection ends");
    }
    // Headers beyond all bounds.
    let huge = format!("GET /v1/tasks HTTP/1.1\r\nHost: n\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let answer = node.raw(huge.as_bytes()).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    // A body that says at once that it is too long, and one that does not say it.
    let said =
        format!("POST /v1/users HTTP/1.1\r\nHost: n\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", 5 << 20);
    assert!(node.raw(said.as_bytes()).await.starts_with("HTTP/1.1 413"));
    let mut chunked = b"POST /v1/users HTTP/1.1\r\nHost: n\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..5 {
        chunked.extend_from_slice(format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20)).as_bytes());
    }
    let answer = node.raw(&chunked).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    // Half-open ones are closed by the node: before TLS, after it, and in the middle of a head.
    let silent = TcpStream::connect(node.daemon.server().rest()).await.unwrap();
    let agreed = node.connect().await;
    let mut halfway = node.connect().await;
    halfway.write_all(b"GET /v1/tasks HTTP/1.1\r\nHost:").await.unwrap();
    // Meanwhile everybody else is served.
    assert_eq!(node.call("GET /v1/auth:whoami", &admin, "").await.0, 200);
    let ends = |mut stream: Box<dyn tokio::io::AsyncRead + Unpin + Send>| async move {
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("the node ends it");
    };
    tokio::join!(ends(Box::new(silent)), ends(Box::new(agreed)), ends(Box::new(halfway)));
    node.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_take_all_connections() {
    let node = Node::start().await;
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(TcpStream::connect(node.daemon.server().rest()).await.unwrap());
    }
    // Those beyond the bound are closed at once; the others wait for TLS.
    let closed = tokio::time::timeout(DEADLINE, async {
        let mut closed = 0;
        for stream in &mut held[256..] {
            let mut byte = [0];
            closed += usize::from(matches!(stream.read(&mut byte).await, Ok(0) | Err(_)));
        }
        closed
    });
    assert_eq!(closed.await.unwrap(), 44);
    node.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_or_a_bad_certificate_is_a_refusal() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let mut wanted = settings(directory.path());
    wanted.listen.rest = taken.local_addr().unwrap();
    let refused = Daemon::start(wanted).await.err().expect("the port is taken");
    assert!(refused.is_refusal() && refused.to_string().contains("127.0.0.1"), "{refused}");
    let mut wanted = settings(directory.path());
    let nonsense = directory.path().join("nonsense.pem");
    std::fs::write(&nonsense, "nonsense").unwrap();
    (wanted.tls.certificate, wanted.tls.key) = (Some(nonsense.clone()), Some(nonsense));
    let refused = Daemon::start(wanted).await.err().expect("the certificate is none");
    assert!(refused.is_refusal() && refused.to_string().contains("nonsense.pem holds no certificate"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_lines_and_as_websocket_frames() {
    let node = Node::start().await;
    let admin = node.token("root", Role::Admin).await;
    let mut lines = node.connect().await;
    let request =
        format!("GET /v1/events:watch?kinds=test. HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {admin}\r\n\r\n");
    lines.write_all(request.as_bytes()).await.unwrap();
    let mut frames = node.connect().await;
    // As a browser does it: the token is a sub-protocol.
    let request = format!(
        "GET /v1/events:watch?kinds=test. HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
         Sec-WebSocket-Protocol: bearer, {admin}\r\n\r\n"
    );
    frames.write_all(request.as_bytes()).await.unwrap();
    let (mut line, mut frame) = (String::new(), String::new());
    until(&mut lines, &mut line, "\r\n\r\n").await;
    until(&mut frames, &mut frame, "\r\n\r\n").await;
    assert!(line.contains("content-type: application/x-ndjson"), "{line}");
    assert!(frame.starts_with("HTTP/1.1 101") && frame.contains("sec-websocket-protocol: bearer"), "{frame}");
    node.daemon.rooms().events.tell(crate::model::NewEvent::info("test.happened", "It did")).await;
    until(&mut lines, &mut line, "test.happened").await;
    until(&mut frames, &mut frame, "test.happened").await;
    node.daemon.stop().await;
    // The end is said, not just there.
    until(&mut frames, &mut frame, "going down").await;
}

async fn until(stream: &mut TlsStream<TcpStream>, seen: &mut String, wanted: &str) {
    let read = async {
        while !seen.contains(wanted) {
            let mut bytes = [0; 4096];
            let count = stream.read(&mut bytes).await.unwrap();
            assert!(count > 0, "the stream ended without {wanted:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("it comes");
}
