//! What two parts of a machine may not share: an id, a descriptor, a file that one of them writes.
//!
//! Runs on the main thread, after each part was checked by itself. It must not resolve paths: two names of one file are
//! found by the lock that is taken when the image is opened.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::error::ConfigError;
use super::parse::{Endpoint, FdName, Source};
use super::plan::{Plan, TapSource};

/// Ids of the devices that exist once; the control socket names them so.
const SINGLE_IDS: [&str; 4] = ["balloon0", "console0", "rng0", "vsock0"];

/// How a resource is used.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    /// Others may read it too.
    Read,
    /// Nobody else may have it.
    Own,
}

/// Who has what, so far.
#[derive(Default)]
pub(super) struct Claims {
    taken: HashMap<String, Use>,
}

impl Claims {
    /// Claims everything that the plan names.
    pub(super) fn collect(&mut self, plan: &Plan) -> Result<(), ConfigError> {
        ids(plan)?;
        self.source("--kernel", &plan.boot.kernel, Use::Read)?;
        plan.boot.initrd.iter().try_for_each(|source| self.source("--initrd", source, Use::Read))?;
        for (index, disk) in plan.disks.iter().enumerate() {
            let mode = if disk.readonly { Use::Read } else { Use::Own };
            let layers = disk.below.iter().try_for_each(|name| self.fd("--disk", name));
            let claimed = layers.and_then(|()| self.source("--disk", &disk.source, mode));
            claimed.map_err(|error| error.at_key("path").at_item(index))?;
        }
        for (index, net) in plan.nets.iter().enumerate() {
            self.tap(&net.tap).map_err(|error| error.at_key("tap").at_item(index))?;
        }
        if let Some(vsock) = &plan.vsock {
            self.source("--vsock", &vsock.socket, Use::Own).map_err(|error| error.at_key("socket"))?;
        }
        plan.api_socket.iter().try_for_each(|source| self.source("--api-socket", source, Use::Own))?;
        self.endpoint("--serial", &plan.serial)?;
        self.endpoint("--console", &plan.console)
    }

    fn source(&mut self, option: &'static str, source: &Source, mode: Use) -> Result<(), ConfigError> {
        match source {
            Source::Path(path) => self.path(option, path, mode),
            Source::Fd(name) => self.fd(option, name),
        }
    }

    fn endpoint(&mut self, option: &'static str, endpoint: &Endpoint) -> Result<(), ConfigError> {
        match endpoint {
            Endpoint::Off => Ok(()),
            Endpoint::Stdio => self.claim(option, "stdio", "stdio".to_owned(), Use::Own),
            Endpoint::File(path) | Endpoint::Socket(path) => self.path(option, path, Use::Own),
            Endpoint::Fd(name) => self.fd(option, name),
        }
    }

    fn tap(&mut self, tap: &TapSource) -> Result<(), ConfigError> {
        match tap {
            TapSource::Name(name) => self.claim("--net", name.as_str(), format!("tap {name}"), Use::Own),
            TapSource::Fds(names) => names.iter().try_for_each(|name| self.fd("--net", name)),
        }
    }

    fn path(&mut self, option: &'static str, path: &Path, mode: Use) -> Result<(), ConfigError> {
        let shown = path.display().to_string();
        self.claim(option, &shown, format!("path {shown}"), mode)
    }

    /// A descriptor has one owner, whatever it does with it.
    fn fd(&mut self, option: &'static str, name: &FdName) -> Result<(), ConfigError> {
        let shown = format!("fd:{name}");
        self.claim(option, &shown, shown.clone(), Use::Own)
    }

    fn claim(&mut self, option: &'static str, shown: &str, key: String, mode: Use) -> Result<(), ConfigError> {
        match self.taken.insert(key, mode) {
            None => Ok(()),
            Some(before) if before == Use::Read && mode == Use::Read => Ok(()),
            Some(_) => Err(ConfigError::new(option, shown, "another option uses it already; give each its own")),
        }
    }
}

fn ids(plan: &Plan) -> Result<(), ConfigError> {
    let mut seen: HashSet<&str> = SINGLE_IDS.into_iter().collect();
    let disks = plan.disks.iter().enumerate().map(|(index, disk)| ("--disk", index, &disk.id));
    let nets = plan.nets.iter().enumerate().map(|(index, net)| ("--net", index, &net.id));
    for (option, index, id) in disks.chain(nets) {
        if !seen.insert(id.as_str()) {
            let reason = "another device has this id; choose a different one";
            return Err(ConfigError::new(option, id, reason).at_key("id").at_item(index));
        }
    }
    Ok(())
}
