//! The devices a VM can have: one row each. Adding a device is a folder and a row here.
//!
//! Runs on the main thread, before the sandbox: a row opens what its device needs.

use std::os::fd::OwnedFd;

use crate::config::Plan;
use crate::machine::{Handles, OpenError};
use crate::sandbox::FdStore;
use crate::virtio::{Device, HostError};

/// What a row may use to make its devices.
pub struct Opener<'a> {
    /// What the user asked for.
    pub plan: &'a Plan,
    /// Files that were passed by name.
    pub fds: &'a mut FdStore,
    /// Where a device leaves what the control socket needs of it later.
    pub handles: &'a mut Handles,
}

impl Opener<'_> {
    /// The file that was passed as `name`, for the option `option`.
    pub fn passed(&mut self, option: &str, name: &crate::config::FdName) -> Result<OwnedFd, OpenError> {
        crate::machine::passed(self.fds, option, name)
    }
}

type Devices = Result<Vec<Box<dyn Device>>, OpenError>;

/// One row a device, in the order of PCI slots.
pub const ROWS: [(&str, fn(&mut Opener<'_>) -> Devices); 4] =
    [("block", super::block::attach), ("net", super::net::attach), ("vsock", super::vsock::attach), ("rng", rng)];

/// One device that may fail for lack of host resources.
fn one<D: Device + 'static>(device: Result<D, HostError>) -> Devices {
    match device {
        Ok(device) => Ok(vec![Box::new(device)]),
        Err(error) => Err(OpenError::host(&error)),
    }
}

fn rng(opener: &mut Opener<'_>) -> Devices {
    if opener.plan.rng { one(super::rng::Rng::new("rng0")) } else { Ok(Vec::new()) }
}
