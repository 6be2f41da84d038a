//! The terminal that `qx` runs in: its width, questions to its user, and modes that are always put back.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Read, Write};
use std::path::Path;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::failure::{ExitStatus, Failure};

/// Columns of the terminal on standard output; 80 when it does not tell.
pub fn width() -> u16 {
    tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_col).filter(|columns| *columns > 0).unwrap_or(80)
}

/// Lines of the terminal on standard output; 24 when it does not tell.
pub fn height() -> u16 {
    tcgetwinsize(std::io::stdout()).ok().map(|size| size.ws_row).filter(|rows| *rows > 0).unwrap_or(24)
}

/// Whether somebody can be asked: standard input and standard error are a terminal.
pub fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// A mode of the terminal on standard input; dropping it puts the one before back.
pub struct Mode {
    before: Termios,
}

impl Mode {
    /// Every key is passed on as it is, and nothing is echoed.
    pub fn raw() -> Result<Self, Failure> {
        Self::set(Termios::make_raw)
    }

    /// Keys come at once, nothing is echoed, and Ctrl-C is a key: as a signal it would leave the terminal silent.
    fn silent() -> Result<Self, Failure> {
        Self::set(|modes| modes.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG))
    }

    fn set(change: impl FnOnce(&mut Termios)) -> Result<Self, Failure> {
        let refused = |error| Failure::failed(format!("The terminal cannot be set up: {error}"));
        let before = tcgetattr(std::io::stdin()).map_err(refused)?;
        let mut modes = before.clone();
        change(&mut modes);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &modes).map_err(refused)?;
        Ok(Self { before })
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        // Nobody is left to tell when this fails.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Asks a question whose answer is one line.
pub fn ask(question: &str) -> Result<String, Failure> {
    if !is_interactive() {
        return Err(Failure::usage(format!("'{}' cannot be asked: this is no terminal", question.trim())));
    }
    eprint!("{question}");
    std::io::stderr().flush()?;
    read_line(std::io::stdin().lock())
}

/// Asks for yes or no; everything but yes is no.
pub fn confirm(question: &str) -> Result<bool, Failure> {
    Ok(matches!(ask(question)?.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// A secret: from a file (`-` is standard input) when one is named, else asked without echo.
pub fn secret(question: &str, file: Option<&Path>) -> Result<String, Failure> {
    let secret = match file {
        Some(path) if path == Path::new("-") => read_line(std::io::stdin().lock())?,
        Some(path) => {
            let file = File::open(path).map_err(|error| Failure::file(path, &error))?;
            read_line(BufReader::new(file.take(64 * 1024)))?
        }
        None => ask_silently(question)?,
    };
    if secret.is_empty() {
        Err(Failure::usage(format!("{} is empty", question.trim_end_matches([':', ' ']))))
    } else {
        Ok(secret)
    }
}

/// Asks twice, for a secret that is new.
pub fn new_secret(question: &str, file: Option<&Path>) -> Result<String, Failure> {
    let first = secret(question, file)?;
    if file.is_none() && ask_silently("The same again: ")? != first {
        return Err(Failure::usage("The two are not the same"));
    }
    Ok(first)
}

fn ask_silently(question: &str) -> Result<String, Failure> {
    if !is_interactive() {
        let what = question.trim_end_matches([':', ' ']);
        return Err(Failure::usage(format!("{what} cannot be asked: this is no terminal"))
            .hint("give it with --password-file FILE; - reads standard input"));
    }
    let _mode = Mode::silent()?;
    eprint!("{question}");
    std::io::stderr().flush()?;
    let answer = read_keys(std::io::stdin().lock());
    eprintln!();
    answer
}

/// Keys up to Enter, with the one correction that a blind typist needs.
fn read_keys(from: impl BufRead) -> Result<String, Failure> {
    let mut typed: Vec<u8> = Vec::new();
    for key in from.bytes() {
        match key.map_err(|error| Failure::failed(format!("The answer cannot be read: {error}")))? {
            b'\r' | b'\n' | 0x04 => break,
            0x03 => return Err(Failure::new(ExitStatus::Interrupted, "Interrupted")),
            0x08 | 0x7f => {
                // A whole character, whatever its bytes.
                while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            0x15 => typed.clear(),
            other => typed.push(other),
        }
    }
    String::from_utf8(typed).map_err(|_| Failure::usage("The answer is not UTF-8"))
}

/// One line without its end.
fn read_line(mut from: impl BufRead) -> Result<String, Failure> {
    let mut line = String::new();
    from.read_line(&mut line).map_err(|error| Failure::failed(format!("The answer cannot be read: {error}")))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blind_typist_can_correct() {
        assert_eq!(read_keys(&b"secrxt\x7f\x7fet\nrest"[..]).unwrap(), "secret");
        assert_eq!(read_keys("gr\u{fc}\x7fu\r".as_bytes()).unwrap(), "gru");
        assert_eq!(read_keys(&b"wrong\x15right\n"[..]).unwrap(), "right");
        assert_eq!(read_keys(&b"never\x03"[..]).unwrap_err().status, ExitStatus::Interrupted);
    }

    #[test]
    fn a_secret_comes_from_the_first_line_of_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\nnot this\n").unwrap();
        assert_eq!(secret("Password: ", Some(file.path())).unwrap(), "hunter2");
        std::fs::write(file.path(), "\n").unwrap();
        assert_eq!(secret("Password: ", Some(file.path())).unwrap_err().message, "Password is empty");
    }
}
