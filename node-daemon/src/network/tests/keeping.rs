//! What lasts and what comes back: DHCP servers that die, daemons that restart, interfaces that nobody has any more.

use super::harness::*;
use crate::model::Severity;
use crate::network::{Condition, Networks};
use crate::store::EventFilter;

async fn server_pid(host: &TestHost, network: &crate::model::Network) -> Option<i32> {
    let file = host.directory.path().join("run/network").join(network.id.as_str()).join("dnsmasq.pid");
    tokio::fs::read_to_string(file).await.ok()?.trim().parse().ok()
}

#[test]
fn a_dhcp_server_that_dies_is_started_again_and_it_is_told() {
    in_namespace("dnsmasq killed", async |host| {
        host.start(false).await;
        let network = host.network("n", nat("10.77.0.1/24")).await;
        let first = server_pid(&host, &network).await.unwrap();
        let mut events = host.events.watch(None, EventFilter::default()).await.unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(first).unwrap(), rustix::process::Signal::KILL)
            .unwrap();
        let told = loop {
            let event = tokio::time::timeout(DEADLINE, events.next()).await.unwrap().unwrap().unwrap();
            if event.kind == "network.degraded" {
                break event;
            }
        };
        assert_eq!(told.severity, Severity::Warning);
        assert!(told.message.contains("signal: 9"), "{}", told.message);
        let second =
            eventually("another server", async || server_pid(&host, &network).await.filter(|pid| *pid != first)).await;
        host.ready("n").await;
        assert_ne!(first, second);
        let (guest, _) = host.guest(&network, "a", |_| {}).await;
        assert!(guest.dhcp().await.is_some());
    });
}

#[test]
fn a_server_runs_as_its_own_user_and_listens_on_its_bridge_only() {
    in_namespace("dnsmasq's rights", async |host| {
        let _outside = outside();
        host.start(false).await;
        let network = host.network("n", nat("10.77.0.1/24")).await;
        let pid = server_pid(&host, &network).await.unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uid =
            status.lines().find(|line| line.starts_with("Uid:")).unwrap().split_whitespace().nth(1).unwrap().to_owned();
        assert_ne!(uid, "0", "{status}");
        let sockets = command("ss", &["-Hlnut"]);
        for socket in sockets.lines() {
            let local = socket.split_whitespace().nth(4).unwrap();
            assert!(
                local.starts_with("10.77.0.1:") || local.starts_with(&format!("0.0.0.0%{}:", network.interface)),
                "{sockets}"
            );
        }
    });
}

