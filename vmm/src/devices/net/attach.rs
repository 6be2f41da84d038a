//! The registry's row: opens the taps of a plan.
//!
//! Main thread, before the sandbox. The one place of this room that knows names and fds.

use super::Net;
use crate::backend::entropy;
use crate::backend::tap::{Tap, TapError};
use crate::backend::vhost_net::{VhostError, VhostNet};
use crate::config::{FdName, NetPlan, TapSource, VhostMode};
use crate::devices::registry::Opener;
use crate::machine::OpenError;
use crate::virtio::Device;

/// Makes a device of each NIC in the plan.
pub fn attach(opener: &mut Opener<'_>) -> Result<Vec<Box<dyn Device>>, OpenError> {
    let plans = opener.plan.nets.clone();
    plans.iter().map(|plan| Ok(Box::new(attach_one(opener, plan)?) as Box<dyn Device>)).collect()
}

fn attach_one(opener: &mut Opener<'_>, plan: &NetPlan) -> Result<Net, OpenError> {
    let tap = match &plan.tap {
        TapSource::Name(name) => Tap::open(name.as_str(), plan.queues.get()),
        TapSource::Fds(names) => {
            let fds = names.iter().map(|name| opener.passed("--net", name)).collect::<Result<_, _>>()?;
            let names: Vec<&str> = names.iter().map(FdName::as_str).collect();
            Tap::from_fds(&format!("fd:{}", names.join("+")), fds)
        }
    };
    let tap = tap.map_err(refused)?;
    let mac = match plan.mac {
        Some(mac) => mac.octets(),
        None => random_mac()
            .map_err(|e| OpenError::new("--net", &plan.id, format!("no random MAC could be drawn ({e})")))?,
    };
    let vhost = vhost(opener, plan)?;
    let net = Net::new(plan.id.as_str(), Some(mac), tap).map_err(|error| OpenError::host(&error))?.over_vhost(vhost);
    if let Some(limits) = net.limits() {
        opener.handles.limits.insert(plan.id.as_str().to_owned(), Box::new(limits));
    }
    Ok(net)
}

/// A vhost-net device for each queue pair, or none where this process is to move the frames itself.
fn vhost(opener: &mut Opener<'_>, plan: &NetPlan) -> Result<Vec<VhostNet>, OpenError> {
    if plan.vhost == VhostMode::Off {
        return Ok(Vec::new());
    }
    let devices = (0..plan.queues.get()).map(|pair| open_vhost(opener, plan, pair)).collect::<Result<Vec<_>, _>>();
    match (devices, plan.vhost) {
        (Ok(devices), _) => Ok(devices),
        (Err(error), VhostMode::On) => Err(OpenError::new("--net", "vhost=on", in_words(error))),
        (Err(error), _) => {
            log::info!("{}: vhost-net is not used: {}", plan.id, in_words(error));
            Ok(Vec::new())
        }
    }
}

/// The device of one pair: passed as `vhost-ID` (the first pair) or `vhost-ID-PAIR`, else opened.
fn open_vhost(opener: &mut Opener<'_>, plan: &NetPlan, pair: u16) -> Result<VhostNet, VhostError> {
    let suffix = if pair == 0 { String::new() } else { format!("-{pair}") };
    match format!("vhost-{}{suffix}", plan.id).parse().and_then(|name| opener.fds.take(&name)) {
        Ok(fd) => VhostNet::adopt(fd),
        Err(_) => VhostNet::open(),
    }
}

fn in_words(VhostError { reason, source }: VhostError) -> String {
    source.map_or_else(|| reason.to_owned(), |source| format!("{reason} ({source})"))
}

/// A locally administered unicast address (IEEE 802 section 8.2).
fn random_mac() -> std::io::Result<[u8; 6]> {
    let mut mac = [0; 6];
    entropy::fill(&mut mac)?;
    mac[0] = mac[0] & !1 | 2;
    Ok(mac)
}

fn refused(error: TapError) -> OpenError {
    let TapError { name, reason, source } = error;
    let cause = source.map_or_else(String::new, |source| format!(" ({source})"));
    OpenError::new("--net", format!("tap={name}"), format!("{reason}{cause}"))
}
