//! Makes a method's request message from a path, a query and a body. Pure. What it does not know it refuses by name.

use std::collections::HashMap;

use axum::http::StatusCode;
use base64::Engine as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};
use tonic::Code;

use super::problem::Problem;
use super::routes::BodyRule;
use super::template::Captures;

/// What a request brings.
pub struct Parts<'a> {
    /// Values from the path.
    pub captures: &'a Captures,
    /// The query, percent-encoded.
    pub query: &'a str,
    /// The body; JSON.
    pub body: &'a [u8],
}

/// The request message. The path wins over the body; a query is refused where the body takes all fields.
///
/// # Errors
/// What cannot be taken, with the field's name where there is one.
pub fn assemble(input: MessageDescriptor, rule: &BodyRule, parts: &Parts<'_>) -> Result<DynamicMessage, Problem> {
    let mut message = DynamicMessage::new(input.clone());
    match rule {
        _ if parts.body.iter().all(u8::is_ascii_whitespace) => {}
        BodyRule::All => message = from_json(input, "", parts.body)?,
        BodyRule::Field(field) => {
            let Kind::Message(inner) = field.kind() else { unreachable!("the body of a method is a message") };
            message.set_field(field, Value::Message(from_json(inner, field.name(), parts.body)?));
        }
        BodyRule::None => {
            let message = "This call takes no body: its fields are in the path and the query";
            return Err(Problem::request(StatusCode::BAD_REQUEST, Code::InvalidArgument, message));
        }
    }
    let mut asked = DynamicMessage::new(message.descriptor());
    for (name, value) in query_pairs(parts.query)? {
        if matches!(rule, BodyRule::All) {
            return Err(Problem::field(&name, "this call takes its fields in the body, not in the query"));
        }
        // Set apart first, so that a name given twice is found even where the body has a value too.
        set(&mut asked, &name, &name, &value)?;
        if let BodyRule::Field(field) = rule
            && asked.has_field(field)
        {
            return Err(Problem::field(&name, format!("{} is taken from the body, not from the query", field.name())));
        }
        if parts.captures.iter().any(|(taken, _)| *taken == name) {
            return Err(Problem::field(&name, "this is taken from the path"));
        }
    }
    for (field, value) in asked.take_fields() {
        message.set_field(&field, value);
    }
    for (name, value) in parts.captures {
        // Clear what the body said: the path decides.
        let mut fresh = DynamicMessage::new(message.descriptor());
        set(&mut fresh, name, name, value)?;
        overlay(&mut message, &fresh);
    }
    Ok(message)
}

/// Fills `message` from a query alone (uploads: the body is no JSON).
///
/// # Errors
/// As [`assemble`].
pub fn from_query(descriptor: MessageDescriptor, query: &str) -> Result<DynamicMessage, Problem> {
    let mut message = DynamicMessage::new(descriptor);
    for (name, value) in query_pairs(query)? {
        set(&mut message, &name, &name, &value)?;
    }
    Ok(message)
}

fn from_json(descriptor: MessageDescriptor, prefix: &str, body: &[u8]) -> Result<DynamicMessage, Problem> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let mut track = serde_path_to_error::Track::new();
    let read = DynamicMessage::deserialize(descriptor, serde_path_to_error::Deserializer::new(&mut json, &mut track));
    let message = read.map_err(|e| {
        if !e.is_data() {
            let text = format!("The body is no JSON: {e}");
            return Problem::request(StatusCode::BAD_REQUEST, Code::InvalidArgument, text);
        }
        let path = track.path().to_string();
        let path = path.trim_start_matches('.').trim_end_matches('?').trim_end_matches('.');
        let reason = e.to_string();
        // The path ends above a name that is not known; only the text has it.
        let unknown = reason.strip_prefix("unrecognized field name '").and_then(|r| r.split('\'').next());
        let pieces: Vec<&str> =
            [prefix, path, unknown.unwrap_or_default()].into_iter().filter(|p| !p.is_empty()).collect();
        match (pieces.is_empty(), unknown) {
            (true, _) => Problem::field("body", reason),
            (false, None) => Problem::field(&pieces.join("."), reason),
            (false, Some(_)) => Problem::field(&pieces.join("."), "there is no such field"),
        }
    })?;
    json.end().map_err(|e| {
        let text = format!("The body goes on after its JSON document: {e}");
        Problem::request(StatusCode::BAD_REQUEST, Code::InvalidArgument, text)
    })?;
    Ok(message)
}

/// Writes the fields that `from` has over those of `onto`, message by message.
fn overlay(onto: &mut DynamicMessage, from: &DynamicMessage) {
    for (field, value) in from.fields() {
        match value {
            Value::Message(inner) if onto.has_field(&field) => {
                if let Value::Message(target) = onto.get_field_mut(&field) {
                    overlay(target, inner);
                }
            }
            value => onto.set_field(&field, value.clone()),
        }
    }
}

/// Splits a query into decoded names and values, in order.
fn query_pairs(query: &str) -> Result<Vec<(String, String)>, Problem> {
    let decode = |text: &str| {
        let spaced = text.replace('+', " ");
        percent_encoding::percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned)
    };
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            match (decode(name), decode(value)) {
                (Ok(name), Ok(value)) => Ok((name, value)),
                _ => Err(Problem::field(name, "is not UTF-8 after percent-decoding")),
            }
        })
        .collect()
}

