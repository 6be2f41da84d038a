//! A host in a namespace of its own, and machines around it. Nothing of it is left when the test ends: namespaces go with
//! their last descriptor, and what DHCP servers are left is ended.

use std::fs;
use std::future::Future;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::super::*;
use crate::model::{Caller, Fingerprint, FirewallRule, TaskState};
use crate::settings::Settings;
use crate::store::Store;

/// How long anything may take that is waited for.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Runs a test in a network namespace of its own, on one thread.
pub fn in_namespace<F: Future<Output = ()>>(name: &str, body: impl FnOnce(TestHost) -> F + Send + 'static) {
    let name = name.to_owned();
    let ran = thread::spawn(move || {
        if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("NOT RUN: {name}: a network namespace cannot be made here ({error}); run as root");
            return;
        }
        command("ip", &["link", "set", "lo", "up"]);
        // A new namespace takes its routing from the host's, which may be a router.
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let _servers = Servers(directory.path().to_owned());
        let test = body(TestHost::new(directory));
        runtime.block_on(async { timeout(Duration::from_mins(1), test).await.unwrap() });
    });
    if let Err(panic) = ran.join() {
        std::panic::resume_unwind(panic);
    }
}

/// The DHCP servers below a directory: a daemon leaves them running by design. Dropping this ends them, also after a panic.
struct Servers(PathBuf);

