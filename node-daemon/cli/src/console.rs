//! The serial console of a VM in this terminal: keys go to the guest as they are typed, Ctrl-] leaves. The terminal is put
//! back whatever happens: the mode is dropped on every way out, and signals that end the program are ways out too.
//!
//! A thread of its own reads the keyboard, because a read of a terminal cannot be called off; it ends with the program.

use std::io::{IsTerminal, Read};

use clap::Args;
use quantix_api::v1::{ConsoleInput, ConsoleOutput, GetVmRequest, VmState};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::failure::{ExitStatus, Failure};
use crate::session::Session;
use crate::style::Tone;
use crate::terminal::Mode;
use crate::words::word;

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// What `vm console` takes.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// Name or id
    vm: String,
    /// Only look: nothing is sent to the guest
    #[arg(long)]
    view_only: bool,
    /// Begin with what is printed from now on, without what was printed before
    #[arg(long)]
    no_replay: bool,
}

/// What came from the keyboard.
enum Typed {
    Keys(Vec<u8>),
    /// The escape key, or the end of input that is no terminal.
    Leave,
    End,
}

/// How a console ended.
#[derive(Debug, PartialEq, Eq)]
enum Ending {
    Left,
    Closed,
    Signal,
}

/// Opens the console.
pub async fn run(args: ConsoleArgs, session: &Session) -> Result<(), Failure> {
    let terminal = std::io::stdin().is_terminal();
    let mut client = session.vms().await?;
    let vm = client.get_vm(GetVmRequest { vm: args.vm }).await?.into_inner();
    let (to_guest, input) = mpsc::channel(64);
    let first = ConsoleInput { vm: vm.name.clone(), data: Vec::new() };
    to_guest.send(first).await.map_err(|_| Failure::failed("The console cannot be opened"))?;
    let output = client.console_vm(ReceiverStream::new(input)).await?.into_inner();
    announce(&vm.name, vm.status.as_ref().map_or(0, |status| status.state), terminal, session);
    let mode = if terminal { Some(Mode::raw()?) } else { None };
    let keys = keyboard(terminal);
    let viewing = Viewing { output, keys, to_guest, view_only: args.view_only, replay: !args.no_replay };
    let ended = viewing.run(session).await;
    drop(mode);
    let colour = session.global.colour_for(&std::io::stderr());
    match ended? {
        Ending::Left if terminal => {
            eprintln!("\n{}", Tone::Dim.paint(&format!("Left the console of {}.", vm.name), colour));
        }
        Ending::Left => {}
        Ending::Closed => eprintln!("\n{}", Tone::Dim.paint(&format!("The console of {} is closed.", vm.name), colour)),
        Ending::Signal => return Err(Failure::new(ExitStatus::Interrupted, "Ended by a signal")),
    }
    Ok(())
}

fn announce(name: &str, state: i32, terminal: bool, session: &Session) {
    if !terminal {
        return;
    }
    let colour = session.global.colour_for(&std::io::stderr());
    let state = if state == i32::from(VmState::Running) {
        String::new()
    } else {
        format!(" (it is {})", word::<VmState>(state))
    };
    eprintln!("{}", Tone::Dim.paint(&format!("Console of {name}{state}. Ctrl-] leaves."), colour));
}

/// The two directions of an open console.
struct Viewing {
    output: Streaming<ConsoleOutput>,
    keys: mpsc::Receiver<Typed>,
    to_guest: mpsc::Sender<ConsoleInput>,
    view_only: bool,
    replay: bool,
}

