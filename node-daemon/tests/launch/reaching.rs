//! What a compromised VMM can reach, by being one: `quantix-hostile` is started in the VMM's place and tries. Each attempt must be
//! refused by the jail alone, and once more by the jail with the VMM's own sandbox in it, for each role that a thread has.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use quantix_node::vm::launch::{Exit, exit_of};
use serde_json::{Value, json};

use crate::bench::Bench;

/// What the jail alone leaves within reach, each with the reason. The VMM's filter must refuse it all the same.
const LEFT_TO_THE_FILTER: [(&str, &str); 1] =
    [("vsock", "the kernel has no namespaces for vsock, so only the filter's ban on sockets keeps it away")];

/// The signal of a filter that was broken.
const SIGSYS: i32 = 31;

/// The compromised VMM; built when nobody says where it is. Static, as the VMM is: there is no loader in a jail.
fn hostile() -> PathBuf {
    if let Some(path) = std::env::var_os("QUANTIX_HOSTILE") {
        return path.into();
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let triple = "x86_64-unknown-linux-gnu";
    let built = Command::new(env!("CARGO"))
        .current_dir(workspace)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--target",
            triple,
            "--config",
            "vmm/static.toml",
            "-p",
            "quantix-hostile",
        ])
        .status()
        .expect("cargo runs");
    assert!(built.success(), "quantix-hostile does not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
    target.join(triple).join("debug/quantix-hostile")
}

/// What there is to aim at; lives as long as the attempts.
struct Targets {
    _tcp: TcpListener,
    _path: UnixListener,
    _abstract: UnixListener,
    /// A word that must stay what it is.
    word: Box<u64>,
    value: Value,
}

impl Targets {
    fn new(directory: &Path) -> Self {
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = directory.join("host.sock");
        let path = UnixListener::bind(&socket).expect("a socket");
        let name = format!("quantix-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(name.as_bytes()).expect("a name");
        let abstract_ = UnixListener::bind_addr(&address).expect("an abstract socket");
        let word = Box::new(0x5ec2_e700_5ec2_e700_u64);
        let value = json!({
            "pid": std::process::id(), "address": &raw const *word as u64, "port": tcp.local_addr().expect("bound").port(),
            "socket": socket, "abstract_socket": name, "interface": other_interface(),
        });
        Self { _tcp: tcp, _path: path, _abstract: abstract_, word, value }
    }
}

/// An interface that a new network namespace does not have by itself.
fn other_interface() -> String {
    let names = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.find(|name| name != "lo").unwrap_or_else(|| "eth0".to_owned())
}

/// Runs the compromised VMM once. Returns what it said of each attempt, and how it ended.
async fn run(bench: &Bench, config: &Value) -> (BTreeMap<String, Value>, Exit) {
    let (mut plan, _serial) = bench.plan(&json!({}));
    plan.config = config.to_string();
    let log = bench.log().with_file_name(format!("{}.log", plan.vm));
    plan.log = std::fs::File::options().create(true).append(true).open(&log).expect("a log").into();
    let vm = plan.vm.clone();
    let launched = bench.launcher.launch(plan).await.expect("it starts");
    let exit = exit_of(&launched.pidfd).await.expect("it ends");
    bench.launcher.clean(&vm).await;
    let text = std::fs::read_to_string(&log).expect("a log");
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let named = lines.filter_map(|line| Some((line["attempt"].as_str()?.to_owned(), line.clone())));
    (named.collect(), exit)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compromised_vmm_reaches_nothing() {
    let Some(bench) = Bench::new() else { return };
    let bench = bench.instead(hostile());
    let targets = Targets::new(bench.log().parent().expect("a directory"));
    let config = json!({ "targets": targets.value, "sandbox": "none" });
    let (jailed, exit) = run(&bench, &config).await;
    assert_eq!(exit, Exit::Status(0), "{}", std::fs::read_to_string(bench.log()).unwrap_or_default());
    assert!(jailed.len() > 50, "{}", jailed.len());
    let mut reached: Vec<String> = Vec::new();
    let mut table: Vec<String> = Vec::new();
    for (name, line) in &jailed {
        let answer = line["answer"].as_str().unwrap_or_default();
        let left = LEFT_TO_THE_FILTER.iter().any(|(attempt, _)| attempt == name);
        if line["reached"] != false && !left {
            reached.push(format!("{name} with the jail alone: {answer}"));
        }
        let mut sandboxed = String::new();
        for role in ["Main", "Io", "Vcpu"] {
            let config = json!({ "targets": targets.value, "sandbox": role, "only": name });
            let (lines, exit) = run(&bench, &config).await;
            sandboxed = match (exit, lines.get(name)) {
                (Exit::Signal(SIGSYS), None) => "killed".to_owned(),
                (Exit::Status(0), Some(line)) if line["reached"] == false => line["answer"].to_string(),
                other => {
                    reached.push(format!("{name} as {role}: {other:?}"));
                    continue;
                }
            };
        }
        table.push(format!("| {} | {answer} | {sandboxed} |", line["what"].as_str().unwrap_or_default()));
    }
    println!("{}", table.join("\n"));
    assert_eq!(reached, Vec::<String>::new());
    assert_eq!(*targets.word, 0x5ec2_e700_5ec2_e700, "its memory was written to");
}
