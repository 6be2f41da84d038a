//! The frames that the lab and its agent exchange over a virtio-serial port. Pure encoding, no thread of its own; shared
//! by the library and by the static agent, so it may use nothing but `std`.
//!
//! A port carries one job at a time. The host sends `Hello`, then for each job `Run`, any number of `Input`, `InputEnd`;
//! the agent answers with `Output`, `Errors` and at last `Exit` (or `Refused`). Every frame names its job, so what an
//! aborted job left in the pipe is recognised and dropped.
//!
//! ```text
//! 'Q' 'L' kind 0 | job: u32 | length: u32 | payload          little-endian
//! ```

use std::io::{self, Read, Write};
use std::time::Duration;

const MAGIC: [u8; 2] = *b"QL";
const HEADER_BYTES: usize = 12;

/// The longest payload, in bytes; longer streams are cut into several frames.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// What a frame means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Host: are you there? Agent: the same frame back.
    Hello,
    /// Host: start a program (an encoded [`Request`]).
    Run,
    /// Host: bytes for the program's standard input.
    Input,
    /// Host: the end of standard input.
    InputEnd,
    /// Agent: bytes of standard output.
    Output,
    /// Agent: bytes of standard error.
    Errors,
    /// Agent: the program has ended (an encoded [`Status`]).
    Exit,
    /// Agent: the program could not be started (UTF-8 text).
    Refused,
}

const KINDS: [(Kind, u8); 8] = [
    (Kind::Hello, 1),
    (Kind::Run, 2),
    (Kind::Input, 3),
    (Kind::InputEnd, 4),
    (Kind::Output, 5),
    (Kind::Errors, 6),
    (Kind::Exit, 7),
    (Kind::Refused, 8),
];

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it means.
    pub kind: Kind,
    /// The job it belongs to, chosen by the host.
    pub job: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame of `kind` for `job`.
    pub fn new(kind: Kind, job: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, job, payload: payload.into() }
    }

    /// Writes the frame in one call.
    ///
    /// # Errors
    /// `InvalidInput` for a payload above [`MAX_PAYLOAD`], else what the writer says.
    pub fn write_to(&self, writer: &mut (impl Write + ?Sized)) -> io::Result<()> {
        if self.payload.len() > MAX_PAYLOAD {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "The payload is too long for a frame"));
        }
        let code = KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or(0, |(_, code)| *code);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + self.payload.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[code, 0]);
        bytes.extend_from_slice(&self.job.to_le_bytes());
        bytes.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&self.payload);
        writer.write_all(&bytes)?;
        writer.flush()
    }

    /// Reads the next frame; bytes that are not the start of one are skipped.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other side has gone, `InvalidData` for a header that makes no sense.
    pub fn read_from(reader: &mut impl Read) -> io::Result<Self> {
        skip_to_magic(reader)?;
        let mut rest = [0_u8; HEADER_BYTES - MAGIC.len()];
        reader.read_exact(&mut rest)?;
        let [code, _, j0, j1, j2, j3, l0, l1, l2, l3] = rest;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let kind = KINDS.iter().find(|(_, known)| *known == code).map(|(kind, _)| *kind);
        let (Some(kind), true) = (kind, length <= MAX_PAYLOAD) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "A frame's header makes no sense"));
        };
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload)?;
        Ok(Self { kind, job: u32::from_le_bytes([j0, j1, j2, j3]), payload })
    }
}

fn skip_to_magic(reader: &mut impl Read) -> io::Result<()> {
    let mut last = [0_u8];
    loop {
        let before = last;
        reader.read_exact(&mut last)?;
        if [before, last].concat() == MAGIC {
            return Ok(());
        }
    }
}

/// A program to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The program's group is killed after this time; zero means never.
    pub timeout: Duration,
    /// Program and arguments; never a shell string unless the first one is a shell.
    pub argv: Vec<String>,
}

impl Request {
    /// The payload of a [`Kind::Run`] frame.
    pub fn encode(&self) -> Vec<u8> {
        let millis = u32::try_from(self.timeout.as_millis()).unwrap_or(u32::MAX);
        let mut bytes = millis.to_le_bytes().to_vec();
        bytes.extend_from_slice(self.argv.join("\0").as_bytes());
        bytes
    }

    /// Reads the payload of a [`Kind::Run`] frame; `None` if it is not one.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (millis, argv) = payload.split_first_chunk::<4>()?;
        let argv = std::str::from_utf8(argv).ok()?.split('\0').map(String::from).collect();
        Some(Self { timeout: Duration::from_millis(u32::from_le_bytes(*millis).into()), argv })
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal.
    Signalled(i32),
    /// It was killed because its time was over.
    TimedOut,
}

impl Status {
    /// The payload of a [`Kind::Exit`] frame.
    pub fn encode(self) -> Vec<u8> {
        let (tag, value) = match self {
            Self::Exited(code) => (0_u8, code),
            Self::Signalled(signal) => (1, signal),
            Self::TimedOut => (2, 0),
        };
        let mut bytes = vec![tag];
        bytes.extend_from_slice(&value.to_le_bytes());
        bytes
    }

    /// Reads the payload of a [`Kind::Exit`] frame; `None` if it is not one.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let (tag, value) = payload.split_first()?;
        let value = i32::from_le_bytes(value.try_into().ok()?);
        match tag {
            0 => Some(Self::Exited(value)),
            1 => Some(Self::Signalled(value)),
            2 => Some(Self::TimedOut),
            _ => None,
        }
    }

    /// The code that a shell would report: the exit code, 128 + signal, or 124 for a time-out.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => 128_i32.saturating_add(signal),
            Self::TimedOut => 124,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Frame, Kind, Request, Status};
    use std::time::Duration;

    #[test]
    fn a_frame_survives_the_wire_after_rubbish() {
        let sent = Frame::new(Kind::Output, 7, b"QQ hello".as_slice());
        let mut wire = b"half a frame Q".to_vec();
        sent.write_to(&mut wire).expect("a Vec takes everything");
        assert_eq!(Frame::read_from(&mut wire.as_slice()).expect("the frame is there"), sent);
    }

    #[test]
    fn wrong_headers_are_refused() {
        let unknown_kind = *b"QL\xff\0\0\0\0\0\0\0\0\0";
        let too_long = *b"QL\x01\0\0\0\0\0\xff\xff\xff\xff";
        assert!(Frame::read_from(&mut unknown_kind.as_slice()).is_err());
        assert!(Frame::read_from(&mut too_long.as_slice()).is_err());
    }

    #[test]
    fn requests_and_statuses_decode_to_what_was_encoded() {
        let request =
            Request { timeout: Duration::from_millis(1500), argv: vec!["sh".into(), "-c".into(), "a b; c".into()] };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        for status in [Status::Exited(-3), Status::Signalled(9), Status::TimedOut] {
            assert_eq!(Status::decode(&status.encode()), Some(status));
        }
        assert_eq!(Status::decode(&[9, 0, 0, 0, 0]), None);
    }
}
