//! The node's certificate: one of the settings, or one that the first start makes. Runs at the start and on reload; a new
//! certificate is taken only when it is whole and fits its key, else the old one stays.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM, the node's own certificate first, then the chain.
    pub certificate: PathBuf,
    /// PEM, PKCS#8, SEC1 or PKCS#1.
    pub key: PathBuf,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("The TLS file {path} cannot be {action}: {source}; check the path and that the daemon's user may use it")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{path} holds no {wanted} in PEM form: {reason}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        wanted: &'static str,
        /// Why it does not.
        reason: String,
    },
    /// The key is another certificate's.
    #[error("The key {key} does not belong to the certificate {certificate}; name the pair that was made together")]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// The certificate or key cannot be used.
    #[error("The certificate {certificate} with the key {key} cannot be used: {source}")]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// No certificate could be made.
    #[error("No self-signed certificate could be made")]
    Make(#[from] rcgen::Error),
}

/// The certificate that the node shows, which can be exchanged while it runs.
#[derive(Debug)]
pub struct Certificate {
    files: TlsFiles,
    shown: RwLock<Arc<CertifiedKey>>,
}

impl Certificate {
    /// Reads the certificate.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let shown = RwLock::new(Arc::new(read(&files)?));
        Ok(Arc::new(Self { files, shown }))
    }

    /// Reads the files anew. New connections get the new certificate; when it is not good, they go on getting the old one.
    ///
    /// # Errors
    /// Why the old one stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = Arc::new(read(&self.files)?);
        *self.shown.write().unwrap_or_else(std::sync::PoisonError::into_inner) = new;
        Ok(())
    }

    fn current(&self) -> Arc<CertifiedKey> {
        self.shown.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// SHA-256 of the certificate, lower-case hexadecimal: what people compare.
    pub fn fingerprint(&self) -> String {
        self.current().cert.first().map(|der| format!("{:x}", Sha256::digest(der))).unwrap_or_default()
    }

    /// How connections are secured: TLS 1.2 and 1.3 with this certificate, HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When the library has none of these versions.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(Arc::clone(self))));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Shows the certificate to whoever connects.
#[derive(Debug)]
struct Shown(Arc<Certificate>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current())
    }
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path| {
        std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), action: "read", source })
    };
    let content = |path: &Path, wanted, reason: String| TlsError::Content { path: path.to_owned(), wanted, reason };
    let chain: Vec<CertificateDer<'static>> = rustls_pemfile::certs(&mut pem(&files.certificate)?.as_slice())
        .collect::<Result<_, _>>()
        .map_err(|e| content(&files.certificate, "certificate", e.to_string()))?;
    if chain.is_empty() {
        return Err(content(&files.certificate, "certificate", "there is no CERTIFICATE block".into()));
    }
    let key: PrivateKeyDer<'static> = rustls_pemfile::private_key(&mut pem(&files.key)?.as_slice())
        .map_err(|e| content(&files.key, "private key", e.to_string()))?
        .ok_or_else(|| content(&files.key, "private key", "there is no PRIVATE KEY block".into()))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(|source| {
        let (certificate, key) = (files.certificate.clone(), files.key.clone());
        match source {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { certificate, key },
            source => TlsError::Unusable { certificate, key, source },
        }
    })
}

/// The pair in `directory`, made there when there is none yet: self-signed, ECDSA P-256, for `hostname`, localhost and
/// `addresses`.
///
/// # Errors
/// What could not be made or written.
pub fn self_signed(directory: &Path, hostname: &str, addresses: &[IpAddr]) -> Result<TlsFiles, TlsError> {
    let files = TlsFiles { certificate: directory.join("node.crt"), key: directory.join("node.key") };
    if files.certificate.exists() && files.key.exists() {
        return Ok(files);
    }
    let failed = |action| move |path: &Path, source| TlsError::File { path: path.to_owned(), action, source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| failed("made")(directory, e))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, hostname);
    for name in [hostname, "localhost"] {
        // A host may have a name that no certificate can hold; it is reached by its addresses then.
        if let Ok(name) = name.to_owned().try_into() {
            params.subject_alt_names.push(SanType::DnsName(name));
        }
    }
    let loopback = [IpAddr::from([127, 0, 0, 1]), IpAddr::from(std::net::Ipv6Addr::LOCALHOST)];
    for address in loopback.iter().chain(addresses.iter().filter(|a| !a.is_loopback())) {
        params.subject_alt_names.push(SanType::IpAddress(*address));
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // It is trusted by its fingerprint and not by its dates; a machine's clock may be wrong at its first start.
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2049, 12, 31);
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    // The key first: a certificate that is there says that both are whole.
    for (path, text) in [(&files.key, key.serialize_pem()), (&files.certificate, certificate.pem())] {
        write_whole(path, &text).map_err(|e| failed("written")(path, e))?;
    }
    Ok(files)
}

/// Writes a file that only the daemon's user may read, so that it is there whole or not at all.
fn write_whole(path: &Path, text: &str) -> io::Result<()> {
    let half = path.with_extension("new");
    let _ = std::fs::remove_file(&half);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&half)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&half, path)?;
    path.parent().map_or(Ok(()), |directory| std::fs::File::open(directory)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn pair(directory: &Path) -> TlsFiles {
        self_signed(directory, "node-1", &["192.0.2.7".parse().unwrap()]).unwrap()
    }

    #[test]
    fn the_first_start_makes_a_pair_that_later_starts_keep() {
        let directory = tempfile::tempdir().unwrap();
        let files = pair(directory.path());
        assert_eq!(std::fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
        let first = Certificate::load(files).unwrap().fingerprint();
        let again = Certificate::load(pair(directory.path())).unwrap().fingerprint();
        assert_eq!((first.len(), first), (64, again));
    }

    #[test]
    fn what_cannot_be_used_is_one_clear_line() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (mine, other) = (pair(a.path()), pair(b.path()));
        let text = |files: TlsFiles| Certificate::load(files).unwrap_err().to_string();
        let mismatch = text(TlsFiles { key: other.key.clone(), ..mine.clone() });
        assert!(mismatch.contains("does not belong to"), "{mismatch}");
        let swapped = text(TlsFiles { certificate: mine.key.clone(), key: mine.certificate.clone() });
        assert!(swapped.contains("node.key holds no certificate"), "{swapped}");
        let missing = text(TlsFiles { key: a.path().join("gone"), ..mine.clone() });
        assert!(missing.contains("gone cannot be read"), "{missing}");
        let broken = a.path().join("broken");
        std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        let broken = text(TlsFiles { certificate: broken, ..mine });
        assert!(broken.contains("cannot be used") && !broken.contains('\n'), "{broken}");
    }

    #[test]
    fn a_bad_new_certificate_leaves_the_old_one() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (files, other) = (pair(a.path()), pair(b.path()));
        let certificate = Certificate::load(files.clone()).unwrap();
        let first = certificate.fingerprint();
        std::fs::copy(&other.certificate, &files.certificate).unwrap();
        assert!(certificate.reload().is_err());
        assert_eq!(certificate.fingerprint(), first);
        std::fs::copy(&other.key, &files.key).unwrap();
        certificate.reload().unwrap();
        assert_ne!(certificate.fingerprint(), first);
    }
}
