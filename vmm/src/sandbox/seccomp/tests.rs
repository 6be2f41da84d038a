//! Each filter, run by a small BPF machine over every system call number: what is let through is what the list
//! says, and an independent compiler agrees.

use std::collections::{BTreeMap, BTreeSet};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

use super::compile::X86_64;
use super::*;

/// Calls whose number no list may hold, whatever the role and the arguments.
const NEVER: &[i64] = &[
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_creat,
    libc::SYS_open_by_handle_at,
    libc::SYS_memfd_create,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_register,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_chdir,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_seccomp,
    libc::SYS_pkey_mprotect,
    libc::SYS_remap_file_pages,
    libc::SYS_shmat,
    libc::SYS_personality,
    libc::SYS_modify_ldt,
    libc::SYS_arch_prctl,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_mknod,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_truncate,
    libc::SYS_stat,
    libc::SYS_readlink,
    libc::SYS_access,
    libc::SYS_getdents64,
    libc::SYS_setuid,
    libc::SYS_setresuid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_prlimit64,
    libc::SYS_setrlimit,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_name_to_handle_at,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_process_mrelease,
    libc::SYS_msgget,
    libc::SYS_semget,
    libc::SYS_shmget,
];

/// The machine that the kernel runs a filter on, as far as seccomp programs use it.
fn run(program: &[sock_filter], architecture: u32, number: u32, args: [u64; 6]) -> u32 {
    let word = |at: u32| match at {
        0 => number,
        4 => architecture,
        16..64 => (args[(at as usize - 16) / 8] >> (8 * (at % 8))) as u32,
        _ => panic!("a load from {at}"),
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let instruction = &program[at];
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { instruction.jt } else { instruction.jf });
        match instruction.code {
            0x20 => accumulator = word(instruction.k),
            0x54 => accumulator &= instruction.k,
            0x05 => at += instruction.k as usize,
            0x15 => branch(accumulator == instruction.k),
            0x25 => branch(accumulator > instruction.k),
            0x35 => branch(accumulator >= instruction.k),
            0x45 => branch(accumulator & instruction.k != 0),
            0x06 => return instruction.k,
            code => panic!("instruction {code:#x}"),
        }
    }
}

fn filter(role: Role) -> Vec<sock_filter> {
    let program = role.program();
    let mut code = program.code[..program.len].to_vec();
    if let Some(at) = program.own_process {
        code[at].k = std::process::id();
    }
    code
}

fn verdict(role: Role, number: u32, args: [u64; 6]) -> u32 {
    run(&filter(role), X86_64, number, args)
}

/// What an entry says of a call, read without the compiler.
fn expected(role: Role, number: u32, args: [u64; 6]) -> u32 {
    let low = |arg: u8| args[usize::from(arg)] as u32;
    for entry in role.entries().filter(|entry| entry.number == number) {
        let matches = match entry.when {
            When::Always => true,
            When::Equal { arg, value } => low(arg) == value,
            When::Without { arg, bits } => low(arg) & bits == 0,
            When::OwnProcess { arg } => low(arg) == std::process::id(),
            When::Answer { errno } => return libc::SECCOMP_RET_ERRNO | u32::from(errno),
        };
        if matches {
            return libc::SECCOMP_RET_ALLOW;
        }
    }
    libc::SECCOMP_RET_KILL_PROCESS
}

/// Values that lists test for, their neighbours, and values with only high bits.
fn interesting() -> BTreeSet<u64> {
    let mut values = BTreeSet::from([0, 1, 4, 7, u64::from(std::process::id()), u64::MAX, 1 << 32, 4 << 32]);
    for entry in Role::ALL.into_iter().flat_map(Role::entries) {
        if let When::Equal { value, .. } | When::Without { bits: value, .. } = entry.when {
            let value = u64::from(value);
            values.extend([value, value ^ 1, value << 32, value | 1 << 40]);
        }
    }
    values
}

/// Each interesting value in each argument, and the same value in all.
fn arguments() -> Vec<[u64; 6]> {
    let mut all = Vec::new();
    for value in interesting() {
        all.push([value; 6]);
        for arg in 0..6 {
            let mut args = [0; 6];
            args[arg] = value;
            all.push(args);
        }
    }
    all
}

#[test]
fn what_passes_is_what_the_list_says() {
    let arguments = arguments();
    for role in Role::ALL {
        let program = filter(role);
        for number in 0..=600 {
            for args in &arguments {
                let (got, want) = (run(&program, X86_64, number, *args), expected(role, number, *args));
                assert_eq!(got, want, "{role:?}: call {number} with {args:x?}");
            }
        }
    }
}

