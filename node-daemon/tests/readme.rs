//! The README's examples, run exactly as they stand: every block after a `runs` mark, in order, in one directory, against a
//! daemon that has just been started for the first time. The daemon and the examples have a network namespace of their own,
//! so that they can use the ports that the README names.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// How long a start, or one example, may take.
const DEADLINE: Duration = Duration::from_mins(2);
const MARK: &str = "<!-- runs";
const SETUP: &str = "Setup token (make the first administrator with it, once): ";

/// One example.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// The file that it is kept in; none for a shell's.
    file: Option<String>,
    text: String,
}

/// The marked blocks of a document.
fn blocks(document: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let Some(mark) = line.strip_prefix(MARK) else { continue };
        let file = mark.strip_suffix(" -->").and_then(|mark| mark.strip_prefix(": ")).map(str::to_owned);
        let language = lines.next().and_then(|fence| fence.strip_prefix("```")).expect("a block follows its mark");
        assert_eq!(language, if file.is_some() { "python" } else { "sh" }, "{line}");
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(Block { file, text: text.join("\n") + "\n" });
    }
    blocks
}

/// A daemon in a network namespace of its own; ended when it is dropped.
struct Node(Child);

impl Node {
    /// Starts it; gives its setup token when it serves.
    fn start(directory: &Path) -> (Self, String) {
        let place = directory.join("node");
        let part = |name: &str| place.join(name).display().to_string();
        let mut child = Command::new("unshare")
            .args(["--net", "--", "sh", "-euc", "ip link set lo up; exec \"$@\"", "sh"])
            .args([env!("CARGO_BIN_EXE_quantix-node"), "run", "--state-dir", &part("state"), "--run-dir", &part("run")])
            .args(["--log-dir", &part("log"), "--grpc", "127.0.0.1:9443", "--rest", "127.0.0.1:8443"])
            .stderr(Stdio::piped())
            .spawn()
            .expect("unshare is there");
        let (sender, lines) = mpsc::channel();
        let errors = BufReader::new(child.stderr.take().expect("it is piped"));
        // Read to the end: a full pipe would stop the daemon.
        std::thread::spawn(move || {
            for line in errors.lines().map_while(Result::ok) {
                eprintln!("node: {line}");
                let _ = sender.send(line);
            }
        });
        let node = Self(child);
        let (mut token, mut serves) = (None, false);
        while token.is_none() || !serves {
            let line = lines.recv_timeout(DEADLINE).expect("the daemon says that it serves");
            serves |= line.contains("Serving on");
            token = token.or_else(|| line.strip_prefix(SETUP).map(str::to_owned));
        }
        (node, token.expect("the loop waits for it"))
    }

    /// Runs a program where the daemon is.
    fn run(&self, directory: &Path, words: &[&str], path: &str) -> Result<String, String> {
        let namespace = format!("--net=/proc/{}/ns/net", self.0.id());
        let limit = DEADLINE.as_secs().to_string();
        let output = Command::new("nsenter")
            .args([namespace.as_str(), "--", "timeout", &limit])
            .args(words)
            .env("PATH", path)
            .current_dir(directory)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(text);
        }
        Err(format!("{}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Where Python has what the examples want, before everything else.
fn path_with_python() -> String {
    let made =
        Command::new("bash").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/venv")).output().expect("bash is there");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    format!("{}/bin:{}", String::from_utf8_lossy(&made.stdout).trim(), std::env::var("PATH").unwrap_or_default())
}

#[test]
fn the_examples_run_as_they_stand() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: a network namespace of its own needs root");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = path_with_python();
    let (node, token) = Node::start(directory.path());
    std::fs::write(directory.path().join("setup-token"), token).unwrap();
    std::fs::write(directory.path().join("password"), "a long enough password").unwrap();
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    for block in blocks(&document) {
        let ran = match &block.file {
            Some(file) => {
                std::fs::write(directory.path().join(file), &block.text).unwrap();
                node.run(directory.path(), &["python3", file], &path)
            }
            None => node.run(directory.path(), &["sh", "-euc", &block.text], &path),
        };
        match ran {
            Ok(said) => eprintln!("{}:\n{said}", block.file.as_deref().unwrap_or("sh")),
            Err(why) => panic!("this example of the README ended with {why}\n\n{}", block.text),
        }
    }
}

#[test]
fn marked_blocks_are_found_and_others_are_not() {
    let document =
        "text\n```sh\nnot this\n```\n<!-- runs -->\n```sh\na\nb\n```\n<!-- runs: x.py -->\n```python\nc\n```\n";
    let found = blocks(document);
    assert_eq!(found[0], Block { file: None, text: "a\nb\n".into() });
    assert_eq!(found[1], Block { file: Some("x.py".into()), text: "c\n".into() });
    assert_eq!(found.len(), 2);
    let readme = include_str!("../README.md");
    assert!(blocks(readme).len() >= 6, "the README has lost its marks");
}