/// Sets one field: `page_size`, `pageSize`, `vm.id`, `labels[a.b]`, `labels.a`. `full` is the name as it was given.
fn set(message: &mut DynamicMessage, name: &str, full: &str, text: &str) -> Result<(), Problem> {
    let end = name.find(['.', '[']).unwrap_or(name.len());
    let (head, rest) = name.split_at(end);
    let descriptor = message.descriptor();
    let field = descriptor
        .get_field_by_name(head)
        .or_else(|| descriptor.get_field_by_json_name(head))
        .ok_or_else(|| Problem::field(full, format!("there is no such field in {}", descriptor.name())))?;
    if field.is_map() {
        let key = map_key(rest).ok_or_else(|| Problem::field(full, format!("name a key: {head}[key]=value")))?;
        return insert(message, &field, key, full, text);
    }
    if let Some(inner) = rest.strip_prefix('.') {
        let plain = matches!(field.kind(), Kind::Message(_)) && !field.is_list() && !is_text_message(&field);
        let Value::Message(target) = message.get_field_mut(&field) else {
            return Err(Problem::field(full, format!("{head} has no fields of its own")));
        };
        if !plain {
            return Err(Problem::field(full, format!("{head} is one text")));
        }
        return set(target, inner, full, text);
    }
    if !rest.is_empty() {
        return Err(Problem::field(full, format!("{head} takes no key in brackets")));
    }
    if !field.is_list() && message.has_field(&field) {
        return Err(Problem::field(full, "is given twice"));
    }
    let value = scalar(&field.kind(), text).map_err(|reason| Problem::field(full, reason))?;
    if field.is_list() {
        if let Value::List(list) = message.get_field_mut(&field) {
            list.push(value);
        }
    } else {
        message.set_field(&field, value);
    }
    Ok(())
}

fn map_key(rest: &str) -> Option<&str> {
    let key = match rest.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']')?,
        None => rest.strip_prefix('.')?,
    };
    (!key.is_empty()).then_some(key)
}

fn insert(
    message: &mut DynamicMessage,
    field: &FieldDescriptor,
    key: &str,
    full: &str,
    text: &str,
) -> Result<(), Problem> {
    let Kind::Message(entry) = field.kind() else { unreachable!("a map's entries are messages") };
    let part = |kind: &Kind, text: &str| scalar(kind, text).map_err(|reason| Problem::field(full, reason));
    let key = part(&entry.map_entry_key_field().kind(), key)?;
    let key: MapKey = key.into_map_key().ok_or_else(|| Problem::field(full, "is no key"))?;
    let value = part(&entry.map_entry_value_field().kind(), text)?;
    let Value::Map(map): &mut Value = message.get_field_mut(field) else { unreachable!("the field is a map") };
    let map: &mut HashMap<MapKey, Value> = map;
    match map.insert(key, value) {
        None => Ok(()),
        Some(_) => Err(Problem::field(full, "is given twice")),
    }
}

/// Messages whose JSON is one string: times, durations, masks.
fn is_text_message(field: &FieldDescriptor) -> bool {
    matches!(field.kind(), Kind::Message(m) if m.full_name().starts_with("google.protobuf."))
}

/// Reads a value of a kind; the error is the reason.
fn scalar(kind: &Kind, text: &str) -> Result<Value, String> {
    fn number<T: std::str::FromStr>(text: &str, make: fn(T) -> Value, what: &str) -> Result<Value, String> {
        text.parse().map(make).map_err(|_| format!("{text:?} is no {what}"))
    }
    match kind {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bool => number(text, Value::Bool, "true or false"),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => number(text, Value::I32, "whole number of 32 bits"),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => number(text, Value::I64, "whole number of 64 bits"),
        Kind::Uint32 | Kind::Fixed32 => number(text, Value::U32, "whole number from 0 to 4294967295"),
        Kind::Uint64 | Kind::Fixed64 => number(text, Value::U64, "whole number from 0 to 18446744073709551615"),
        Kind::Float => number(text, Value::F32, "number"),
        Kind::Double => number(text, Value::F64, "number"),
        Kind::Bytes => base64::engine::general_purpose::STANDARD
            .decode(text)
            .or_else(|_| base64::engine::general_purpose::URL_SAFE.decode(text))
            .map(|bytes| Value::Bytes(bytes.into()))
            .map_err(|e| format!("is no base64: {e}")),
        Kind::Enum(e) => {
            let named = e.get_value_by_name(text);
            let value = named.or_else(|| text.parse().ok().and_then(|number| e.get_value(number)));
            value.map(|v| Value::EnumNumber(v.number())).ok_or_else(|| {
                let names: Vec<String> = e.values().map(|v| v.name().to_owned()).collect();
                format!("{text:?} is none of {}", names.join(", "))
            })
        }
        Kind::Message(m) if m.full_name().starts_with("google.protobuf.") => {
            DynamicMessage::deserialize(m.clone(), serde_json::Value::String(text.to_owned()))
                .map(Value::Message)
                .map_err(|e| format!("{text:?} is no {}: {e}", m.name()))
        }
        Kind::Message(m) => Err(format!("is a {}: name its fields, as in name.field=value", m.name())),
    }
}
