//! Changing a VM: the mask, the checks, one transaction, and then whatever a running VMM can be told at once.

use std::sync::Arc;

use quantix_api::v1;

use super::{check, mask, wire};
use crate::model::vm::VmSpec;
use crate::model::{Failure, Name};
use crate::reconcile::lifecycle::State;
use crate::store::parse_etag;
use crate::vm::making::resolve_change;
use crate::vm::{Change, Entry, Live, Vms};

/// Changes a VM as the request says.
///
/// # Errors
/// The field at fault; `Aborted` for another etag; `FailedPrecondition` while it is made or deleted.
pub async fn update(vms: &Vms, request: v1::UpdateVmRequest) -> Result<Arc<Entry>, Failure> {
    let Some(wanted) = request.vm else {
        return Err(Failure::invalid("vm", "", "is missing: give the VM with its new fields"));
    };
    let entry = vms.find(if wanted.id.is_empty() { &wanted.name } else { &wanted.id })?;
    let view = entry.view();
    if matches!(view.status.state, State::Creating | State::Deleting) {
        let message = format!("VM {} is {}: it cannot be changed", view.record().name, view.status.state.word());
        return Err(Failure::precondition(message));
    }
    // Without an etag of the caller's it is the one that the change is based on: nobody's change is lost.
    let expected = parse_etag(&wanted.etag)?.unwrap_or(view.stored.revision);
    let present = wire::vm(&view, &wire::Surroundings::default());
    let changed = mask::lay_over(&present, &wanted, request.update_mask)?;
    let name = Name::parse("vm.name", &changed.name)?;
    check::words(&changed.description, &changed.labels).map_err(|failure| failure.under("vm"))?;
    let mut spec = changed.spec.unwrap_or_default();
    inherit_macs(&mut spec, present.spec.as_ref());
    let draft = check::draft(Some(&spec), "vm.spec")?;
    let renamed = name != view.record().name;
    let (description, labels) = (changed.description, changed.labels);
    entry
        .change(vms.store(), Change::Wish(Some(expected)), move |tx, record| {
            record.spec = resolve_change(tx, record, &draft).map_err(|failure| failure.under("vm.spec"))?;
            record.name = name;
            record.description = description;
            record.labels = labels;
            Ok(())
        })
        .await?;
    if renamed {
        vms.renamed(&entry);
    }
    if let Ok(live) = entry.live() {
        apply(vms, &entry, &live, &view.record().spec).await?;
    }
    Ok(entry)
}

/// A NIC without an address keeps the one that it has.
fn inherit_macs(spec: &mut v1::VmSpec, present: Option<&v1::VmSpec>) {
    let nics = present.map(|spec| spec.nics.as_slice()).unwrap_or_default();
    for (index, nic) in spec.nics.iter_mut().enumerate().filter(|(_, nic)| nic.mac.is_empty()) {
        let id = if nic.id.is_empty() { format!("net{index}") } else { nic.id.clone() };
        if let Some(before) = nics.iter().find(|before| before.id == id) {
            nic.mac.clone_from(&before.mac);
        }
    }
}

/// Tells a running VMM, and the host's filters, what they can be told.
async fn apply(vms: &Vms, entry: &Entry, live: &Live, before: &VmSpec) -> Result<(), Failure> {
    let view = entry.view();
    let record = view.record();
    for disk in &record.spec.disks {
        let old = before.disks.iter().find(|old| old.id == disk.id);
        if old.is_some_and(|old| old.limit != disk.limit) {
            live.client.set_rate_limit(disk.id.as_str(), disk.limit.operations, disk.limit.bytes).await?;
        }
    }
    for nic in &record.spec.nics {
        let Some(old) = before.nics.iter().find(|old| old.id == nic.id) else { continue };
        if old.limit != nic.limit {
            live.client.set_rate_limit(nic.id.as_str(), nic.limit.operations, nic.limit.bytes).await?;
        }
        let filters = |nic: &crate::model::vm::NicSpec| (nic.rules.clone(), nic.allow_spoofing, nic.address);
        let same_plug = old.network == nic.network && old.mac == nic.mac && old.queues == nic.queues;
        if same_plug && filters(old) != filters(nic) {
            vms.resources().replug(record, nic).await?;
        }
    }
    let (has, shall) = (live.started_with.spec.memory.size_bytes, record.spec.memory.size_bytes);
    if before.memory.size_bytes != shall && live.started_with.spec.balloon {
        // Less memory can be had at once, by the balloon; more than at the start only by a restart.
        live.client.set_balloon(has.saturating_sub(shall)).await?;
    }
    entry.note_restart_needed(!record.spec.same_run(&live.started_with.spec));
    Ok(())
}
