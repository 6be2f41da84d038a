//! What a process said so far, read by a thread for each of its streams; others wait for words in it.

use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The streams of a process.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
}

/// What was said.
#[derive(Debug, Default)]
pub struct Words {
    /// On standard output.
    pub output: String,
    /// On standard error.
    pub errors: String,
    ended: usize,
}

impl Words {
    /// Whether all streams of the process have ended.
    pub fn complete(&self) -> bool {
        self.ended == 2
    }
}

/// A growing record of both streams.
#[derive(Debug, Clone, Default)]
pub struct Transcript(Arc<(Mutex<Words>, Condvar)>);

impl Transcript {
    /// Reads `from` to its end, on a thread of its own.
    pub fn follow(&self, stream: Stream, from: impl Read + Send + 'static) {
        let shared = self.clone();
        std::thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                let text = String::from_utf8_lossy(&line).into_owned();
                shared.change(|words| match stream {
                    Stream::Output => words.output.push_str(&text),
                    Stream::Errors => words.errors.push_str(&text),
                });
                line.clear();
            }
            shared.change(|words| words.ended += 1);
        });
    }

    /// Waits until `holds`; false when the time is over before.
    pub fn wait(&self, patience: Duration, holds: impl Fn(&Words) -> bool) -> bool {
        let (_, changed) = &*self.0;
        let waited = changed.wait_timeout_while(self.words(), patience, |words| !holds(words));
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// What there is now.
    pub fn words(&self) -> MutexGuard<'_, Words> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Words)) {
        change(&mut self.words());
        self.0.1.notify_all();
    }
}
