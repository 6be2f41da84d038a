//! Which entries of the lists a recorded run used, and whether it asked for anything else inside the sandbox.
//!
//! A list that nobody prunes grows. End-to-end tests record their runs and let this say what no run needed:
//!
//! ```text
//! strace -f --decode-pids=comm -o TRACE quantix-vmm run …
//! ```
//!
//! Pure; no thread of a running VMM comes here.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::seccomp::{Entry, Role, When};

/// What recorded runs used. Several traces can be added to one.
#[derive(Debug, Default)]
pub struct Usage {
    /// Role (by its place in [`Role::ALL`]) and place of the entry in the role's lists.
    used: BTreeSet<(usize, usize)>,
    strangers: Vec<String>,
}

impl Usage {
    /// Adds the calls of one trace, each thread's from the moment its filter was installed.
    pub fn add(&mut self, trace: &str) {
        let (mut seen, mut inside) = (BTreeSet::new(), BTreeSet::new());
        let mut main_is_inside = false;
        for line in trace.lines() {
            let Some(call) = Call::parse(line) else { continue };
            let is_new = seen.insert(call.thread);
            // A thread that the main thread starts inside the sandbox has no filter of its own to announce it.
            if call.name == "seccomp" || is_new && main_is_inside {
                inside.insert(call.thread);
                main_is_inside |= role_of(call.thread_name) == Role::Main;
            }
            if call.name != "seccomp" && inside.contains(call.thread) {
                self.count(&call, line);
            }
        }
    }

    fn count(&mut self, call: &Call<'_>, line: &str) {
        let role = role_of(call.thread_name);
        let place = role.entries().position(|entry| matches(entry, call));
        match (Role::ALL.iter().position(|one| *one == role), place) {
            (Some(role), Some(place)) => drop(self.used.insert((role, place))),
            _ => self.strangers.push(line.to_owned()),
        }
    }

    /// Entries that no run used and that do not claim to be seldom used. What is in several roles' lists, because the run time
    /// needs it, is used when one of them used it.
    pub fn superfluous(&self) -> impl Iterator<Item = (Role, &'static Entry)> {
        let used = |entry: &Entry| {
            self.used.iter().any(|(role, place)| {
                let found = Role::ALL.get(*role).and_then(|role| role.entries().nth(*place));
                found.is_some_and(|found| (found.name, found.reason) == (entry.name, entry.reason))
            })
        };
        self.unused().filter(move |(_, entry)| !entry.is_seldom() && !used(entry))
    }

    /// Entries that no run used.
    pub fn unused(&self) -> impl Iterator<Item = (Role, &'static Entry)> {
        let all = Role::ALL.into_iter().enumerate().flat_map(|(number, role)| {
            role.entries().enumerate().map(move |(place, entry)| ((number, place), (role, entry)))
        });
        all.filter(|(key, _)| !self.used.contains(key)).map(|(_, entry)| entry)
    }

    /// Lines with a call, made inside the sandbox, that the role's lists do not have: the last words of a thread.
    pub fn strangers(&self) -> &[String] {
        &self.strangers
    }
}

/// The start of a call: `1234<vcpu0> ioctl(10, KVM_RUN, 0) = 0`.
struct Call<'a> {
    thread: &'a str,
    thread_name: &'a str,
    name: &'a str,
    arguments: &'a str,
}

impl<'a> Call<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (id, rest) = line.split_once('<')?;
        let (thread_name, rest) = rest.split_once("> ")?;
        let (name, arguments) = rest.trim_start().split_once('(')?;
        // What remains of an interrupted call, signals and ends of threads are no starts.
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        is_name.then_some(Self { thread: id.trim(), thread_name, name, arguments })
    }
}

/// Threads are named after their roles.
fn role_of(thread_name: &str) -> Role {
    if thread_name.starts_with("vcpu") {
        Role::Vcpu
    } else if thread_name.starts_with("io") {
        Role::Io
    } else {
        Role::Main
    }
}

fn matches(entry: &Entry, call: &Call<'_>) -> bool {
    if entry.name.strip_prefix("SYS_") != Some(call.name) {
        return false;
    }
    // The constant in a condition is spelled as strace spells it: the last name in `request(r::KVM_RUN)`.
    let word = entry.spelling.trim_end_matches(')').rsplit([':', ' ', '(']).next().unwrap_or_default();
    let has_word = call.arguments.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|one| one == word);
    match entry.when {
        When::Always | When::Answer { .. } | When::OwnProcess { .. } => true,
        When::Equal { .. } => has_word,
        When::Without { .. } => !has_word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
7<quantix-vmm> openat(AT_FDCWD, \"/dev/kvm\", O_RDWR|O_CLOEXEC) = 3
8<quantix-vmm> prctl(PR_SET_NAME, \"vcpu0\") = 0
8<vcpu0> seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=104, filter=0x7fac028413c8}) = 0
7<quantix-vmm> openat(AT_FDCWD, \"/dev/null\", O_RDWR|O_CLOEXEC) = 4
7<quantix-vmm> seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=128, filter=0x7ffd1b5e8118}) = 0
8<vcpu0> ioctl(10, KVM_RUN <unfinished ...>
7<quantix-vmm> mmap(NULL, 266240, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0) = 0x7fabfa7bf000
8<vcpu0> <... ioctl resumed>, 0)    = -1 EINTR (Interrupted system call)
7<quantix-vmm> mmap(NULL, 4096, PROT_READ|PROT_EXEC, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = ?
8<vcpu0> ioctl(10, KVM_GET_REGS, {rax=0x10}) = 0
9<worker> madvise(0x7fabfa7bf000, 4096, MADV_DONTNEED) = 0
7<quantix-vmm> +++ killed by SIGSYS +++
";

    #[test]
    fn a_trace_is_held_against_the_lists() {
        let mut usage = Usage::default();
        usage.add(TRACE);
        let unused: Vec<_> = usage.unused().map(|(role, entry)| (role, entry.name, entry.spelling)).collect();
        assert!(!unused.contains(&(Role::Vcpu, "SYS_ioctl", "request(r::KVM_RUN)")));
        assert!(!unused.contains(&(Role::Vcpu, "SYS_ioctl", "request(r::KVM_GET_REGS)")));
        assert!(!unused.contains(&(Role::Main, "SYS_mmap", "without(2, PROT_EXEC)")));
        assert!(unused.contains(&(Role::Vcpu, "SYS_ioctl", "request(r::KVM_SET_REGS)")));
        assert!(unused.contains(&(Role::Io, "SYS_mmap", "without(2, PROT_EXEC)")));
        assert!(!unused.contains(&(Role::Main, "SYS_madvise", "equal(2, MADV_DONTNEED)")));
        // The file that was opened while the thread had no filter is no stranger; executable memory is one.
        assert_eq!(usage.strangers().len(), 1);
        assert!(usage.strangers()[0].contains("PROT_EXEC"));
    }
}
