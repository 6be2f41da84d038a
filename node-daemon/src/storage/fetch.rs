//! Fetching an image from a web server. Runs on a pool's thread and blocks, never longer than [`STALL`] at a time.
//!
//! Which servers may be asked is the administrator's choice: a URL is as much a part of the node's set-up as an NFS server is.

use std::io::Read as _;
use std::time::Duration;

use super::intake::{Facts, Intake};
use super::{StorageError, StorageFault};
use crate::model::Failure;

/// Redirects that are followed.
const REDIRECTS: u32 = 5;
/// A server that sends nothing for so long is given up.
const STALL: Duration = Duration::from_secs(30);
/// Bytes that are read at a time.
const BUFFER: usize = 1 << 20;
/// Longest URL, in bytes.
const URL_MAX: usize = 2048;

/// Checks a URL.
///
/// # Errors
/// When it is none that can be fetched.
pub fn check_url(field: &str, url: &str) -> Result<(), Failure> {
    let reason = match url.parse::<http::Uri>() {
        _ if url.len() > URL_MAX => "is too long: a URL has at most 2048 bytes",
        Err(_) => "is not a URL",
        Ok(uri) if !matches!(uri.scheme_str(), Some("http" | "https")) => "is not of http or https",
        Ok(uri) if uri.host().is_none_or(str::is_empty) => "names no server",
        Ok(uri) if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
            "has a password in it, which would be shown to everybody who sees the image: leave it out"
        }
        Ok(_) => return Ok(()),
    };
    Err(Failure::invalid(field, url, reason))
}

/// Fetches `url` into `intake`.
///
/// # Errors
/// What the server or the network said, and what the intake says.
pub fn fetch(
    url: &str,
    expected_bytes: u64,
    mut intake: Intake<'_>,
    meter: &super::Meter,
) -> Result<Facts, StorageError> {
    let config = ureq::Agent::config_builder()
        .max_redirects(REDIRECTS)
        .timeout_resolve(Some(STALL))
        .timeout_connect(Some(STALL))
        .timeout_recv_response(Some(STALL))
        .timeout_per_read(Some(STALL))
        .user_agent(concat!("quantix-node/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .build();
    let answer = config.new_agent().get(url).call().map_err(|error| unfetched(url, &error))?;
    meter.check()?;
    let length = answer.body().content_length();
    if let Some(length) = length {
        if expected_bytes != 0 && length != expected_bytes {
            let what = format!("{url} has {length} bytes, there were to be {expected_bytes}");
            return Err(StorageError::content(what));
        }
        meter.expect(length);
    }
    let mut reader = answer.into_body().into_with_config().limit(u64::MAX).reader();
    let mut buffer = vec![0; BUFFER];
    let mut taken = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                intake.push(&buffer[..count])?;
                taken += count as u64;
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => {
                let what = format!("The server stopped sending {url} after {taken} bytes: {error}");
                return Err(StorageError::new(StorageFault::Unavailable, what));
            }
        }
    }
    if let Some(length) = length
        && taken != length
    {
        let what = format!("The server stopped sending {url} after {taken} of {length} bytes");
        return Err(StorageError::new(StorageFault::Unavailable, what));
    }
    intake.finish()
}

fn unfetched(url: &str, error: &ureq::Error) -> StorageError {
    let (fault, why) = match error {
        ureq::Error::StatusCode(code) if *code < 500 => (StorageFault::Refused, format!("the server answers {code}")),
        ureq::Error::StatusCode(code) => (StorageFault::Unavailable, format!("the server answers {code}")),
        ureq::Error::TooManyRedirects => (StorageFault::Refused, format!("it redirects more than {REDIRECTS} times")),
        other => (StorageFault::Unavailable, other.to_string()),
    };
    StorageError::new(fault, format!("Could not fetch {url}: {why}"))
}
