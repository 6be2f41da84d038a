//! The document against its specification, and against the API.

use std::process::Command;

use quantix_api::json::POOL;

use super::document;
use crate::server::rest::routes::Routes;

#[test]
fn the_document_is_valid() {
    let file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    std::fs::write(file.path(), document(&Routes::read()).to_string()).unwrap();
    let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/venv")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let venv = String::from_utf8(made.stdout).unwrap();
    let checked = Command::new(format!("{}/bin/openapi-spec-validator", venv.trim()))
        .args(["--schema", "3.1"])
        .arg(file.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{said}{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn every_method_is_in_it_once_with_its_comment() {
    let document = document(&Routes::read());
    let operations: Vec<_> =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values()).collect();
    for method in POOL.services().flat_map(|service| service.methods().collect::<Vec<_>>()) {
        let found: Vec<_> = operations.iter().filter(|o| o["operationId"] == method.name()).collect();
        assert_eq!(found.len(), 1, "{}", method.name());
    }
    let start = document["paths"]["/v1/vms/{vm}:stop"]["post"].clone();
    assert!(start["description"].as_str().unwrap().starts_with("Presses the power button"), "{start}");
    let body = &start["requestBody"]["content"]["application/json"]["schema"]["properties"];
    assert!(body["timeout"]["description"].as_str().unwrap().contains("30 s") && body["vm"].is_null(), "{body}");
    let size = &document["components"]["schemas"]["MemorySpec"]["properties"]["sizeBytes"];
    assert_eq!(size["type"], serde_json::json!(["string", "integer"]));
}
