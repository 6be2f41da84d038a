//! The host end of the payload's vsock commands: unix sockets by the `PATH_PORT` and `CONNECT PORT` convention.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use payload_logic::pattern;

/// The socket on which the VMM connects for guest connections to `port`.
pub fn guest_path(socket: &Path, port: u32) -> PathBuf {
    PathBuf::from(format!("{}_{port}", socket.display()))
}

/// Waits for one connection of the guest to `port` and sends back all that comes, until the guest closes. Returns the
/// number of bytes.
///
/// # Errors
///
/// If the socket cannot be made or fails.
pub fn echo(socket: &Path, port: u32) -> Result<u64> {
    let path = guest_path(socket, port);
    if let Err(error) = std::fs::remove_file(&path) {
        ensure!(error.kind() == ErrorKind::NotFound, "Cannot replace {}", path.display());
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("Cannot listen on {}", path.display()))?;
    let (mut stream, _) = listener.accept().context("Cannot accept")?;
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        let length = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error).context("Cannot read"),
        };
        stream.write_all(&buffer[..length]).context("Cannot write")?;
        total += length as u64;
    }
    std::fs::remove_file(&path).with_context(|| format!("Cannot remove {}", path.display()))?;
    Ok(total)
}

/// Connects to `port` of the guest, sends `bytes` bytes and checks that the same come back.
///
/// # Errors
///
/// If the VMM refuses, or they do not.
pub fn check(socket: &Path, port: u32, bytes: usize) -> Result<()> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("Cannot connect to {}", socket.display()))?;
    writeln!(stream, "CONNECT {port}").context("Cannot ask for the connection")?;
    let mut reader = BufReader::new(stream.try_clone().context("Cannot clone the socket")?);
    let mut answer = String::new();
    reader.read_line(&mut answer).context("No answer from the VMM")?;
    ensure!(answer.starts_with("OK "), "The VMM answered {answer:?}");
    let mut data = vec![0; bytes];
    pattern::fill(&mut data, u64::from(port));
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| stream.write_all(&data).context("Cannot write"));
        let mut back = vec![0; bytes];
        reader.read_exact(&mut back).context("Cannot read")?;
        sender.join().map_err(|_| anyhow::anyhow!("The sending thread panicked"))??;
        let wrong = pattern::first_difference(&back, u64::from(port));
        ensure!(wrong.is_none(), "Byte {wrong:?} came back changed");
        Ok(())
    })
}
