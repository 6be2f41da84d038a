//! Judging, without a process: one fact broken at a time, each must show, and no other.

use super::fds::{RawFd, UnixSockets};
use super::judge::{Surroundings, judge};
use super::read::{self, Measured, ThreadStatus};
use super::watch::{Change, change};
use super::*;
use crate::vm::launch::{FileIdentity, Grant, ResourceLimit};

const OWNER: u32 = 0x7000_0000;

fn identity(inode: u64) -> FileIdentity {
    FileIdentity { device: 8, inode }
}

fn grant(number: i32, name: &str, target: &str, inode: u64) -> Grant {
    Grant { number, name: name.to_owned(), target: target.to_owned(), identity: Some(identity(inode)) }
}

fn expected() -> Expected {
    let record = LaunchRecord {
        vm: Id::new(),
        pid: 700,
        start_ticks: 1,
        owner: OWNER,
        cgroup: Some("/quantix.slice/vm-x".to_owned()),
        missing_limits: vec!["memory.max".to_owned()],
        resource_limits: vec![ResourceLimit { name: "Max open files".to_owned(), value: 4096 }],
        oom_score_adj: 200,
        program: identity(1),
        grants: vec![
            grant(4, "control", "socket:[50]", 50),
            grant(6, "disk0", "/pool/disk0.raw", 60),
            Grant { number: 3, name: "status".to_owned(), target: "/proc/700/status".to_owned(), identity: None },
        ],
    };
    Expected { record, landlock_reported: Some(true) }
}

fn thread() -> ThreadStatus {
    let four = format!("{OWNER} {OWNER} {OWNER} {OWNER}");
    ThreadStatus {
        uids: four.clone(),
        gids: four,
        groups: String::new(),
        capabilities: [0; 5],
        no_new_privs: true,
        seccomp_mode: 2,
        seccomp_filters: 1,
    }
}

fn fd(number: i32, target: &str, inode: u64) -> RawFd {
    RawFd { number, target: target.to_owned(), identity: Some(identity(inode)) }
}

fn sockets() -> UnixSockets {
    UnixSockets::parse(
        "Num       RefCount Protocol Flags    Type St Inode Path\n\
         0000000000000000: 00000002 00000000 00010000 0005 01    50 /run/quantix/vm/x/control.sock\n\
         0000000000000000: 00000003 00000000 00000000 0005 03    51 /run/quantix/vm/x/control.sock\n\
         0000000000000000: 00000003 00000000 00000000 0001 03    52\n\
         0000000000000000: 00000003 00000000 00000000 0002 03    53\n\
         0000000000000000: 00000003 00000000 00000000 0001 03    54 /run/dbus\n",
    )
}

fn measured() -> Measured {
    let four = |kind: &'static str| (kind, "its:[1]");
    Measured {
        threads: vec![thread(), thread()],
        uid_map: format!("1 {OWNER} 1"),
        gid_map: format!("1 {OWNER} 1"),
        setgroups: "deny".to_owned(),
        mounts: vec![("tmpfs".to_owned(), "ro,nosuid,ro".to_owned())],
        root_entries: 0,
        namespaces: Namespaces::of(&read::NAMESPACES.map(four)),
        cgroup: Some("/quantix.slice/vm-x".to_owned()),
        limits: vec![("Max open files".to_owned(), "4096".to_owned(), "4096".to_owned())],
        session: 700,
        environment_bytes: 0,
        program: Some(identity(1)),
        program_name: "/usr/bin/quantix-vmm".to_owned(),
        oom_score_adj: "200".to_owned(),
        proc_owner: 0,
        fds: vec![
            fd(3, "/proc/700/status", 900),
            fd(4, "socket:[50]", 50),
            fd(5, "socket:[51]", 51),
            fd(6, "anon_inode:[eventfd]", 7),
            fd(7, "socket:[52]", 52),
            fd(9, "/pool/disk0.raw", 60),
        ],
        sockets: sockets(),
    }
}

fn receipt(measured: &Measured, expected: &Expected, neighbours: &Neighbours) -> Receipt {
    let host = Namespaces::of(&read::NAMESPACES.map(|kind| (kind, "host:[1]")));
    judge(700, measured, expected, &Surroundings { host: &host, neighbours })
}

fn broken(measured: &Measured) -> Vec<String> {
    let receipt = receipt(measured, &expected(), &Neighbours::default());
    receipt.facts.into_iter().filter(|fact| !fact.ok).map(|fact| fact.name).collect()
}

#[test]
fn a_vmm_as_it_must_be_is_intact_and_its_files_have_names() {
    let receipt = receipt(&measured(), &expected(), &Neighbours::default());
    assert!(receipt.intact(), "{:?}", receipt.broken());
    let names: Vec<&str> = receipt.fds.iter().map(|fd| fd.name.as_str()).collect();
    assert_eq!(names, ["status", "control", "", "", "", "disk0"]);
    let missing = receipt.facts.iter().find(|fact| fact.name == "cgroup.limits").unwrap();
    assert!(missing.ok && missing.measured.contains("memory.max"));
}

