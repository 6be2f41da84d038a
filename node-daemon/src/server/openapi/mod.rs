//! The OpenAPI 3.1 document, written from the same descriptors and the same routes that REST dispatches by. Pure; made once
//! at the start.

mod comments;
mod schema;
#[cfg(test)]
mod tests;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor};
use quantix_api::json::POOL;
use serde_json::{Map, Value, json};

use self::comments::Comments;
use self::schema::{Schemas, describe};
use super::rest::routes::{BodyRule, Route, Routes, Target};
use crate::auth::policy::{self, Access};

/// The document of all routes.
pub fn document(routes: &Routes) -> Value {
    let comments = Comments::read();
    let mut schemas = Schemas::new(&comments);
    let mut paths: Map<String, Value> = Map::new();
    for route in routes.iter() {
        let operation = match &route.target {
            Target::Method(method, body) => of_method(&comments, &mut schemas, route, (method, body)),
            Target::Upload => of_upload(&comments, &mut schemas, route),
            Target::Console => of_console(&comments, route),
            Target::OpenApi => public("GetOpenApi", "This document.", "application/json", &json!({"type": "object"})),
            Target::Front => public("GetFront", "A page that says what this is.", "text/plain", &text()),
            Target::Metrics => of_metrics(),
        };
        let item = paths.entry(path_of(route)).or_insert_with(|| json!({}));
        item[route.verb.as_str().to_ascii_lowercase()] = operation;
    }
    let mut schemas = schemas.finish();
    schemas.insert("Status".into(), status());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Quantix node",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One machine as a hypervisor host. The same API as gRPC package quantix.node.v1: field names \
                are lowerCamelCase, 64-bit numbers are written as strings, times as RFC 3339, durations as seconds with s.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"bearer": []}],
        "tags": tags(&comments),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Error": {
                "description": "Why not, as google.rpc.Status.",
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Status"}}},
            }},
            "securitySchemes": {"bearer": {
                "type": "http", "scheme": "bearer",
                "description": "The token of Login, or an API token. A browser's WebSocket offers the sub-protocols bearer and the token.",
            }},
        },
    })
}

/// `{vm.id}` and `{vm}` stand for the same segment, and OpenAPI wants one name for it.
fn path_of(route: &Route) -> String {
    route
        .template
        .fields()
        .fold(route.path.clone(), |path, field| path.replace(&format!("{{{field}}}"), &format!("{{{}}}", plain(field))))
}

fn plain(field: &str) -> &str {
    field.split('.').next().unwrap_or(field)
}

fn tags(comments: &Comments) -> Vec<Value> {
    let services = POOL.services().filter(|s| s.package_name().starts_with("quantix."));
    services
        .map(|service| {
            let mut tag = json!({"name": service.name()});
            describe(&mut tag, comments.at(&service.parent_file(), service.path()));
            tag
        })
        .collect()
}

fn of_method(
    comments: &Comments,
    schemas: &mut Schemas<'_>,
    route: &Route,
    (method, body): (&MethodDescriptor, &BodyRule),
) -> Value {
    let input = method.input();
    let mut parameters = path_parameters(route);
    let in_path: Vec<&str> = route.template.fields().collect();
    match body {
        BodyRule::All => {}
        BodyRule::None => query(schemas, &input, "", &|name, _| !in_path.contains(&name), &mut parameters),
        BodyRule::Field(taken) => query(schemas, &input, "", &|_, field| field != taken, &mut parameters),
    }
    let mut operation = head(comments, method, &parameters);
    let body = match body {
        BodyRule::None => None,
        BodyRule::Field(field) => Some(schemas.field(field)),
        BodyRule::All if in_path.is_empty() => Some(schemas.message(&input)),
        BodyRule::All => Some(schemas.object(&input, |field| !in_path.contains(&field.name()))),
    };
    if let Some(schema) = body {
        operation["requestBody"] = json!({"content": {"application/json": {"schema": schema}}});
    }
    let answer = schemas.message(&method.output());
    operation["responses"] = if method.is_server_streaming() {
        let last = json!({
            "type": "object", "required": ["error"], "additionalProperties": false,
            "properties": {"error": {"$ref": "#/components/schemas/Status"}},
        });
        let line = json!({"anyOf": [answer, last]});
        let mut all = responses(
            "A stream: one JSON document a line, each as this schema says; when it breaks off, the last line says why. \
             With `Upgrade: websocket` the same documents come as text frames.",
            &json!({"application/x-ndjson": {"schema": line}}),
        );
        all["101"] = json!({"description": "The WebSocket is open."});
        all
    } else {
        responses("Done.", &json!({"application/json": {"schema": answer}}))
    };
    operation
}