#[test]
fn an_independent_compiler_agrees() {
    let arguments = arguments();
    for role in Role::ALL {
        let (ours, theirs) = (filter(role), by_seccompiler(role));
        for number in 0..=600 {
            if role.entries().any(|entry| entry.number == number && matches!(entry.when, When::Answer { .. })) {
                continue;
            }
            for args in &arguments {
                let (a, b) = (run(&ours, X86_64, number, *args), run(&theirs, X86_64, number, *args));
                assert_eq!(a, b, "{role:?}: call {number} with {args:x?}");
            }
        }
    }
}

/// The role's lists through the seccompiler crate, which knows no per-call answers.
fn by_seccompiler(role: Role) -> BpfProgram {
    let condition = |arg, operation, value: u32| {
        let condition = SeccompCondition::new(arg, SeccompCmpArgLen::Dword, operation, value.into()).unwrap();
        vec![SeccompRule::new(vec![condition]).unwrap()]
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for entry in role.entries() {
        let rule = match entry.when {
            When::Always => vec![],
            When::Equal { arg, value } => condition(arg, SeccompCmpOp::Eq, value),
            When::Without { arg, bits } => condition(arg, SeccompCmpOp::MaskedEq(bits.into()), 0),
            When::OwnProcess { arg } => condition(arg, SeccompCmpOp::Eq, std::process::id()),
            When::Answer { .. } => continue,
        };
        rules.entry(entry.number.into()).or_default().extend(rule);
    }
    let (kill, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
    SeccompFilter::new(rules, kill, allow, seccompiler::TargetArch::x86_64).unwrap().try_into().unwrap()
}

#[test]
fn no_role_may_open_connect_execute_or_fork() {
    let arguments = arguments();
    for role in Role::ALL {
        for &number in NEVER {
            for args in &arguments {
                let got = verdict(role, u32::try_from(number).unwrap(), *args);
                assert_eq!(got, libc::SECCOMP_RET_KILL_PROCESS, "{role:?}: call {number} with {args:x?}");
            }
        }
    }
}

#[test]
fn other_architectures_and_x32_are_killed() {
    for role in Role::ALL {
        let program = filter(role);
        for number in 0..=600 {
            let i386 = run(&program, 0x4000_0003, number, [0; 6]);
            let x32 = run(&program, X86_64, number | 0x4000_0000, [0; 6]);
            assert_eq!([i386, x32], [libc::SECCOMP_RET_KILL_PROCESS; 2], "{role:?}: call {number}");
        }
    }
}

#[test]
fn every_entry_has_a_reason_and_is_not_said_twice() {
    for role in Role::ALL {
        let mut seen = BTreeSet::new();
        for entry in role.entries() {
            assert!(entry.reason.len() >= 4, "{role:?}: {} has no reason", entry.name);
            assert!(seen.insert((entry.number, entry.spelling)), "{role:?}: {} {}", entry.name, entry.spelling);
        }
    }
}

#[test]
fn the_call_of_the_hot_loop_is_the_first_that_is_tried() {
    // Architecture and number are loaded and tested before it: three instructions.
    assert_eq!(filter(Role::Vcpu)[3].k, libc::SYS_ioctl as u32);
    assert_eq!(filter(Role::Io)[3].k, libc::SYS_epoll_wait as u32);
}

/// Prints what a filter costs: instructions, compiling by the crate at start, and installing ours and the crate's.
#[test]
#[ignore = "prints a measurement; run with --run-ignored only --no-capture"]
fn filter_cost() {
    let installed = |program: Vec<sock_filter>| {
        let mut times: Vec<_> = (0..20)
            .map(|_| {
                let program = program.clone();
                let timed = move || {
                    let start = std::time::Instant::now();
                    seccompiler::apply_filter(&program).unwrap();
                    start.elapsed()
                };
                // A thread each: a filter cannot be taken off.
                std::thread::spawn(timed)
            })
            .map(|thread| thread.join().unwrap())
            .collect();
        times.sort();
        times[times.len() / 2]
    };
    // The threads of this test end by calls that every list holds.
    for role in Role::ALL {
        let start = std::time::Instant::now();
        let theirs = by_seccompiler(role);
        let compiling = start.elapsed();
        let ours = filter(role);
        println!(
            "{role:?}: {} instructions, installed in {:?}; seccompiler: {} instructions, compiled in {compiling:?}, \
             installed in {:?}",
            ours.len(),
            installed(ours.clone()),
            theirs.len(),
            installed(theirs.clone()),
        );
    }
}
