//! A console's log on disk: appended to, rotated by size, and never written twice after a restart of the daemon.
//!
//! File calls block, so they are made on the blocking pool, one at a time for each log. What comes faster than the disk
//! takes it is dropped beyond a bound, and a line says how much. Nothing is synchronised: a log is worth no flush.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use tokio::task::JoinHandle;

use super::{Begin, ConsoleFiles};

/// Size at which a log becomes the log before.
const ROTATE_BYTES: u64 = 8 << 20;
/// What waits for the disk at most.
const WAITING_BYTES: usize = 1 << 20;

/// The log of one run.
#[derive(Debug)]
pub(super) struct ConsoleLog {
    waiting: Vec<u8>,
    dropped: u64,
    /// At rest, or at work on the blocking pool.
    place: Place,
}

#[derive(Debug)]
enum Place {
    Rest(Box<Writer>),
    Work(JoinHandle<Box<Writer>>),
    /// The work panicked; nothing is written any more.
    Broken,
}

impl ConsoleLog {
    /// A log that is opened with the first bytes.
    pub(super) fn new(files: ConsoleFiles, begin: Begin) -> Self {
        let writer = Writer { files, begin: Some(begin), file: None, skip: 0, since: 0, failed: false };
        Self { waiting: Vec::new(), dropped: 0, place: Place::Rest(Box::new(writer)) }
    }

    /// Takes bytes. Never waits.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.waiting.len() + bytes.len() > WAITING_BYTES {
            self.dropped += bytes.len() as u64;
        } else {
            if self.dropped > 0 {
                self.waiting.extend(format!("\n[{} bytes were not logged]\n", self.dropped).into_bytes());
                self.dropped = 0;
            }
            self.waiting.extend_from_slice(bytes);
        }
        self.begin_work();
    }

    fn begin_work(&mut self) {
        // While work is at hand its handle stays where it is: `worked` waits for it, and begins the next.
        if self.waiting.is_empty() || !matches!(self.place, Place::Rest(_)) {
            return;
        }
        if let Place::Rest(mut writer) = std::mem::replace(&mut self.place, Place::Broken) {
            let bytes = std::mem::take(&mut self.waiting);
            self.place = Place::Work(tokio::task::spawn_blocking(move || {
                writer.write(&bytes);
                writer
            }));
        }
    }

    /// Waits until the work at hand is done, and begins the next; for ever when there is none. Safe to drop.
    pub(super) async fn worked(&mut self) {
        match &mut self.place {
            Place::Work(work) => {
                let done = work.await;
                self.place = done.map_or(Place::Broken, Place::Rest);
                self.begin_work();
            }
            Place::Rest(_) | Place::Broken => std::future::pending().await,
        }
    }

    /// Waits until everything is written.
    pub(super) async fn finish(mut self) {
        while matches!(self.place, Place::Work(_)) {
            self.worked().await;
        }
    }
}

/// The files. Called on the blocking pool.
#[derive(Debug)]
struct Writer {
    files: ConsoleFiles,
    begin: Option<Begin>,
    file: Option<File>,
    /// So many bytes to come are in the log already.
    skip: u64,
    /// So many bytes of this run are in the log.
    since: u64,
    failed: bool,
}

impl Writer {
    fn write(&mut self, bytes: &[u8]) {
        if let Err(error) = self.try_write(bytes)
            && !std::mem::replace(&mut self.failed, true)
        {
            tracing::warn!("Console output is not logged in {}: {error}", self.files.log.display());
        }
    }

    fn try_write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(begin) = self.begin.take() {
            self.open(begin)?;
        }
        let known = self.skip.min(bytes.len() as u64);
        self.skip -= known;
        let fresh = bytes.get(known as usize..).unwrap_or_default();
        if fresh.is_empty() {
            return Ok(());
        }
        let mut file = match self.file.take() {
            Some(file) => file,
            None => append(&self.files.log)?,
        };
        if file.metadata()?.len() >= ROTATE_BYTES {
            fs::rename(&self.files.log, before(&self.files.log))?;
            file = append(&self.files.log)?;
            self.mark(i128::from(self.since))?;
        }
        file.write_all(fresh)?;
        self.since += fresh.len() as u64;
        self.file = Some(file);
        Ok(())
    }

    /// Finds out where this run begins in the log.
    fn open(&mut self, begin: Begin) -> io::Result<()> {
        let file = append(&self.files.log)?;
        let length = file.metadata()?.len();
        match begin {
            Begin::PowerOn => self.mark(-i128::from(length))?,
            Begin::Again { replay_bytes, lost_bytes } => {
                let mark = fs::read_to_string(&self.files.mark).ok().and_then(|text| text.trim().parse::<i128>().ok());
                // Without a mark nothing is known: rather twice than not at all.
                let have = mark.map_or(0, |mark| u64::try_from(mark + i128::from(length)).unwrap_or(0));
                self.since = have;
                self.skip = have.saturating_sub(lost_bytes).min(replay_bytes);
                if lost_bytes > have {
                    let gap = lost_bytes - have;
                    (&file).write_all(format!("\n[{gap} bytes were not logged]\n").as_bytes())?;
                    self.since = lost_bytes;
                    let length = file.metadata()?.len();
                    self.mark(i128::from(self.since) - i128::from(length))?;
                }
            }
        }
        self.file = Some(file);
        Ok(())
    }

    /// Notes the number, in this run, of the byte with which the present file begins.
    fn mark(&self, first: i128) -> io::Result<()> {
        fs::write(&self.files.mark, first.to_string())
    }
}

fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o640).open(path)
}

/// The log before.
fn before(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// The end of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Its newest bytes.
    pub data: Vec<u8>,
    /// There was more before.
    pub truncated: bool,
}

/// The newest `most` bytes of a log and the one before it. Blocks. Nothing when there is no log.
///
/// # Errors
/// It cannot be read.
pub fn tail(log: &Path, most: usize) -> io::Result<Tail> {
    let newest = tail_of(log, most)?;
    if newest.truncated || newest.data.len() == most {
        let more = newest.truncated || before(log).exists();
        return Ok(Tail { truncated: more, ..newest });
    }
    let older = tail_of(&before(log), most - newest.data.len())?;
    Ok(Tail { data: [older.data, newest.data].concat(), truncated: older.truncated })
}

fn tail_of(path: &Path, most: usize) -> io::Result<Tail> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Tail::default()),
        Err(error) => return Err(error),
    };
    let from = file.metadata()?.len().saturating_sub(most as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut data = Vec::new();
    file.take(most as u64).read_to_end(&mut data)?;
    Ok(Tail { data, truncated: from > 0 })
}
