//! What was read, held against what must be: one row a fact. Pure.

use super::read::{Measured, NAMESPACES, ThreadStatus};
use super::{Expected, Fact, FdFact, Namespaces, Neighbours, Receipt, fds};
use crate::model::Id;
use crate::vm::launch::{INSIDE_ID, LaunchRecord};

/// What other processes have.
pub(super) struct Surroundings<'a> {
    pub(super) host: &'a Namespaces,
    pub(super) neighbours: &'a Neighbours,
}

/// How many unexpected descriptors a fact names.
const NAMED: usize = 5;

fn fact(name: impl Into<String>, expected: impl Into<String>, measured: impl Into<String>, ok: bool) -> Fact {
    Fact { name: name.into(), expected: expected.into(), measured: measured.into(), ok }
}

/// A fact that is text: equal or not.
fn equal(name: &str, expected: impl Into<String>, measured: impl Into<String>) -> Fact {
    let (expected, measured) = (expected.into(), measured.into());
    let ok = expected == measured;
    Fact { name: name.to_owned(), expected, measured, ok }
}

/// The receipt.
pub(super) fn judge(pid: u32, measured: &Measured, expected: &Expected, around: &Surroundings<'_>) -> Receipt {
    let record = &expected.record;
    let fds = fds::judge(&measured.fds, &record.grants, &measured.sockets);
    let mut facts = identity(pid, measured, record);
    facts.extend(rights(measured, expected));
    facts.extend(view(measured, record));
    facts.extend(NAMESPACES.map(|kind| namespace(kind, measured, &record.vm, around)));
    facts.extend(limits(measured, record));
    facts.push(table(&fds));
    Receipt { pid, facts, fds, namespaces: measured.namespaces.clone() }
}

/// Who it is.
fn identity(pid: u32, measured: &Measured, record: &LaunchRecord) -> Vec<Fact> {
    let owner = record.owner;
    let four = format!("{owner} {owner} {owner} {owner}");
    let program = match &measured.program {
        Some(program) if *program == record.program => "the VMM that was started".to_owned(),
        _ => measured.program_name.clone(),
    };
    vec![
        equal("uid", four.clone(), of_all(&measured.threads, |thread| thread.uids.clone())),
        equal("gid", four, of_all(&measured.threads, |thread| thread.gids.clone())),
        equal("groups", "", of_all(&measured.threads, |thread| thread.groups.clone())),
        equal("uid_map", format!("{INSIDE_ID} {owner} 1"), measured.uid_map.clone()),
        equal("gid_map", format!("{INSIDE_ID} {owner} 1"), measured.gid_map.clone()),
        equal("setgroups", "deny", measured.setgroups.clone()),
        equal("program", "the VMM that was started", program),
        equal("session", pid.to_string(), measured.session.to_string()),
        equal("environment", "0 bytes", format!("{} bytes", measured.environment_bytes)),
        equal("oom_score_adj", record.oom_score_adj.to_string(), measured.oom_score_adj.clone()),
    ]
}

/// What it may do.
fn rights(measured: &Measured, expected: &Expected) -> Vec<Fact> {
    let threads = &measured.threads;
    let count = threads.len();
    let held = threads.iter().flat_map(|thread| thread.capabilities).fold(0, |all, set| all | set);
    let without = |has: fn(&ThreadStatus) -> bool| threads.iter().filter(|thread| !has(thread)).count();
    let filtered = count - without(|thread| thread.seccomp_mode == 2 && thread.seccomp_filters > 0);
    let privs = if without(|thread| thread.no_new_privs) == 0 { "on" } else { "off" };
    let fewest = threads.iter().map(|thread| thread.seccomp_filters).min().unwrap_or(0);
    let dumpable = if measured.proc_owner == 0 { "no" } else { "yes" };
    vec![
        equal(
            "capabilities",
            "none in any set",
            if held == 0 { "none in any set".to_owned() } else { format!("{held:#x}") },
        ),
        equal("no_new_privs", "on", privs),
        fact("seccomp", "at least 1 filter", format!("{fewest} filters"), fewest > 0),
        equal("seccomp_threads", format!("{count} of {count}"), format!("{filtered} of {count}")),
        landlock(expected.landlock_reported),
        equal("dumpable", "no", dumpable),
    ]
}