impl Drop for Servers {
    fn drop(&mut self) {
        let needle = format!("--conf-file={}/", self.0.display());
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let ours = String::from_utf8_lossy(&line).contains(&needle);
            if let Some(pid) = pid.filter(|_| ours).and_then(rustix::process::Pid::from_raw) {
                // It may have ended by itself meanwhile.
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
    }
}

/// Runs a program in this thread's namespace; it must succeed.
pub fn command(program: &str, arguments: &[&str]) -> String {
    let output = try_command(program, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a program in this thread's namespace.
pub fn try_command(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

/// The host under test: directories, a store, and the room on them.
pub struct TestHost {
    pub directory: tempfile::TempDir,
    pub store: Store,
    pub events: Events,
    pub tasks: Tasks,
    nics: Arc<std::sync::Mutex<Vec<ConfiguredNic>>>,
    stop: CancellationToken,
    /// None before `start`.
    networks: OnceLock<Networks>,
}

impl TestHost {
    pub fn new(directory: tempfile::TempDir) -> Self {
        for name in ["state", "run"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let store = Store::open(&directory.path().join("state/node.db")).unwrap();
        let (tasks, events) = (Tasks::new(store.clone()), Events::new(store.clone()));
        let (nics, networks) = (Arc::default(), OnceLock::new());
        Self { directory, store, events, tasks, nics, stop: CancellationToken::new(), networks }
    }

    pub fn settings(&self, default_network: bool) -> Settings {
        let path = |name: &str| -> PathBuf { self.directory.path().join(name) };
        let mut settings = Settings { state_dir: path("state"), run_dir: path("run"), ..Settings::default() };
        settings.network.default_network = default_network;
        settings
    }

    /// Starts the room.
    pub async fn start(&self, default_network: bool) -> &Networks {
        let (store, tasks, events) = (self.store.clone(), self.tasks.clone(), self.events.clone());
        let networks =
            Networks::start(&self.settings(default_network), store, tasks, events, self.stop.clone()).await.unwrap();
        let nics = self.nics.clone();
        networks.know_nics(Box::new(move |_| Ok(nics.lock().unwrap().clone())));
        assert!(self.networks.set(networks).is_ok());
        self.networks()
    }

    pub fn networks(&self) -> &Networks {
        self.networks.get().unwrap()
    }

    /// As a daemon that ends and comes back: its room goes, the host stays as it is.
    pub async fn restart(&mut self) -> &Networks {
        self.restart_with(false).await
    }

    /// The same, with the setting for the default network.
    pub async fn restart_with(&mut self, default_network: bool) -> &Networks {
        self.stop.cancel();
        let old = self.networks.take().unwrap();
        let last = Arc::downgrade(&old.shared);
        drop(old);
        eventually("the old room is gone", async || last.upgrade().is_none().then_some(())).await;
        self.stop = CancellationToken::new();
        self.start(default_network).await
    }

    /// Makes a network, and waits until it works.
    pub async fn network(&self, name: &str, kind: KindRequest) -> Network {
        let task = self.networks().create(request(name, kind), &Caller::daemon()).await.unwrap();
        let task = self.tasks.wait(&task.id, Some(DEADLINE)).await.unwrap();
        assert_eq!(task.state, TaskState::Succeeded, "{:?}", task.error);
        self.ready(name).await
    }

    /// Waits until a network works.
    pub async fn ready(&self, name: &str) -> Network {
        self.condition(name, |condition| *condition == Condition::Ready).await
    }

    /// Waits until a network is in such a condition.
    pub async fn condition(&self, name: &str, wanted: impl Fn(&Condition) -> bool) -> Network {
        eventually(&format!("network {name}"), async || {
            let view = self.networks().get(name.into()).await.unwrap();
            wanted(&view.condition).then_some(view.stored.record)
        })
        .await
    }

    /// A machine on a network, in place of a VM: its cable has the name that the VM's tap would have.
    pub async fn guest(&self, network: &Network, name: &str, change: impl FnOnce(&mut NicPlan)) -> (Machine, NicPlan) {
        let plan = self.plan(network, name, change).await;
        let machine = Machine::new();
        machine.cable(&plan.tap(), &plan.mac.to_string());
        self.networks().replug(&plan).await.unwrap();
        (machine, plan)
    }

    /// A NIC of a VM that is known to the store's VMs.
    pub async fn plan(&self, network: &Network, name: &str, change: impl FnOnce(&mut NicPlan)) -> NicPlan {
        let mut plan = NicPlan {
            vm: Id::new(),
            vm_name: Name::try_from(name).unwrap(),
            nic: "net0".into(),
            network: network.id.clone(),
            mac: self.networks().allocate_mac().await.unwrap(),
            queues: 1,
            address: None,
            allow_spoofing: false,
            rules: Vec::new(),
        };
        change(&mut plan);
        self.nics.lock().unwrap().push(ConfiguredNic {
            vm: plan.vm.clone(),
            vm_name: plan.vm_name.clone(),
            network: plan.network.clone(),
            mac: plan.mac,
            address: plan.address,
        });
        plan
    }

    /// The VM is deleted.
    pub async fn forget(&self, plan: &NicPlan) {
        self.nics.lock().unwrap().retain(|nic| nic.vm != plan.vm);
        self.networks().unplug(&plan.vm).await.unwrap();
    }
}

/// A machine behind the host's interface `out0` (192.0.2.1/24): 192.0.2.2, with no way back to guests.
pub fn outside() -> Machine {
    let machine = Machine::new();
    machine.cable("out0", "02:00:00:00:00:02");
    command("ip", &["addr", "add", "192.0.2.1/24", "dev", "out0"]);
    machine.within(|| {
        command("ip", &["addr", "add", "192.0.2.2/24", "dev", "eth0"]);
    });
    machine
}

/// A request with nothing else in it.
pub fn request(name: &str, kind: KindRequest) -> NewNetwork {
    NewNetwork {
        name: Name::try_from(name).unwrap(),
        kind,
        labels: BTreeMap::new(),
        request_id: String::new(),
        fingerprint: Fingerprint::of_bytes(name.as_bytes()),
    }
}

/// A NAT network with this subnet.
pub fn nat(subnet: &str) -> KindRequest {
    let empty = String::new;
    let (dhcp_first, dhcp_last, domain) = (empty(), empty(), empty());
    KindRequest::Nat { subnet: subnet.into(), dhcp_first, dhcp_last, domain, dns_servers: Vec::new() }
}

/// An isolated network.
pub fn isolated(subnet: &str) -> KindRequest {
    KindRequest::Isolated { subnet: subnet.into() }
}

/// A rule, as callers write it.
pub fn rule(text: &str) -> FirewallRule {
    use crate::model::{Direction, RuleAction};
    let words: Vec<&str> = text.split(' ').collect();
    let [direction, action, protocol, remote, ports] = words[..] else { panic!("{text}") };
    let direction = if direction == "in" { Direction::In } else { Direction::Out };
    let action = if action == "accept" { RuleAction::Accept } else { RuleAction::Drop };
    let word = |word: &'static str| if word == "*" { "" } else { word };
    let own = |text: &str| -> &'static str { Box::leak(text.to_owned().into_boxed_str()) };
    FirewallRule::check(direction, action, word(own(protocol)), word(own(remote)), word(own(ports))).unwrap()
}

/// Asks again until there is an answer, or the deadline is over.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: it did not happen within {DEADLINE:?}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A network namespace with one cable.
pub struct Machine {
    namespace: Arc<OwnedFd>,
}

impl Machine {
    pub fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            command("ip", &["link", "set", "lo", "up"]);
            fs::File::open("/proc/thread-self/ns/net").unwrap().into()
        });
        Self { namespace: Arc::new(made.join().unwrap()) }
    }

    /// Lays a cable: `host` is its end in this thread's namespace, `eth0` the machine's.
    pub fn cable(&self, host: &str, mac: &str) {
        let path = format!("/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        command("ip", &["link", "add", host, "type", "veth", "peer", "name", "eth0", "address", mac, "netns", &path]);
        command("ip", &["link", "set", host, "up"]);
        self.within(|| command("ip", &["link", "set", "eth0", "up"]));
    }

    /// Runs this in the machine.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.begin(work).join().unwrap()
    }

    /// Begins this in the machine.
    pub fn begin<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = self.namespace.clone();
        thread::spawn(move || {
            setns(&*namespace, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    /// As `within`, while the host goes on.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let handle = self.begin(work);
        tokio::task::spawn_blocking(move || handle.join().unwrap()).await.unwrap()
    }

    /// Gets an address by DHCP, with busybox's client. Returns what it was told: address, router, name server, domain.
    pub async fn dhcp(&self) -> Option<[String; 4]> {
        self.run(|| {
            let directory = tempfile::tempdir().unwrap();
            let (script, answer) = (directory.path().join("script"), directory.path().join("answer"));
            let text = format!(
                "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add $ip/$mask dev $interface\n\
                 [ -z \"$router\" ] || ip route add default via $router\n\
                 echo \"$ip,$router,$dns,$domain\" > {}\n",
                answer.display()
            );
            fs::write(&script, text).unwrap();
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
            let script = script.display().to_string();
            try_command("busybox", &["udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "6", "-T", "1", "-s", &script]);
            let text = fs::read_to_string(&answer).ok()?;
            let mut words = text.trim().split(',').map(str::to_owned);
            Some(std::array::from_fn(|_| words.next().unwrap_or_default()))
        })
        .await
    }

    /// Gives itself an address.
    pub fn address(&self, address: &str, router: Option<&str>) {
        let (address, router) = (address.to_owned(), router.map(str::to_owned));
        self.within(move || {
            command("ip", &["addr", "add", &address, "dev", "eth0"]);
            if let Some(router) = router {
                command("ip", &["route", "add", "default", "via", &router]);
            }
        });
    }

    /// Whether an address answers an echo request: waits as long as a busy machine may need.
    pub async fn pings(&self, address: &str) -> bool {
        self.echo(address, "5").await
    }

    /// Whether an address does not answer within a second.
    pub async fn hears_nothing_of(&self, address: &str) -> bool {
        !self.echo(address, "1").await
    }

    async fn echo(&self, address: &str, seconds: &'static str) -> bool {
        let address = address.to_owned();
        self.run(move || try_command("busybox", &["ping", "-c", "1", "-W", seconds, &address]).status.success()).await
    }

    /// Serves one connection after another on this port: says who called, until the machine is gone.
    pub fn serve(&self, port: u16) {
        let (ready, wait) = std::sync::mpsc::channel();
        self.begin(move || {
            let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
            ready.send(()).unwrap();
            for stream in listener.incoming().flatten() {
                serve_one(stream);
            }
        });
        wait.recv().unwrap();
    }

    /// Whether there is a connection within a second.
    pub async fn connects(&self, address: &str, port: u16) -> bool {
        let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
        self.run(move || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()).await
    }

    /// Connects, and returns how the other side sees this one; none when there is no connection for
    /// as long as a busy machine may need.
    pub async fn calls(&self, address: &str, port: u16) -> Option<String> {
        let address: SocketAddr = format!("{address}:{port}").parse().unwrap();
        self.run(move || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).ok()?;
            Some(text)
        })
        .await
    }
}

fn serve_one(mut stream: TcpStream) {
    let peer = stream.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default();
    drop(stream.write_all(peer.as_bytes()));
}

/// Serves in this thread's namespace, as the host's own services do.
pub fn serve_on_host(port: u16) {
    let listener = TcpListener::bind(("0.0.0.0", port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve_one(stream);
        }
    });
}