#[test]
fn each_weakness_shows_as_its_fact_and_no_other() {
    type Harm = fn(&mut Measured);
    let table: [(&str, Harm); 20] = [
        ("uid", |m| m.threads[1].uids = "0 0 0 0".to_owned()),
        ("gid", |m| m.threads[0].gids = "0 0 0 0".to_owned()),
        ("groups", |m| m.threads[0].groups = "27".to_owned()),
        ("uid_map", |m| m.uid_map = "0 0 4294967295".to_owned()),
        ("setgroups", |m| m.setgroups = "allow".to_owned()),
        ("program", |m| m.program = Some(identity(2))),
        ("session", |m| m.session = 1),
        ("environment", |m| m.environment_bytes = 9),
        ("oom_score_adj", |m| m.oom_score_adj = "-1000".to_owned()),
        ("capabilities", |m| m.threads[1].capabilities[3] = 1),
        ("no_new_privs", |m| m.threads[1].no_new_privs = false),
        ("dumpable", |m| m.proc_owner = OWNER),
        ("root", |m| m.mounts[0].1 = "rw,nosuid,rw".to_owned()),
        ("root", |m| m.mounts.push(("proc".to_owned(), "ro".to_owned()))),
        ("root", |m| m.root_entries = 1),
        ("cgroup", |m| m.cgroup = Some("/".to_owned())),
        ("rlimit.nofile", |m| m.limits[0].2 = "unlimited".to_owned()),
        ("fds", |m| m.fds.push(fd(10, "/etc/passwd", 77))),
        ("fds", |m| m.fds.push(fd(10, "socket:[53]", 53))),
        ("fds", |m| m.fds.push(fd(10, "socket:[999]", 999))),
    ];
    for (name, harm) in table {
        let mut measured = measured();
        harm(&mut measured);
        assert_eq!(broken(&measured), [name]);
    }
    let mut bare = measured();
    (bare.threads[1].seccomp_mode, bare.threads[1].seccomp_filters) = (0, 0);
    assert_eq!(broken(&bare), ["seccomp", "seccomp_threads"]);
}

#[test]
fn a_namespace_must_be_neither_the_hosts_nor_a_neighbours() {
    let mut shared = measured();
    shared.namespaces =
        Namespaces::of(&read::NAMESPACES.map(|kind| (kind, if kind == "net" { "host:[1]" } else { "own" })));
    assert_eq!(broken(&shared), ["namespace.net"]);
    let (mut neighbours, neighbour, ours) = (Neighbours::default(), Id::new(), expected());
    neighbours.learn(&neighbour, &Namespaces::of(&[("ipc", "its:[1]")]));
    assert!(!receipt(&measured(), &ours, &neighbours).intact());
    neighbours.forget(&neighbour);
    neighbours.learn(&ours.record.vm, &Namespaces::of(&[("ipc", "its:[1]")]));
    assert!(receipt(&measured(), &ours, &neighbours).intact(), "its own from before is no neighbour's");
}

#[test]
fn what_landlock_is_worth_is_said_plainly() {
    for (reported, ok) in [(Some(true), true), (Some(false), false), (None, false)] {
        let expected = Expected { landlock_reported: reported, ..expected() };
        let receipt = receipt(&measured(), &expected, &Neighbours::default());
        assert_eq!(receipt.intact(), ok, "{reported:?}");
    }
}

#[test]
fn a_change_is_told_once() {
    let set = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<BTreeSet<_>>();
    let table: [(&[&str], &[&str], Option<Change>); 5] = [
        (&[], &[], None),
        (&[], &["uid"], Some(Change::Drift)),
        (&["uid"], &["uid"], None),
        (&["uid"], &["uid", "fds"], Some(Change::Drift)),
        (&["uid"], &[], Some(Change::Restored)),
    ];
    for (before, now, told) in table {
        assert_eq!(change(&set(before), &set(now)), told, "{before:?} {now:?}");
    }
}

#[test]
fn the_kernels_lines_are_read() {
    let status = "Name:\tquantix-vmm\nUid:\t1\t1\t1\t1\nGid:\t2\t2\t2\t2\nGroups:\t\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t0\n\
        CapBnd:\t000001ffffffffff\nCapAmb:\t0\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
    let thread = read::status(status);
    assert_eq!((thread.uids.as_str(), thread.groups.as_str()), ("1 1 1 1", ""));
    assert_eq!(thread.capabilities[3], 0x1ff_ffff_ffff);
    assert!(thread.no_new_privs && thread.seccomp_mode == 2 && thread.seccomp_filters == 1);
    assert_eq!(read::status("").capabilities, [u64::MAX; 5], "what is missing counts as the worst");
    let line = "1303 1 0:55 / / ro,nosuid,nodev,noexec,relatime - tmpfs none ro,size=4k";
    assert_eq!(
        read::mount(line).unwrap(),
        ("tmpfs".to_owned(), "ro,nosuid,nodev,noexec,relatime,ro,size=4k".to_owned())
    );
    let line = "Max open files            1024                 524288               files     ";
    assert_eq!(read::limit(line).unwrap(), ("Max open files".to_owned(), "1024".to_owned(), "524288".to_owned()));
}

#[test]
fn a_process_that_is_gone_is_told_apart() {
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    child.wait().unwrap();
    assert!(measure(pid, &expected(), &Neighbours::default()).unwrap_err().is_gone());
}
