//! From the wire to checked disks and NICs. Pure; the second half of `check`.

use std::collections::BTreeSet;

use quantix_api::v1;
use quantix_api::v1::disk_spec::Source;

use super::check::{Faults, given, reserved};
use crate::model::vm::{DiskSpec, DraftSource, Limit, NewVolume, NicSpec, VmDraft, VolumeFormat};
use crate::model::{Direction, FirewallRule, Name, RuleAction};

/// Slots on the PCI bus, less the host bridge.
const MAX_DEVICES: usize = 31;
/// Length of a disk's serial number (virtio 1.2 section 5.2.6.1).
const MAX_SERIAL: usize = 20;
const MAX_RULES: usize = 256;

fn limit(operations: u64, bytes: u64) -> Limit {
    Limit { operations: (operations > 0).then_some(operations), bytes: (bytes > 0).then_some(bytes) }
}

/// A device's id, or the default; a name that is none is noted, and the default stands in for it.
fn id(field: &str, text: &str, kind: &str, index: usize, faults: &mut Faults) -> Name {
    let default = format!("{kind}{index}");
    let text = if text.is_empty() { default.as_str() } else { text };
    Name::try_from(text).unwrap_or_else(|reason| {
        faults.add(field, text, reason);
        Name::try_from(default.as_str()).unwrap_or_else(|_| unreachable!("{default} is a name"))
    })
}

/// The disks.
pub fn disks(disks: &[v1::DiskSpec], faults: &mut Faults) -> Vec<DiskSpec<DraftSource>> {
    disks.iter().enumerate().filter_map(|(index, disk)| self::disk(index, disk, faults)).collect()
}

fn disk(index: usize, disk: &v1::DiskSpec, faults: &mut Faults) -> Option<DiskSpec<DraftSource>> {
    let at = |field: &str| format!("disks[{index}].{field}");
    let id = id(&at("id"), &disk.id, "disk", index, faults);
    if id.as_str().len() > MAX_SERIAL {
        faults.add(at("id"), &id, "is too long: it is the disk's serial number, which has at most 20 characters");
    }
    let queues = faults.bounded(&at("queues"), disk.queues, 1, 16);
    let source = match &disk.source {
        Some(Source::Volume(name)) if !name.is_empty() => DraftSource::Volume(name.clone()),
        Some(Source::Image(name)) if !name.is_empty() => DraftSource::Image(name.clone()),
        Some(Source::NewVolume(new)) => DraftSource::New(new_volume(index, new, faults)),
        _ => {
            faults.add(at("source"), "", "is missing: name a volume or an image, or say what volume to make");
            return None;
        }
    };
    Some(DiskSpec {
        id,
        source,
        readonly: disk.readonly,
        direct: disk.direct,
        queues,
        limit: limit(disk.max_operations_per_second, disk.max_bytes_per_second),
    })
}

fn new_volume(index: usize, new: &v1::NewVolume, faults: &mut Faults) -> NewVolume {
    let at = |field: &str| format!("disks[{index}].new_volume.{field}");
    let name = given(&new.name)
        .and_then(|text| Name::try_from(text.as_str()).map_err(|reason| faults.add(at("name"), &text, reason)).ok());
    let format = match v1::VolumeFormat::try_from(new.format) {
        Ok(v1::VolumeFormat::Unspecified) => None,
        Ok(v1::VolumeFormat::Raw) => Some(VolumeFormat::Raw),
        Ok(v1::VolumeFormat::Qcow2) => Some(VolumeFormat::Qcow2),
        Err(_) => {
            faults.add(at("format"), new.format, "is not a format that this node knows");
            None
        }
    };
    if new.size_bytes == 0 && new.image.is_empty() {
        faults.add(at("size_bytes"), 0, "is no size: give one in bytes, or an image to start from");
    }
    NewVolume {
        name,
        pool: given(&new.pool),
        format,
        size_bytes: new.size_bytes,
        image: given(&new.image),
        full_copy: new.full_copy,
    }
}

/// The NICs.
pub fn nics(nics: &[v1::NicSpec], faults: &mut Faults) -> Vec<NicSpec<String>> {
    nics.iter().enumerate().map(|(index, nic)| self::nic(index, nic, faults)).collect()
}

