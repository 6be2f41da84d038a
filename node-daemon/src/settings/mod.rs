//! What the administrator says in `node.toml` and on the command line. Read once at start; pure but for reading the file.
//! A section per room; unknown fields are errors that name file, line and field.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("Cannot read {path}", path = path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file does not say what settings are.
    #[error("{path}:{line}:{column}: {message}", path = path.display())]
    Syntax {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong, with the field's name.
        message: String,
    },
    /// A value is not possible.
    #[error("{field} = {value}: {reason}")]
    Value {
        /// The field, with its section.
        field: &'static str,
        /// What it is.
        value: String,
        /// Why not, and what would do.
        reason: &'static str,
    },
}

/// All settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What has to survive a reboot: `node.db`, `tls/`, `pools/default`.
    pub state_dir: PathBuf,
    /// What lives as long as the machine is up: `node.sock`, `vm/ID`.
    pub run_dir: PathBuf,
    /// Logs of VMs.
    pub log_dir: PathBuf,
    /// The VMM's program.
    pub vmm: PathBuf,
    /// Where the API listens.
    pub listen: ListenSettings,
    // One line a room's section, as `pub room: RoomSettings`. Keep the comment lines: they keep merges apart.
    // auth
    // server
    /// The certificate.
    pub tls: TlsSettings,
    // storage
    // network
    /// Networks that NICs are plugged into.
    pub network: NetworkSettings,
    // vm
    // telemetry
}

/// Where the API listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenSettings {
    /// gRPC with TLS.
    pub grpc: SocketAddr,
    /// REST and WebSocket with TLS.
    pub rest: SocketAddr,
}

/// The certificate that the API shows. With neither, the first start makes one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// PEM, the node's own certificate first, then the chain.
    pub certificate: Option<PathBuf>,
    /// PEM.
    pub key: Option<PathBuf>,
}

/// Networks that NICs are plugged into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Whether the first start makes a NAT network `default`.
    pub default_network: bool,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        Self { default_network: true }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/quantix".into(),
            run_dir: "/run/quantix".into(),
            log_dir: "/var/log/quantix".into(),
            vmm: "/usr/bin/quantix-vmm".into(),
            listen: ListenSettings::default(),
            // auth
            // server
            tls: TlsSettings::default(),
            // storage
            // network
            network: NetworkSettings::default(),
            // vm
            // telemetry
        }
    }
}

impl Default for ListenSettings {
    fn default() -> Self {
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        Self { grpc: SocketAddr::new(any, 9443), rest: SocketAddr::new(any, 8443) }
    }
}

impl Settings {
    /// Where the inventory is.
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("node.db")
    }

    /// The local socket of the API.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("node.sock")
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or says something that is no setting.
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(path, &text)
    }

    /// Reads the text of a file; `path` is only named in errors.
    ///
    /// # Errors
    /// As `read`.
    pub fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let before = text.get(..at).unwrap_or_default();
            SettingsError::Syntax {
                path: path.to_owned(),
                line: before.matches('\n').count() + 1,
                column: before.chars().rev().take_while(|c| *c != '\n').count() + 1,
                message: error.message().replace('\n', ", "),
            }
        })
    }

    /// Looks at values that only make sense together, after the command line had its say.
    ///
    /// # Errors
    /// Names the field, its value, and what would do.
    pub fn check(&self) -> Result<(), SettingsError> {
        let paths: [(&'static str, &Path); 4] = [
            ("state_dir", &self.state_dir),
            ("run_dir", &self.run_dir),
            ("log_dir", &self.log_dir),
            ("vmm", &self.vmm),
        ];
        for (field, path) in paths {
            if !path.is_absolute() {
                let value = path.display().to_string();
                return Err(SettingsError::Value { field, value, reason: "is not an absolute path: begin it with /" });
            }
        }
        if self.tls.certificate.is_some() != self.tls.key.is_some() {
            let (field, given) = match &self.tls.certificate {
                Some(path) => ("tls.certificate", path.display().to_string()),
                None => ("tls.key", self.tls.key.iter().map(|path| path.display().to_string()).collect()),
            };
            let reason = "is only one of a pair: give both tls.certificate and tls.key, or neither";
            return Err(SettingsError::Value { field, value: given, reason });
        }
        if self.listen.grpc == self.listen.rest && self.listen.grpc.port() != 0 {
            let value = self.listen.rest.to_string();
            let reason = "is listen.grpc too: each needs a port of its own";
            return Err(SettingsError::Value { field: "listen.rest", value, reason });
        }
        Ok(())
    }
}