/// What all operations of methods have.
fn head(comments: &Comments, method: &MethodDescriptor, parameters: &[Value]) -> Value {
    let service = method.parent_service();
    let mut operation = json!({
        "operationId": method.name(), "tags": [service.name()], "parameters": parameters,
    });
    let access = policy::of(&format!("{}/{}", service.full_name(), method.name())).map(|rule| rule.access);
    let who = match access {
        Some(Access::Public) => {
            operation["security"] = json!([]);
            "Needs no login."
        }
        Some(Access::LoggedIn) => "For everybody who is logged in.",
        Some(Access::Viewer) => "For viewers, operators and administrators.",
        Some(Access::Operator) => "For operators and administrators.",
        Some(Access::Admin) | None => "For administrators.",
    };
    let comment = comments.at(&method.parent_file(), method.path());
    describe(&mut operation, format!("{comment}\n\n{who}").trim());
    operation
}

fn path_parameters(route: &Route) -> Vec<Value> {
    let parameter = |field| {
        json!({
            "name": plain(field), "in": "path", "required": true, "description": "Name or id.",
            "schema": {"type": "string", "minLength": 1},
        })
    };
    route.template.fields().map(parameter).collect()
}

/// Adds the fields of a message as parameters of the query: `a`, `a.b` for nested ones, `a[key]` for maps.
fn query(
    schemas: &mut Schemas<'_>,
    message: &MessageDescriptor,
    prefix: &str,
    keep: &dyn Fn(&str, &FieldDescriptor) -> bool,
    into: &mut Vec<Value>,
) {
    for field in message.fields().filter(|f| keep(f.name(), f)) {
        let name = format!("{prefix}{}", field.json_name());
        match field.kind() {
            Kind::Message(inner) if !field.is_map() && !inner.full_name().starts_with("google.protobuf.") => {
                // A list of messages has no form in a query, and none of the methods with a query has one.
                if !field.is_list() {
                    query(schemas, &inner, &format!("{name}."), &|_, _| true, into);
                }
            }
            _ => {
                let mut schema = schemas.field(&field);
                let mut parameter = json!({"name": name, "in": "query"});
                if let Some(description) = schema.as_object_mut().and_then(|s| s.remove("description")) {
                    parameter["description"] = description;
                }
                if field.is_map() {
                    parameter["style"] = "deepObject".into();
                    parameter["explode"] = true.into();
                }
                parameter["schema"] = schema;
                into.push(parameter);
            }
        }
    }
}

fn of_upload(comments: &Comments, schemas: &mut Schemas<'_>, route: &Route) -> Value {
    let (Some(method), Some(description)) = (
        super::rest::method("quantix.node.v1.ImageService", "UploadImage").ok(),
        POOL.get_message_by_name("quantix.node.v1.ImageDescription"),
    ) else {
        return json!({});
    };
    let mut parameters = path_parameters(route);
    query(schemas, &description, "", &|_, _| true, &mut parameters);
    let mut operation = head(comments, &method, &parameters);
    operation["requestBody"] = json!({
        "required": true,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    });
    let image = schemas.message(&method.output());
    operation["responses"] = responses("The image.", &json!({"application/json": {"schema": image}}));
    operation
}

fn of_console(comments: &Comments, route: &Route) -> Value {
    let Ok(method) = super::rest::method("quantix.node.v1.VmService", "ConsoleVm") else { return json!({}) };
    let mut operation = head(comments, &method, &path_parameters(route));
    operation["responses"] = responses("Not used: the answer is a WebSocket.", &json!({}));
    operation["responses"]["101"] = json!({"description": "The WebSocket is open: binary frames both ways."});
    operation
}

fn of_metrics() -> Value {
    json!({
        "operationId": "GetPrometheusMetrics",
        "description": "Measured values and counters for Prometheus (OpenMetrics text).\n\nFor viewers, operators and administrators.",
        "responses": responses("The values.", &json!({"application/openmetrics-text": {"schema": text()}})),
    })
}

fn public(id: &str, description: &str, kind: &str, schema: &Value) -> Value {
    json!({
        "operationId": id, "description": description, "security": [],
        "responses": responses("Here it is.", &json!({kind: {"schema": schema}})),
    })
}

fn text() -> Value {
    json!({"type": "string"})
}

/// The answer when all is well, and the errors that every call may give.
fn responses(description: &str, content: &Value) -> Value {
    let mut all = json!({"200": {"description": description, "content": content}});
    for code in ["400", "401", "403", "404", "409", "429", "default"] {
        all[code] = json!({"$ref": "#/components/responses/Error"});
    }
    all
}

fn status() -> Value {
    json!({
        "type": "object",
        "description": "Why a call failed: google.rpc.Status.",
        "required": ["code", "message", "details"],
        "additionalProperties": false,
        "properties": {
            "code": {"type": "integer", "minimum": 1, "maximum": 16, "description": "A code of gRPC (google.rpc.Code)."},
            "message": {"type": "string", "description": "One sentence: what, which value, why, what to do."},
            "details": {
                "type": "array",
                "description": "For programs: google.rpc.BadRequest with a violation a field, google.rpc.RetryInfo, …",
                "items": {
                    "type": "object", "required": ["@type"], "properties": {"@type": {"type": "string"}},
                    "additionalProperties": true,
                },
            },
        },
    })
}
