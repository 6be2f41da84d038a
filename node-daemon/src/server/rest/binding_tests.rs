//! What requests become, and what is refused by which name.

use prost::Message;
use quantix_api::json::POOL;
use quantix_api::v1;

use super::binding::{Parts, assemble, from_query};
use super::routes::{Found, Route, Routes, Target};
use http::Method;

/// The request message that a REST request becomes, or the error's JSON.
fn read<M: Message + Default>(verb: &Method, uri: &str, body: &str) -> Result<M, serde_json::Value> {
    let routes = Routes::read();
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let Found::Route(Route { target: Target::Method(method, rule), .. }, captures) = routes.find(verb, path) else {
        panic!("{verb} {uri} leads nowhere");
    };
    assemble(method.input(), rule, &Parts { captures: &captures, query, body: body.as_bytes() })
        .map(|m| m.transcode_to().unwrap())
        .map_err(|problem| problem.json())
}

fn refused(verb: &Method, uri: &str, body: &str) -> (String, String) {
    let json = read::<()>(verb, uri, body).unwrap_err();
    let field = json["details"][0]["fieldViolations"][0]["field"].as_str().unwrap_or_default().to_owned();
    (field, json["message"].as_str().unwrap().to_owned())
}

#[test]
fn a_query_fills_every_kind_of_field() {
    let uri = "/v1/vms?page_size=7&pageToken=a%2Bb+c&labels[app.kubernetes]=x%20y&labels.tier=web";
    let request: v1::ListVmsRequest = read(&Method::GET, uri, "").unwrap();
    assert_eq!((request.page_size, request.page_token.as_str()), (7, "a+b c"));
    assert_eq!(request.labels["app.kubernetes"], "x y");
    assert_eq!(request.labels["tier"], "web");
    let request: v1::WatchEventsRequest = read(&Method::GET, "/v1/events:watch?kinds=vm.&kinds=task.", "").unwrap();
    assert_eq!(request.kinds, ["vm.", "task."]);
    let request: v1::ListImagesRequest = read(&Method::GET, "/v1/images?kind=IMAGE_KIND_ISO", "").unwrap();
    assert_eq!(request.kind(), v1::ImageKind::Iso);
    let request: v1::DeleteVmRequest = read(&Method::DELETE, "/v1/vms/demo?force=true&wait=1.5s", "").unwrap();
    assert!(request.force && request.vm == "demo");
    assert_eq!(request.wait, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
}

#[test]
fn a_body_fills_all_or_one_field_and_the_path_wins() {
    let body =
        r#"{"name":"demo","spec":{"memory":{"sizeBytes":"1073741824"},"disks":[{"newVolume":{"size_bytes":5}}]}}"#;
    let request: v1::CreateVmRequest = read(&Method::POST, "/v1/vms", body).unwrap();
    assert_eq!(request.spec.unwrap().memory.unwrap().size_bytes, 1 << 30);
    let request: v1::StartVmRequest =
        read(&Method::POST, "/v1/vms/demo:start", r#"{"wait":"2s","vm":"other"}"#).unwrap();
    assert_eq!(request.vm, "demo");
    let request: v1::StartVmRequest = read(&Method::POST, "/v1/vms/demo:start", " ").unwrap();
    assert_eq!(request.vm, "demo");
    let body = r#"{"id":"other","description":"d"}"#;
    let uri = "/v1/vms/demo?updateMask=description,spec.cpus";
    let request: v1::UpdateVmRequest = read(&Method::PATCH, uri, body).unwrap();
    let vm = request.vm.unwrap();
    assert_eq!((vm.id.as_str(), vm.description.as_str()), ("demo", "d"));
    assert_eq!(request.update_mask.unwrap().paths, ["description", "spec.cpus"]);
}

#[test]
fn what_is_not_known_is_refused_by_name() {
    let table: &[(Method, &str, &str, &str)] = &[
        (Method::GET, "/v1/vms?pagesize=1", "", "pagesize"),
        (Method::GET, "/v1/vms?page_size=1&page_size=2", "", "page_size"),
        (Method::GET, "/v1/vms?page_size=x", "", "page_size"),
        (Method::GET, "/v1/vms?page_size=99999999999", "", "page_size"),
        (Method::GET, "/v1/vms?page_size.x=1", "", "page_size.x"),
        (Method::GET, "/v1/vms?page_size[x]=1", "", "page_size[x]"),
        (Method::GET, "/v1/vms?labels=a", "", "labels"),
        (Method::GET, "/v1/vms?labels[]=a", "", "labels[]"),
        (Method::GET, "/v1/vms?labels[a]=1&labels.a=2", "", "labels.a"),
        (Method::GET, "/v1/vms/demo?vm=x", "", "vm"),
        (Method::GET, "/v1/images?kind=ISO", "", "kind"),
        (Method::DELETE, "/v1/vms/demo?wait=soon", "", "wait"),
        (Method::DELETE, "/v1/vms/demo?wait.seconds=1", "", "wait.seconds"),
        (Method::PATCH, "/v1/vms/demo?vm.name=x", "{}", "vm.name"),
        (Method::POST, "/v1/vms?name=x", "{}", "name"),
        (Method::POST, "/v1/vms", r#"{"nmae":"x"}"#, "nmae"),
        (Method::POST, "/v1/vms", r#"{"spec":{"cpus":{"count":"many"}}}"#, "spec.cpus.count"),
        (Method::POST, "/v1/vms", r#"{"spec":{"disks":[{"queues":-1}]}}"#, "spec.disks[0].queues"),
        (Method::POST, "/v1/vms", "[]", "body"),
        (Method::PATCH, "/v1/vms/demo", r#"{"spec":{"cpus":{"cuont":1}}}"#, "vm.spec.cpus.cuont"),
    ];
    for (verb, uri, body, field) in table {
        let (named, message) = refused(verb, uri, body);
        assert!(named.starts_with(field), "{verb} {uri} {body}: {named:?}: {message}");
    }
    for body in ["{", "{} {}", "nul", "\u{0}"] {
        let (_, message) = refused(&Method::POST, "/v1/vms", body);
        assert!(message.starts_with("The body"), "{body}: {message}");
    }
    let (_, message) = refused(&Method::GET, "/v1/vms", "{}");
    assert!(message.contains("no body"), "{message}");
    let (_, message) = refused(&Method::POST, "/v1/vms", r#"{"spec":{"cpus":{"cuont":1}}}"#);
    assert!(message.contains("cuont"), "{message}");
}

#[test]
fn an_upload_is_described_by_its_query() {
    let descriptor = POOL.get_message_by_name("quantix.node.v1.ImageDescription").unwrap();
    let query = "name=debian&kind=IMAGE_KIND_DISK&boot.cmdline=quiet%20ro&labels[os]=debian&size_bytes=12";
    let description: v1::ImageDescription = from_query(descriptor, query).unwrap().transcode_to().unwrap();
    assert_eq!(description.boot.unwrap().cmdline, "quiet ro");
    assert_eq!((description.size_bytes, description.labels["os"].as_str()), (12, "debian"));
}
