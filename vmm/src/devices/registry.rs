//! The devices a VM can have: one row each. Adding a device is a folder and a row here.
//!
//! Runs on the main thread, before the sandbox: a row opens what its device needs.

use std::os::fd::OwnedFd;

use super::balloon::{Balloon, BalloonOptions};
use crate::config::{Endpoint, Plan};
use crate::machine::{ConsoleEnds, Handles, OpenError, Printed, Stream, printed_to};
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

    /// The character stream that `endpoint` means, for the option `option`.
    fn stream(&mut self, option: &str, endpoint: &Endpoint) -> Result<Stream, OpenError> {
        crate::machine::open_endpoint(self.fds, option, endpoint)
    }
}

/// Makes all devices of one kind that the plan asks for.
pub type Row = fn(&mut Opener<'_>) -> Devices;

type Devices = Result<Vec<Box<dyn Device>>, OpenError>;

/// One row a device, in the order of PCI slots.
pub const ROWS: [(&str, Row); 6] = [
    ("block", super::block::attach),
    ("net", super::net::attach),
    ("vsock", super::vsock::attach),
    ("rng", rng),
    ("console", console),
    ("balloon", balloon),
];

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

fn console(opener: &mut Opener<'_>) -> Devices {
    let stream = opener.stream("--console", &opener.plan.console)?;
    if matches!(stream, Stream::Off) {
        return Ok(Vec::new());
    }
    let Printed { output, sink, held } = printed_to(&stream).map_err(|error| OpenError::host(&error))?;
    opener.handles.held.extend(held);
    let console = super::console::Console::new("console0", sink).map_err(|error| OpenError::host(&error))?;
    let input = Box::new(console.handle().input());
    if matches!(stream, Stream::Stdio) {
        opener.handles.keyboard = Some(input.clone());
    }
    opener.handles.console = Some(ConsoleEnds { output, input, stream });
    Ok(vec![Box::new(console)])
}

fn balloon(opener: &mut Opener<'_>) -> Devices {
    let Some(plan) = opener.plan.balloon else { return Ok(Vec::new()) };
    let options = BalloonOptions {
        page_bytes: opener.plan.memory.hugepages.page_bytes(),
        deflate_on_oom: plan.deflate_on_oom,
        page_reporting: plan.free_page_reporting,
    };
    let balloon = Balloon::new("balloon0", options).map_err(|error| OpenError::host(&error))?;
    let handle = balloon.handle();
    handle.set_target_bytes(plan.size_bytes);
    opener.handles.balloon = Some(Box::new(handle));
    Ok(vec![Box::new(balloon)])
}
