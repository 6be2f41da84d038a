//! Networks between guests, and to the world.

use anyhow::{Result, ensure};
use quantix_e2e::node::PATIENCE;
use quantix_e2e::{Bench, Case, NodeBench, case, with_node};

/// The cases of this file.
pub fn cases() -> Vec<Case> {
    vec![
        case("network::guests_of_a_nat_network_talk", guests_of_a_nat_network_talk),
        case("network::isolated_networks_do_not_meet", isolated_networks_do_not_meet),
        case("network::rules_and_spoofing", rules_and_spoofing),
    ]
}

/// Answers any number of TCP connections on port 7000 with its own name.
const SERVE: &str = "fact serves yes; while :; do echo \"this is $($b hostname)\" | $b nc -l -p 7000; done";

/// Asks the server until it answers, or the tries are over.
fn ask(address: &str) -> String {
    format!(
        "tries=0; heard=; while [ -z \"$heard\" ] && [ $tries -lt 15 ]; do
             heard=$(echo hello | $b timeout 5 $b nc -w 3 {address} 7000 2>/dev/null); tries=$((tries + 1)); done
         fact heard \"${{heard:-nothing}}\""
    )
}

/// Asks three times only: silence is what is expected.
fn knock(address: &str) -> String {
    ask(address).replace("-lt 15", "-lt 3")
}

fn serve(on: &NodeBench<'_>, name: &str, nic: &str) -> Result<String> {
    on.start(name, &format!("--network {nic}"), "lab.dhcp=1", SERVE)?;
    on.fact(name, "serves")?;
    on.fact(name, "address")
}

/// Two guests by TCP and by name, outwards by masquerading, and the lease in the API.
fn guests_of_a_nat_network_talk(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm asks", "vm answers", "net both"], |on| {
        let outside = "ip netns del outside 2>/dev/null || true
            ip netns add outside; ip link add out0 type veth peer name out1 netns outside
            ip address add 192.0.2.1/24 dev out0; ip link set out0 up
            ip -n outside address add 192.0.2.2/24 dev out1; ip -n outside link set out1 up; ip -n outside link set lo up";
        bench.lab.script(outside, PATIENCE)?;
        on.node.qx("net create both --nat 10.90.1.1/24", PATIENCE)?;
        let address = serve(on, "answers", "both")?;
        ensure!(address.starts_with("10.90.1."), "DHCP gave {address:?}");
        let ask = format!(
            "{}; $b ping -c 2 -W 5 192.0.2.2 >/dev/null; fact outside $?; $b ping -c 2 -W 5 answers >/dev/null; fact name $?",
            ask(&address)
        );
        on.start("asks", "--network both", "lab.dhcp=1", &ask)?;
        ensure!(on.fact("asks", "heard")? == "this is answers", "The other guest was not heard");
        ensure!(on.fact("asks", "outside")? == "0", "The way outwards is closed");
        ensure!(on.fact("asks", "name")? == "0", "The other guest's name is not known");
        let leases = on.node.qx("net leases both", PATIENCE)?;
        ensure!(leases.contains(&address), "The lease of {address} is not shown:\n{leases}");
        bench.lab.script("ip netns del outside", PATIENCE)?;
        Ok(())
    })
}

fn isolated_networks_do_not_meet(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm left", "vm right", "vm stranger", "net one", "net two"], |on| {
        on.node.qx("net create one --isolated 10.90.2.1/24", PATIENCE)?;
        on.node.qx("net create two --isolated 10.90.3.1/24", PATIENCE)?;
        let address = serve(on, "left", "one")?;
        on.start("right", "--network one", "lab.dhcp=1", &ask(&address))?;
        ensure!(on.fact("right", "heard")? == "this is left", "Guests of one network do not hear each other");
        // By the router, if there were one; and on its own link.
        let try_all = format!("$b route add -net 10.90.2.0/24 eth0; {}", knock(&address));
        on.start("stranger", "--network two", "lab.dhcp=1", &try_all)?;
        ensure!(on.fact("stranger", "heard")? == "nothing", "A guest of another network was heard");
        Ok(())
    })
}

/// A rule closes a port, and a guest cannot take another's address.
fn rules_and_spoofing(bench: &Bench) -> Result<()> {
    with_node(bench, &["vm shut", "vm visitor", "net ruled"], |on| {
        on.node.qx("net create ruled --nat 10.90.4.1/24", PATIENCE)?;
        let closed = "ruled --rule in,drop,protocol=tcp,ports=7000";
        let address = serve(on, "shut", closed)?;
        let visit = format!(
            "{}; $b ping -c 2 -W 5 {address} >/dev/null; fact ping $?
             $b ifconfig eth0 10.90.4.200 netmask 255.255.255.0; $b ping -c 2 -W 3 {address} >/dev/null; fact spoofed $?",
            knock(&address)
        );
        on.start("visitor", "--network ruled,address=10.90.4.77", "lab.dhcp=1", &visit)?;
        ensure!(on.fact("visitor", "address")? == "10.90.4.77", "The fixed address was not given");
        ensure!(on.fact("visitor", "heard")? == "nothing", "The closed port answered");
        ensure!(on.fact("visitor", "ping")? == "0", "What no rule names does not pass");
        ensure!(on.fact("visitor", "spoofed")? != "0", "A guest passed with an address that is not its own");
        Ok(())
    })
}
