//! The canonical JSON of messages (proto3 JSON mapping), by the descriptors: what REST, `qx -o json` and tests speak.

use std::sync::LazyLock;

use prost::{Message, Name};
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, SerializeOptions};

/// The API's descriptors, ready for look-ups.
pub static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::DESCRIPTORS).expect("the descriptors were written by this crate's own build")
});

/// How this API writes JSON: lowerCamelCase names, and fields that have their default value too, so that readers need not
/// know the defaults. Absent messages stay absent.
pub fn options() -> SerializeOptions {
    SerializeOptions::new().skip_default_fields(false).stringify_64_bit_integers(true)
}

/// A message's descriptor.
fn descriptor<M: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&M::full_name()).expect("every message of this crate is in its descriptors")
}

/// A message as canonical JSON.
///
/// # Panics
/// Never with messages of this crate, which are in its own descriptors.
pub fn to_value<M: Message + Name>(message: &M) -> serde_json::Value {
    let dynamic = DynamicMessage::decode(descriptor::<M>(), message.encode_to_vec().as_slice())
        .expect("a message decodes by its own descriptor");
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options())
        .expect("a message of this API has a JSON form")
}

/// Reads a message from canonical JSON.
///
/// # Errors
/// What is wrong, with the field's name where there is one.
///
/// # Panics
/// Never with messages of this crate, which are in its own descriptors.
pub fn from_value<M: Message + Name + Default>(value: serde_json::Value) -> Result<M, serde_json::Error> {
    let dynamic = DynamicMessage::deserialize(descriptor::<M>(), value)?;
    Ok(M::decode(dynamic.encode_to_vec().as_slice()).expect("a message decodes by its own descriptor"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{Task, TaskState};

    #[test]
    fn the_json_is_canonical_and_comes_back() {
        let task = Task {
            id: "a".into(),
            state: TaskState::Running.into(),
            create_time: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
            ..Task::default()
        };
        let value = to_value(&task);
        assert_eq!(value["state"], "TASK_STATE_RUNNING");
        assert_eq!(value["createTime"], "1970-01-01T00:00:01Z");
        assert_eq!(from_value::<Task>(value).unwrap(), task);
    }

    #[test]
    fn a_misspelt_field_is_named() {
        let error = from_value::<Task>(serde_json::json!({"idd": "a"})).unwrap_err().to_string();
        assert!(error.contains("idd"), "{error}");
    }

    #[test]
    fn every_method_but_the_two_streams_has_a_way_over_http() {
        let http = POOL.get_extension_by_name("google.api.http").unwrap();
        let without: Vec<String> = POOL
            .services()
            .flat_map(|s| s.methods().collect::<Vec<_>>())
            .filter(|m| !m.options().has_extension(&http))
            .map(|m| m.name().to_owned())
            .collect();
        assert_eq!(without, ["UploadImage", "ConsoleVm"]);
    }
}