/// The one fact that is not the kernel's own word, because the kernel gives none.
fn landlock(reported: Option<bool>) -> Fact {
    let measured = match reported {
        Some(true) => "in force, as the VMM reported before its guest ran (the kernel does not show it to others)",
        Some(false) => "not in force, as the VMM reported before its guest ran",
        None => "not known: the kernel does not show it to others, and the VMM was not asked",
    };
    fact("landlock", "in force", measured, reported == Some(true))
}

/// What it sees.
fn view(measured: &Measured, record: &LaunchRecord) -> Vec<Fact> {
    let root = match measured.mounts.as_slice() {
        [(kind, options)] if options.split(',').any(|option| option == "ro") => {
            format!("{} names, one read-only {kind}", measured.root_entries)
        }
        mounts => format!("{} names, {} mounts", measured.root_entries, mounts.len()),
    };
    let cgroup = match (&record.cgroup, &measured.cgroup) {
        (None, _) => {
            fact("cgroup", "none: this host has no cgroup v2", measured.cgroup.clone().unwrap_or_default(), true)
        }
        (Some(expected), measured) => equal("cgroup", expected.clone(), measured.clone().unwrap_or_default()),
    };
    let mut facts = vec![equal("root", "0 names, one read-only tmpfs", root), cgroup];
    if !record.missing_limits.is_empty() {
        // Not a drift: this host never had them. The receipt says so all the same.
        let missing = format!("not set, for this host lacks the controllers: {}", record.missing_limits.join(" "));
        facts.push(fact("cgroup.limits", "set as far as this host can", missing, true));
    }
    facts
}

fn namespace(kind: &'static str, measured: &Measured, vm: &Id, around: &Surroundings<'_>) -> Fact {
    let link = measured.namespaces.get(kind);
    let name = format!("namespace.{kind}");
    if link.is_empty() || link == around.host.get(kind) {
        return fact(name, "its own", format!("the host's, {link}"), false);
    }
    match around.neighbours.other(vm, link) {
        Some(other) => fact(name, "its own", format!("shared with VM {other}, {link}"), false),
        None => fact(name, "its own", format!("its own, {link}"), true),
    }
}

/// Names of limits in the receipt.
const LIMIT_NAMES: [(&str, &str); 9] = [
    ("Max core file size", "rlimit.core"),
    ("Max open files", "rlimit.nofile"),
    ("Max processes", "rlimit.nproc"),
    ("Max locked memory", "rlimit.memlock"),
    ("Max msgqueue size", "rlimit.msgqueue"),
    ("Max pending signals", "rlimit.sigpending"),
    ("Max nice priority", "rlimit.nice"),
    ("Max realtime priority", "rlimit.rtprio"),
    ("Max file size", "rlimit.fsize"),
];

fn limits(measured: &Measured, record: &LaunchRecord) -> Vec<Fact> {
    let judged = |limit: &crate::vm::launch::ResourceLimit| {
        let name = LIMIT_NAMES.iter().find(|(kernel, _)| *kernel == limit.name).map_or("rlimit", |(_, name)| name);
        let found = measured.limits.iter().find(|(kernel, ..)| *kernel == limit.name);
        let hard = found.map_or("unknown", |(_, _, hard)| hard);
        // Lower than asked for where the daemon itself had no more to give.
        let ok = hard.parse::<u64>().is_ok_and(|hard| hard <= limit.value);
        fact(name, format!("at most {}", limit.value), hard, ok)
    };
    record.resource_limits.iter().map(judged).collect()
}

fn table(fds: &[FdFact]) -> Fact {
    let unexpected: Vec<&str> = fds.iter().filter(|fd| fd.unexpected).map(|fd| fd.target.as_str()).collect();
    if unexpected.is_empty() {
        return fact("fds", "only those given or made by itself", "only those given or made by itself", true);
    }
    let named = unexpected.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    fact("fds", "only those given or made by itself", format!("{} strange: {named}", unexpected.len()), false)
}

/// One value when all threads agree, else all of them.
fn of_all(threads: &[ThreadStatus], value: impl Fn(&ThreadStatus) -> String) -> String {
    let mut values: Vec<String> = threads.iter().map(value).collect();
    values.sort();
    values.dedup();
    values.join("; ")
}
