//! Field masks: what a request names is laid over what there is. Pure; by the descriptors, so no field is written twice.

use prost::Message as _;
use prost_reflect::{DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};
use quantix_api::json::POOL;
use quantix_api::v1;

use crate::model::Failure;

/// Paths that may be named; what is below them too.
const ALLOWED: [&str; 4] = ["name", "description", "labels", "spec"];

fn descriptor() -> Result<MessageDescriptor, Failure> {
    POOL.get_message_by_name("quantix.node.v1.Vm").ok_or_else(|| Failure::bug("The API does not know VMs"))
}

fn dynamic(vm: &v1::Vm) -> Result<DynamicMessage, Failure> {
    DynamicMessage::decode(descriptor()?, vm.encode_to_vec().as_slice())
        .map_err(|error| Failure::internal("A VM cannot be read back", error))
}

/// The paths of a mask; without one, the fields that the request has set.
fn paths(wanted: &v1::Vm, mask: Option<prost_types::FieldMask>) -> Vec<String> {
    let named = mask.map(|mask| mask.paths).unwrap_or_default();
    if !named.is_empty() {
        return named;
    }
    let set = [
        ("name", !wanted.name.is_empty() && !wanted.id.is_empty()),
        ("description", !wanted.description.is_empty()),
        ("labels", !wanted.labels.is_empty()),
        ("spec", wanted.spec.is_some()),
    ];
    set.into_iter().filter(|(_, set)| *set).map(|(path, _)| path.to_owned()).collect()
}

/// `present` with the fields of `wanted` that `mask` names.
///
/// # Errors
/// A path that is none, or that cannot be changed.
pub fn lay_over(present: &v1::Vm, wanted: &v1::Vm, mask: Option<prost_types::FieldMask>) -> Result<v1::Vm, Failure> {
    let paths = paths(wanted, mask);
    let (mut base, over) = (dynamic(present)?, dynamic(wanted)?);
    for path in &paths {
        let first = path.split('.').next().unwrap_or_default();
        if !ALLOWED.contains(&first) {
            let reason = "cannot be changed: name, description, labels, spec and fields below spec can";
            return Err(Failure::invalid("update_mask", path, reason));
        }
        copy(&mut base, &over, path).map_err(|reason| Failure::invalid("update_mask", path, reason))?;
    }
    v1::Vm::decode(base.encode_to_vec().as_slice())
        .map_err(|error| Failure::internal("A VM cannot be read back", error))
}

fn copy(to: &mut DynamicMessage, from: &DynamicMessage, path: &str) -> Result<(), &'static str> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    // REST callers write lowerCamelCase, as their JSON is.
    let descriptor = to.descriptor();
    let field = descriptor.get_field_by_name(name).or_else(|| descriptor.get_field_by_json_name(name));
    let field = field.ok_or("is no path of a VM: write names of fields with dots, such as spec.memory.size_bytes")?;
    let Some(rest) = rest else {
        if from.has_field(&field) {
            to.set_field(&field, from.get_field(&field).into_owned());
        } else {
            to.clear_field(&field);
        }
        return Ok(());
    };
    if field.is_list() || field.is_map() {
        return Err("goes into a list or a map: name the whole of it");
    }
    let below = from.get_field(&field);
    let (Value::Message(target), Some(below)) = (to.get_field_mut(&field), below.as_message()) else {
        return Err("goes below a plain value");
    };
    copy(target, below, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(cpus: u32, memory: u64) -> v1::Vm {
        let spec = v1::VmSpec {
            cpus: Some(v1::CpuSpec { count: cpus, ..Default::default() }),
            memory: Some(v1::MemorySpec { size_bytes: memory, ..Default::default() }),
            ..Default::default()
        };
        v1::Vm { name: "demo".into(), description: "old".into(), spec: Some(spec), ..Default::default() }
    }

    fn mask(paths: &[&str]) -> prost_types::FieldMask {
        prost_types::FieldMask { paths: paths.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn only_what_is_named_changes() {
        let present = vm(1, 100);
        let wanted = v1::Vm { description: String::new(), ..vm(2, 200) };
        let found = lay_over(&present, &wanted, Some(mask(&["spec.memory.size_bytes"]))).unwrap();
        assert_eq!(found, vm(1, 200));
        let found = lay_over(&present, &wanted, Some(mask(&["spec.memory.sizeBytes", "description"]))).unwrap();
        assert_eq!(found, v1::Vm { description: String::new(), ..vm(1, 200) });
        let found = lay_over(&present, &wanted, None).unwrap();
        assert_eq!(found, vm(2, 200));
        let below_absent = v1::Vm { spec: None, ..vm(1, 1) };
        let found = lay_over(&below_absent, &wanted, Some(mask(&["spec.cpus.count"]))).unwrap();
        assert_eq!(found.spec.unwrap().cpus.unwrap().count, 2);
    }

    #[test]
    fn paths_that_are_none_are_refused() {
        for path in ["", "id", "status", "spec.nothing", "spec.nics.mac", "labels.a", "name.x", "spec..cpus"] {
            let refused = lay_over(&vm(1, 1), &vm(2, 2), Some(mask(&[path]))).unwrap_err();
            assert_eq!(refused.fields()[0].field, "update_mask", "{path}");
        }
    }
}
