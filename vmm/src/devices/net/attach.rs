//! The registry's row: opens the taps of a plan.
//!
//! Main thread, before the sandbox. The one place of this room that knows names and fds.

use super::Net;
use crate::backend::entropy;
use crate::backend::tap::{Tap, TapError};
use crate::config::{FdName, NetPlan, TapSource};
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
    Ok(Net::new(plan.id.as_str(), Some(mac), tap))
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