fn nic(index: usize, nic: &v1::NicSpec, faults: &mut Faults) -> NicSpec<String> {
    let at = |field: &str| format!("nics[{index}].{field}");
    if nic.network.is_empty() {
        faults.add(at("network"), "", "is missing: name a network");
    }
    if nic.rules.len() > MAX_RULES {
        faults.add(at("rules"), nic.rules.len(), "are too many: at most 256");
    }
    let rules = nic
        .rules
        .iter()
        .enumerate()
        .filter_map(|(number, rule)| self::rule(&at(&format!("rules[{number}]")), rule, faults));
    let rules = rules.collect();
    NicSpec {
        id: id(&at("id"), &nic.id, "net", index, faults),
        network: nic.network.clone(),
        mac: faults.parse_given(&at("mac"), &nic.mac),
        queues: faults.bounded(&at("queues"), nic.queues, 1, 8),
        address: parse_address(&at("address"), &nic.address, faults),
        allow_spoofing: nic.allow_spoofing,
        rules,
        limit: limit(nic.max_packets_per_second, nic.max_bytes_per_second),
    }
}

fn parse_address(field: &str, text: &str, faults: &mut Faults) -> Option<std::net::Ipv4Addr> {
    let text = given(text)?;
    text.parse().map_err(|_| faults.add(field, &text, "is not an IPv4 address: write one as 10.80.0.20")).ok()
}

fn rule(field: &str, rule: &v1::FirewallRule, faults: &mut Faults) -> Option<FirewallRule> {
    let direction = match rule.direction() {
        v1::Direction::In => Some(Direction::In),
        v1::Direction::Out => Some(Direction::Out),
        v1::Direction::Unspecified => None,
    };
    if direction.is_none() {
        faults.add(format!("{field}.direction"), rule.direction, "is no direction: give DIRECTION_IN or DIRECTION_OUT");
    }
    let action = match rule.action() {
        v1::FirewallAction::Accept => Some(RuleAction::Accept),
        v1::FirewallAction::Drop => Some(RuleAction::Drop),
        v1::FirewallAction::Unspecified => None,
    };
    if action.is_none() {
        let reason = "is no action: give FIREWALL_ACTION_ACCEPT or FIREWALL_ACTION_DROP";
        faults.add(format!("{field}.action"), rule.action, reason);
    }
    let checked = FirewallRule::check(direction?, action?, &rule.protocol, &rule.remote, &rule.ports);
    checked.map_err(|failure| faults.extend(&failure.under(field))).ok()
}

/// What devices may not share, and whether there is room for all.
pub fn together(draft: &VmDraft, faults: &mut Faults) {
    let disks = draft.disks.iter().enumerate().map(|(index, disk)| (format!("disks[{index}].id"), &disk.id));
    let nics = draft.nics.iter().enumerate().map(|(index, nic)| (format!("nics[{index}].id"), &nic.id));
    let mut ids = BTreeSet::new();
    for (field, id) in disks.chain(nics) {
        if reserved().contains(id.as_str()) {
            faults.add(field, id, "is the name of a device that the node adds itself: choose another");
        } else if !ids.insert(id.as_str()) {
            faults.add(field, id, "is the name of another device of this VM: choose another");
        }
    }
    let mut volumes = BTreeSet::new();
    for (index, disk) in draft.disks.iter().enumerate() {
        if let DraftSource::Volume(name) = &disk.source
            && !volumes.insert(name)
        {
            faults.add(format!("disks[{index}].volume"), name, "is a disk of this VM already: a volume is one disk");
        }
    }
    let mut macs = BTreeSet::new();
    for (index, nic) in draft.nics.iter().enumerate() {
        if let Some(mac) = nic.mac
            && !macs.insert(mac)
        {
            faults.add(format!("nics[{index}].mac"), mac, "is the address of another NIC of this VM");
        }
    }
    let single = [draft.cloud_init.is_some(), draft.rng, draft.balloon, draft.vsock];
    let devices = draft.disks.len() + draft.nics.len() + single.into_iter().filter(|there| *there).count();
    if devices > MAX_DEVICES {
        let reason = format!("are too many devices: the PCI bus of a VM has room for {MAX_DEVICES}");
        faults.add(if draft.disks.len() >= draft.nics.len() { "disks" } else { "nics" }, devices, reason);
    }
}
