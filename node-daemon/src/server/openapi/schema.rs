//! JSON schemas of messages, enums and fields, as canonical proto3 JSON has them. Pure.

use std::collections::BTreeMap;

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::comments::Comments;

/// Schemas that were asked for, by name; those that they refer to are added too.
pub struct Schemas<'a> {
    comments: &'a Comments,
    done: BTreeMap<String, Value>,
}

impl<'a> Schemas<'a> {
    /// No schemas yet.
    pub fn new(comments: &'a Comments) -> Self {
        Self { comments, done: BTreeMap::new() }
    }

    /// All schemas that were asked for.
    pub fn finish(self) -> BTreeMap<String, Value> {
        self.done
    }

    /// A message: a reference, or the schema itself for the well-known types.
    pub fn message(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(known) = well_known(message.full_name()) {
            return known;
        }
        let name = message.name().to_owned();
        if !self.done.contains_key(&name) {
            // Set first, so that a message that holds itself ends.
            self.done.insert(name.clone(), Value::Null);
            let schema = self.object(message, |_| true);
            self.done.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }

    /// A message written out, with the fields that `keep` says.
    pub fn object(&mut self, message: &MessageDescriptor, keep: impl Fn(&FieldDescriptor) -> bool) -> Value {
        let mut properties = Map::new();
        for field in message.fields().filter(keep) {
            let schema = self.field(&field);
            properties.insert(field.json_name().to_owned(), schema);
        }
        let mut description = self.comments.at(&message.parent_file(), message.path()).to_owned();
        for oneof in message.oneofs().filter(|o| !o.is_synthetic()) {
            let names: Vec<String> = oneof.fields().map(|f| f.json_name().to_owned()).collect();
            if !description.is_empty() {
                description += "\n\n";
            }
            description.extend(["At most one of: ", names.join(", ").as_str(), "."]);
        }
        let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
        describe(&mut schema, &description);
        schema
    }

    /// A field with its comment.
    pub fn field(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = if field.is_map() {
            let Kind::Message(entry) = field.kind() else { unreachable!("a map's entries are messages") };
            json!({"type": "object", "additionalProperties": self.kind(&entry.map_entry_value_field().kind())})
        } else if field.is_list() {
            json!({"type": "array", "items": self.kind(&field.kind())})
        } else {
            self.kind(&field.kind())
        };
        describe(&mut schema, self.comments.at(&field.parent_message().parent_file(), field.path()));
        schema
    }

    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::String => json!({"type": "string"}),
            Kind::Bool => json!({"type": "boolean"}),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({"type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX})
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({"type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX})
            }
            // Written as text, because JavaScript's numbers do not hold 64 bits; read either way.
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({
                "type": ["string", "integer"], "format": "int64", "pattern": "^-?[0-9]{1,19}$",
                "minimum": i64::MIN, "maximum": i64::MAX,
            }),
            Kind::Uint64 | Kind::Fixed64 => json!({
                "type": ["string", "integer"], "format": "uint64", "pattern": "^[0-9]{1,20}$",
                "minimum": 0, "maximum": u64::MAX,
            }),
            Kind::Float | Kind::Double => {
                json!({"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]})
            }
            Kind::Bytes => json!({"type": "string", "format": "byte", "contentEncoding": "base64"}),
            Kind::Enum(e) => self.enumeration(e),
            Kind::Message(m) => self.message(m),
        }
    }

    fn enumeration(&mut self, e: &EnumDescriptor) -> Value {
        let name = e.name().to_owned();
        if !self.done.contains_key(&name) {
            let file = e.parent_file();
            let names: Vec<String> = e.values().map(|v| v.name().to_owned()).collect();
            let mut description = self.comments.at(&file, e.path()).to_owned();
            for value in e.values() {
                let comment = self.comments.at(&file, value.path());
                if !comment.is_empty() {
                    description = format!("{description}\n- {}: {comment}", value.name());
                }
            }
            let mut schema = json!({"type": "string", "enum": names});
            describe(&mut schema, description.trim());
            self.done.insert(name.clone(), schema);
        }
        json!({"$ref": format!("#/components/schemas/{name}")})
    }
}

/// Adds a description, unless it is empty.
pub fn describe(schema: &mut Value, text: &str) {
    if let (Some(object), false) = (schema.as_object_mut(), text.is_empty()) {
        object.insert("description".into(), text.into());
    }
}

fn well_known(name: &str) -> Option<Value> {
    Some(match name {
        "google.protobuf.Timestamp" => json!({"type": "string", "format": "date-time"}),
        "google.protobuf.Duration" => {
            json!({"type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$", "examples": ["1.5s"]})
        }
        "google.protobuf.FieldMask" => json!({"type": "string", "examples": ["description,spec.cpus"]}),
        "google.protobuf.Empty" => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        _ => return None,
    })
}
