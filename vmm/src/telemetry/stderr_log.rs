//! Logs go to stderr, one line each; stdout is the guest's.

use std::io::{IsTerminal as _, Write as _};
use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

/// Hears of warnings and errors. Called by the thread that logs; must not block, and must not log.
pub type WarningListener = Box<dyn Fn(&Record<'_>) + Send + Sync>;

static LISTENER: OnceLock<WarningListener> = OnceLock::new();

/// Has `listener` told of warnings and errors. The first one stays.
pub fn tell_warnings(listener: WarningListener) {
    let _ = LISTENER.set(listener);
}

struct Stderr {
    colour: bool,
}

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let (level, colour) = match record.level() {
            Level::Error => ("error", "\x1b[31m"),
            Level::Warn => ("warning", "\x1b[33m"),
            Level::Info => ("info", "\x1b[32m"),
            Level::Debug => ("debug", "\x1b[2m"),
            Level::Trace => ("trace", "\x1b[2m"),
        };
        let (on, off) = if self.colour { (colour, "\x1b[0m") } else { ("", "") };
        let line = format!("quantix-vmm: {on}{level}{off}: {}\n", record.args());
        // There is nowhere to tell that stderr is gone.
        let _ = std::io::stderr().write_all(line.as_bytes());
        if record.level() <= Level::Warn
            && let Some(listener) = LISTENER.get()
        {
            listener(record);
        }
    }

    fn flush(&self) {}
}

/// Sends everything up to `level` to stderr. The first call counts.
pub fn log_to_stderr(level: LevelFilter) {
    let logger = Stderr { colour: std::io::stderr().is_terminal() };
    if log::set_boxed_logger(Box::new(logger)).is_ok() {
        log::set_max_level(level);
    }
}
