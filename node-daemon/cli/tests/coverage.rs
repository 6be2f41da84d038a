//! Every method of the API can be reached by a command: each command of the table is run, and the node writes down what it
//! was asked. A method without a row fails, and so does a row whose command does not call its method.

mod double;

use std::collections::BTreeSet;

use double::{Answer, Node};
use quantix_api::json::POOL;
use quantix_api::v1::{Network, Task, TaskState, Vm};

/// A command for each method.
const COMMANDS: &[(&str, &str)] = &[
    ("CancelTask", "task cancel t"),
    ("CloneVm", "vm clone a b"),
    ("CloneVolume", "volume clone a b"),
    ("ConsoleVm", "vm console a"),
    ("CreateNetwork", "net create a --nat"),
    ("CreatePool", "pool create a --path /x"),
    ("CreateToken", "token create a --role viewer"),
    ("CreateUser", "user create a --role viewer --password-file {dir}/secret"),
    ("CreateVm", "vm create a --image b"),
    ("CreateVolume", "volume create a --size 1G"),
    ("DeleteImage", "image delete a"),
    ("DeleteNetwork", "net delete a"),
    ("DeletePool", "pool delete a"),
    ("DeleteToken", "token delete a"),
    ("DeleteUser", "user delete a"),
    ("DeleteVm", "vm delete a"),
    ("DeleteVolume", "volume delete a"),
    ("GetHardware", "host hardware"),
    ("GetHost", "host"),
    ("GetHostBootReport", "host boot-report"),
    ("GetImage", "image show a"),
    ("GetMetrics", "host metrics"),
    ("GetNetwork", "net show a"),
    ("GetPool", "pool show a"),
    ("GetTask", "task show t"),
    ("GetVm", "vm show a"),
    ("GetVmBootReport", "vm boot-report a"),
    ("GetVmIsolation", "vm isolation a"),
    ("GetVmLog", "vm logs a"),
    ("GetVmStatistics", "vm stats a"),
    ("GetVolume", "volume show a"),
    ("ImportImage", "image add a https://x/y"),
    ("ListAuditEntries", "audit"),
    ("ListEvents", "events"),
    ("ListImages", "image ls"),
    ("ListLeases", "net leases a"),
    ("ListNetworks", "net ls"),
    ("ListPools", "pool ls"),
    ("ListTasks", "task ls"),
    ("ListTokens", "token ls"),
    ("ListUsers", "user ls"),
    ("ListVms", "vm ls"),
    ("ListVolumes", "volume ls"),
    ("Login", "login --user a --password-file {dir}/secret"),
    ("Logout", "logout"),
    ("PauseVm", "vm pause a"),
    ("ResetVm", "vm reset a"),
    ("ResizeVolume", "volume resize a 2G"),
    ("ResumeVm", "vm resume a"),
    ("SetPassword", "user passwd a --password-file {dir}/secret"),
    ("Setup", "setup --user a --setup-token-file {dir}/secret --password-file {dir}/secret"),
    ("StartVm", "vm start a"),
    ("StopVm", "vm stop a"),
    ("UpdateNetwork", "net edit a --dns 9.9.9.9"),
    ("UpdateUser", "user edit a --role admin"),
    ("UpdateVm", "vm edit a --cpus 2"),
    ("UpdateVolume", "volume edit a --rename b"),
    ("UploadImage", "image add a {dir}/secret"),
    ("WaitTask", "task wait t"),
    ("WatchEvents", "events --follow"),
    ("WatchTask", "task watch t"),
    ("WatchVmStatistics", "vm stats a --watch"),
    ("WhoAmI", "whoami"),
];

/// Of these an empty answer would end the command before its call, or has to say something.
fn node() -> Node {
    let task = Task { id: "t".into(), state: TaskState::Succeeded.into(), ..Task::default() };
    let nat = quantix_api::v1::network::Kind::Nat(quantix_api::v1::NatNetwork::default());
    let node = Node::start([
        ("GetTask", Answer::one(&task)),
        ("GetVm", Answer::one(&Vm { name: "a".into(), ..Vm::default() })),
        ("GetNetwork", Answer::one(&Network { kind: Some(nat), ..Network::default() })),
        ("UploadImage", Answer::Upload { damaged: false }),
    ]);
    std::fs::write(node.path("secret"), "a-long-password\n").unwrap();
    node
}

#[test]
fn every_method_has_a_command() {
    let methods: BTreeSet<String> = POOL
        .services()
        .flat_map(|service| service.methods().collect::<Vec<_>>())
        .map(|method| method.name().to_owned())
        .collect();
    let covered: BTreeSet<String> = COMMANDS.iter().map(|(method, _)| (*method).to_owned()).collect();
    let missing: Vec<&String> = methods.difference(&covered).collect();
    assert!(missing.is_empty(), "no command of qx reaches {missing:?}: write one, and a row for it here");
    let unknown: Vec<&String> = covered.difference(&methods).collect();
    assert!(unknown.is_empty(), "the API has no {unknown:?} any more");
}

#[test]
fn each_command_calls_its_method() {
    let node = node();
    let mut faults = Vec::new();
    for (method, command) in COMMANDS {
        let before = node.calls.methods().len();
        let ran = node.qx(command);
        let called = node.calls.methods().split_off(before);
        if !called.iter().any(|call| call == method) {
            faults.push(format!("qx {command}: called {called:?} and not {method} ({})", ran.err.trim()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