impl Viewing {
    /// Passes bytes both ways until somebody leaves or the node closes it.
    async fn run(mut self, session: &Session) -> Result<Ending, Failure> {
        let wrong = |error: std::io::Error| Failure::failed(format!("Signals cannot be caught: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(wrong)?;
        let mut hang_up = signal(SignalKind::hangup()).map_err(wrong)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(wrong)?;
        let mut input_ended = false;
        loop {
            tokio::select! {
                output = self.output.next() => match output {
                    Some(output) => self.show(output, session)?,
                    None => return Ok(Ending::Closed),
                },
                typed = self.keys.recv(), if !input_ended => match typed {
                    Some(Typed::Keys(data)) => {
                        if !self.view_only {
                            let input = ConsoleInput { vm: String::new(), data };
                            // The node says in the other direction why it does not listen any more.
                            let _ = self.to_guest.send(input).await;
                        }
                    }
                    Some(Typed::Leave) => return Ok(Ending::Left),
                    // What was piped in is sent; what the guest makes of it is still to come.
                    Some(Typed::End) | None => input_ended = true,
                },
                _ = terminate.recv() => return Ok(Ending::Signal),
                _ = hang_up.recv() => return Ok(Ending::Signal),
                _ = interrupt.recv() => return Ok(Ending::Signal),
            }
        }
    }

    fn show(&self, output: Result<ConsoleOutput, Status>, session: &Session) -> Result<(), Failure> {
        let output = output?;
        if output.lost_bytes > 0 {
            session.out.text(&format!("\r\n[{} bytes are missing here]\r\n", output.lost_bytes))?;
        }
        if output.replay && !self.replay {
            return Ok(());
        }
        session.out.bytes(&output.data)
    }
}

/// Shows what a guest prints, and sends nothing: `vm logs --follow`.
pub async fn follow(vm: String, raw: bool, session: &Session) -> Result<(), Failure> {
    let first = ConsoleInput { vm, data: Vec::new() };
    // The stream of input stays open: its end would end the console.
    let input = tokio_stream::once(first).chain(tokio_stream::pending());
    let mut output = session.vms().await?.console_vm(input).await?.into_inner();
    while let Some(output) = output.next().await {
        let data = output?.data;
        session.out.bytes(&if raw { data } else { harmless(&data) })?;
    }
    Ok(())
}

/// Reads the keyboard on a thread of its own.
fn keyboard(terminal: bool) -> mpsc::Receiver<Typed> {
    let (sender, receiver) = mpsc::channel(64);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let mut stdin = std::io::stdin().lock();
        loop {
            let read = match stdin.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => &buffer[..read],
            };
            let (keys, leave) = split(read, terminal);
            if !keys.is_empty() && sender.blocking_send(Typed::Keys(keys.to_vec())).is_err() {
                return;
            }
            if leave {
                let _ = sender.blocking_send(Typed::Leave);
                return;
            }
        }
        let _ = sender.blocking_send(if terminal { Typed::Leave } else { Typed::End });
    });
    receiver
}

/// What goes to the guest, and whether the escape key came after it. Input that is no terminal has no escape key.
fn split(typed: &[u8], terminal: bool) -> (&[u8], bool) {
    match typed.iter().position(|key| *key == ESCAPE) {
        Some(place) if terminal => (&typed[..place], true),
        _ => (typed, false),
    }
}

/// What a guest printed, without what moves the cursor or sets up the terminal; colours stay. Bytes that are no UTF-8 are
/// shown as such.
pub fn harmless(data: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(data);
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(letter) = rest.next() {
        match letter {
            '\u{1b}' => shown.push_str(&colour_only(&mut rest)),
            '\n' | '\t' => shown.push(letter),
            letter if letter.is_control() => {}
            letter => shown.push(letter),
        }
    }
    shown.into_bytes()
}

/// Takes one escape sequence; gives it back when it is a colour.
fn colour_only(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    match rest.next_if(|letter| matches!(letter, '[' | ']')) {
        Some('[') => {
            let mut sequence = String::from("\u{1b}[");
            // Parameters and intermediates, then one final letter.
            while let Some(letter) = rest.next_if(|letter| (' '..='?').contains(letter)) {
                sequence.push(letter);
            }
            match rest.next_if(|letter| ('@'..='~').contains(letter)) {
                Some('m') => sequence + "m",
                _ => String::new(),
            }
        }
        Some(_) => {
            // A title or another command of the system, up to BEL or ESC \.
            while let Some(letter) = rest.next() {
                if letter == '\u{7}' || letter == '\u{1b}' && rest.next_if_eq(&'\\').is_some() {
                    break;
                }
            }
            String::new()
        }
        None => {
            // Two letters: a reset, or a choice of characters.
            rest.next_if(|letter| letter.is_ascii() && !letter.is_control());
            String::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_leaves_and_what_was_typed_before_it_arrives() {
        assert_eq!(split(b"ls\r", true), (&b"ls\r"[..], false));
        assert_eq!(split(b"ls\x1dmore", true), (&b"ls"[..], true));
        assert_eq!(split(b"\x1d", true), (&b""[..], true));
        assert_eq!(split(b"a\x1db", false), (&b"a\x1db"[..], false));
    }

    #[test]
    fn colours_stay_and_nothing_else_reaches_the_terminal() {
        let shown = |text: &str| String::from_utf8(harmless(text.as_bytes())).unwrap();
        assert_eq!(shown("a\u{1b}[31mred\u{1b}[0m\r\n"), "a\u{1b}[31mred\u{1b}[0m\n");
        assert_eq!(shown("\u{1b}[2J\u{1b}[1;1Hgrub\u{1b}[?25l"), "grub");
        assert_eq!(shown("\u{1b}]0;title\u{7}x\u{1b}]52;c;AAAA\u{1b}\\y"), "xy");
        assert_eq!(shown("\u{1b}c\u{8}\u{0}z"), "z");
        assert_eq!(shown("\u{1b}["), "");
        assert_eq!(harmless(b"\xff\xfeok"), "\u{fffd}\u{fffd}ok".as_bytes());
    }
}