#[test]
fn guests_do_not_notice_that_the_daemon_restarts() {
    in_namespace("restart", async |mut host| {
        let outside = outside();
        outside.serve(8080);
        host.start(false).await;
        let network = host.network("n", nat("10.77.0.1/24")).await;
        let (guest, plan) = host.guest(&network, "a", |plan| plan.rules = vec![rule("in accept tcp * 22")]).await;
        let address = guest.dhcp().await.unwrap()[0].clone();
        eventually("the lease", async || (!host.networks().addresses(plan.mac).await.is_empty()).then_some(())).await;
        let chains = || command("nft", &["list", "table", "bridge", "quantix"]);
        let (before, server) = (chains(), server_pid(&host, &network).await);
        let networks: &Networks = host.restart().await;
        // Nobody has told it of the VM yet, and the filters are as they were.
        let rules = |text: &str| {
            let lasting = |line: &&str| !line.contains("packets") && !line.contains("expires");
            text.lines().filter(lasting).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(rules(&chains()), rules(&before));
        assert_eq!(networks.addresses(plan.mac).await, [address.parse::<std::net::IpAddr>().unwrap()]);
        host.ready("n").await;
        eventually("a new server", async || server_pid(&host, &network).await.filter(|pid| Some(*pid) != server)).await;
        assert_eq!(guest.calls("192.0.2.2", 8080).await.as_deref(), Some("192.0.2.1"));
        host.networks().replug(&plan).await.unwrap();
        assert_eq!(guest.calls("192.0.2.2", 8080).await.as_deref(), Some("192.0.2.1"));
    });
}

#[test]
fn what_nobody_has_any_more_is_swept_and_what_is_not_ours_is_not() {
    in_namespace("sweep", async |mut host| {
        host.start(false).await;
        let kept = host.network("kept", nat("10.77.0.1/24")).await;
        let lost = host.network("lost", nat("10.78.0.1/24")).await;
        let server = server_pid(&host, &lost).await.unwrap();
        command("ip", &["link", "add", "name", "qxb0somebody", "type", "bridge"]);
        // The daemon dies after the record is gone, and before the bridge is.
        let id = lost.id.clone();
        host.store.write(move |tx| tx.delete::<crate::model::Network>(&id, None).map(drop)).await.unwrap();
        host.restart().await;
        let links = command("ip", &["-o", "link"]);
        assert!(
            links.contains(&kept.interface) && links.contains("qxb0somebody") && !links.contains(&lost.interface),
            "{links}"
        );
        assert!(!command("nft", &["list", "ruleset"]).contains(&lost.interface));
        let alive = std::fs::read(format!("/proc/{server}/cmdline")).is_ok_and(|line| !line.is_empty());
        assert!(!alive, "the DHCP server of the lost network runs");
    });
}

#[test]
fn a_second_daemon_changes_nothing() {
    in_namespace("two daemons", async |host| {
        host.start(false).await;
        host.network("n", nat("10.77.0.1/24")).await;
        let before = command("nft", &["list", "ruleset"]);
        let other = TestHost::new(tempfile::tempdir().unwrap());
        other.start(true).await;
        assert!(other.networks().get("default".into()).await.is_err());
        let task =
            other.networks().create(request("m", nat("10.78.0.1/24")), &crate::model::Caller::daemon()).await.unwrap();
        let task = other.tasks.wait(&task.id, Some(DEADLINE)).await.unwrap();
        assert!(task.error.unwrap().message.contains("Another quantix-node"));
        assert_eq!(command("nft", &["list", "ruleset"]), before);
    });
}

#[test]
fn the_default_network_is_made_once() {
    in_namespace("default once", async |mut host| {
        // The host reaches what would be taken first.
        command("ip", &["link", "add", "dummy0", "type", "veth", "peer", "name", "dummy1"]);
        command("ip", &["addr", "add", "10.80.0.77/24", "dev", "dummy0"]);
        command("ip", &["link", "set", "dummy0", "up"]);
        host.start(true).await;
        let network = host.ready("default").await;
        assert_eq!(network.subnet().unwrap().to_string(), "10.80.1.1/24");
        let task = host.networks().delete("default".into(), None, &crate::model::Caller::daemon()).await.unwrap();
        host.tasks.wait(&task.id, Some(DEADLINE)).await.unwrap();
        host.restart_with(true).await;
        assert!(host.networks().get("default".into()).await.is_err());
    });
}

#[test]
fn a_host_without_nft_says_what_is_missing() {
    in_namespace("no nft", async |host| {
        let directory = tempfile::tempdir().unwrap();
        host.start(false).await;
        host.networks().world().await.look_for_nft(directory.path().join("nft"));
        let made =
            host.networks().create(request("n", nat("10.77.0.1/24")), &crate::model::Caller::daemon()).await.unwrap();
        host.tasks.wait(&made.id, Some(DEADLINE)).await.unwrap();
        let network = host
            .condition(
                "n",
                |condition| matches!(condition, Condition::Degraded(reason) if reason.contains("nft is missing")),
            )
            .await;
        let plan = host.plan(&network, "a", |_| {}).await;
        let refused = host.networks().plug(&plan).await.unwrap_err();
        assert!(refused.message().contains("install nftables"), "{refused}");
        assert!(!command("ip", &["-o", "link"]).contains("qxt"), "no tap without filters");
        // It is installed: the network works without anybody asking.
        host.networks().world().await.look_for_nft("nft".into());
        host.ready("n").await;
    });
}

#[test]
fn a_host_without_dnsmasq_says_what_is_missing_and_serves_when_it_is_there() {
    in_namespace("no dnsmasq", async |host| {
        host.start(false).await;
        let program = host.directory.path().join("dnsmasq");
        host.networks().world().await.look_for_dnsmasq(program.clone());
        let made = host.networks().create(request("n", nat("10.77.0.1/24")), &crate::model::Caller::daemon()).await;
        let task = host.tasks.wait(&made.unwrap().id, Some(DEADLINE)).await.unwrap();
        assert_eq!(task.error, None, "the network is there, and is tried again");
        let missing = |c: &Condition| matches!(c, Condition::Degraded(why) if why.contains("install dnsmasq-base"));
        let network = host.condition("n", missing).await;
        // Guests with addresses of their own can use it all the same.
        let (guest, _) = host.guest(&network, "a", |_| {}).await;
        guest.address("10.77.0.9/24", None);
        assert!(guest.pings("10.77.0.1").await);
        std::os::unix::fs::symlink("/usr/sbin/dnsmasq", &program).unwrap();
        host.ready("n").await;
    });
}
