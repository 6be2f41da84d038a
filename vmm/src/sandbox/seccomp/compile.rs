//! From lists to BPF, while the program is compiled.
//!
//! Layout: architecture, number, the first call of the list (the hot one), then a binary tree over the numbers
//! of the others, whose leaves test a few calls each. A tree, because when a filter is installed the kernel
//! walks it once for each system call number there is: 2.7 µs for each instruction that all of them pass
//! here, which for a plain list comes to 100 µs a thread.
//!
//! Everything here is `const` and runs in the compiler, so its assertions are compile errors.

#![forbid(unsafe_code)]

use seccompiler::sock_filter;

use super::{Entry, When};

/// Most instructions a program may have: conditional jumps reach no further.
pub(super) const LIMIT: usize = 255;

/// How many calls a leaf of the tree tests.
const LEAF: usize = 3;

/// A compiled filter.
pub(super) struct Program {
    pub(super) code: [sock_filter; LIMIT],
    pub(super) len: usize,
    /// The instruction whose operand becomes the process id when the filter is installed.
    pub(super) own_process: Option<usize>,
}

// Classic BPF as seccomp takes it: <linux/bpf_common.h>, <linux/seccomp.h>, <linux/audit.h>.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;
pub(super) const X86_64: u32 = 0xc000_003e;

/// Compiles lists into one program.
pub(super) const fn compile(lists: &[&[Entry]]) -> Program {
    const BLANK: sock_filter = sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS };
    let numbers = Numbers::of(lists);
    let mut builder = Builder {
        lists,
        code: [BLANK; LIMIT],
        targets: [(Target::Next, Target::Next); LIMIT],
        len: 0,
        own_process: None,
    };
    builder.statement(LOAD, ARCHITECTURE_AT);
    builder.push(IF_EQUAL, X86_64, Target::Next, Target::Kill);
    builder.statement(LOAD, NUMBER_AT);
    builder.call(numbers.all[0], false);
    builder.tree(&numbers, 1, numbers.len);
    builder.finish()
}

/// The numbers that lists mention: the first one first, the others in ascending order.
struct Numbers {
    all: [u32; LIMIT],
    len: usize,
}

impl Numbers {
    const fn of(lists: &[&[Entry]]) -> Self {
        let mut numbers = Self { all: [0; LIMIT], len: 0 };
        let mut list = 0;
        while list < lists.len() {
            let mut i = 0;
            while i < lists[list].len() {
                numbers.insert(lists[list][i].number);
                i += 1;
            }
            list += 1;
        }
        numbers
    }

    const fn insert(&mut self, number: u32) {
        let mut place = self.len;
        while place > 0 && self.all[place - 1] != number {
            place -= 1;
        }
        if place > 0 {
            return;
        }
        let mut at = self.len;
        while at > 1 && self.all[at - 1] > number {
            self.all[at] = self.all[at - 1];
            at -= 1;
        }
        self.all[at] = number;
        self.len += 1;
    }
}

/// Where a jump goes; resolved when the length of the program is known.
#[derive(Clone, Copy)]
enum Target {
    Next,
    Skip(u8),
    Allow,
    Kill,
}

/// A program under construction.
struct Builder<'a> {
    lists: &'a [&'a [Entry]],
    code: [sock_filter; LIMIT],
    targets: [(Target, Target); LIMIT],
    len: usize,
    own_process: Option<usize>,
}

impl Builder<'_> {
    const fn push(&mut self, code: u16, operand: u32, yes: Target, no: Target) {
        assert!(self.len < LIMIT, "the list makes a filter that is too long for one jump");
        self.code[self.len] = sock_filter { code, jt: 0, jf: 0, k: operand };
        self.targets[self.len] = (yes, no);
        self.len += 1;
    }

    const fn statement(&mut self, code: u16, operand: u32) {
        self.push(code, operand, Target::Next, Target::Next);
    }

    /// The calls from `first` up to `end`: halves below halves, then a leaf after whose last test comes death.
    const fn tree(&mut self, numbers: &Numbers, first: usize, end: usize) {
        if end - first <= LEAF {
            let mut at = first;
            while at < end {
                self.call(numbers.all[at], at + 1 == end);
                at += 1;
            }
            return;
        }
        let middle = first.midpoint(end);
        let head = self.len;
        self.push(IF_AT_LEAST, numbers.all[middle], Target::Next, Target::Next);
        self.tree(numbers, first, middle);
        self.targets[head] = (self.skip_from(head), Target::Next);
        self.tree(numbers, middle, end);
    }

    /// All entries of one call: its number, then each condition, then death.
    const fn call(&mut self, number: u32, last_of_leaf: bool) {
        let head = self.len;
        self.push(IF_EQUAL, number, Target::Next, Target::Next);
        let (mut loaded, mut entries, mut plain) = (None, 0, false);
        let (mut list, mut i) = (0, 0);
        while list < self.lists.len() {
            if i == self.lists[list].len() {
                (list, i) = (list + 1, 0);
                continue;
            }
            let entry = &self.lists[list][i];
            if entry.number == number {
                entries += 1;
                plain |= matches!(entry.when, When::Always | When::Answer { .. });
                self.condition(entry.when, &mut loaded);
            }
            i += 1;
        }
        assert!(entries == 1 || !plain, "a call is listed both with a condition and without one");
        let last = self.len - 1;
        if last == head {
            // No condition was written: the call is allowed as it is.
            self.targets[head] = (Target::Allow, if last_of_leaf { Target::Kill } else { Target::Next });
            return;
        }
        if !plain {
            self.targets[last] = match self.targets[last] {
                (Target::Allow, _) => (Target::Allow, Target::Kill),
                (_, no) => (Target::Kill, no),
            };
        }
        self.targets[head] = (Target::Next, if last_of_leaf { Target::Kill } else { self.skip_from(head) });
    }

    /// One entry's test. An entry without a condition writes none, and must be the only one of its call.
    const fn condition(&mut self, when: When, loaded: &mut Option<u8>) {
        match when {
            When::Always => {}
            When::Answer { errno } => self.statement(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32),
            When::Equal { arg, value } => {
                self.load(arg, loaded);
                self.push(IF_EQUAL, value, Target::Allow, Target::Next);
            }
            When::Without { arg, bits } => {
                self.load(arg, loaded);
                self.push(IF_ANY_BIT, bits, Target::Next, Target::Allow);
            }
            When::OwnProcess { arg } => {
                assert!(self.own_process.is_none(), "one operand for the process id is all there is");
                self.load(arg, loaded);
                self.own_process = Some(self.len);
                self.push(IF_EQUAL, 0, Target::Allow, Target::Next);
            }
        }
    }

    /// Brings an argument into the accumulator unless it is there.
    const fn load(&mut self, arg: u8, loaded: &mut Option<u8>) {
        if !matches!(*loaded, Some(held) if held == arg) {
            assert!(arg < 6, "a call has six arguments");
            // The low half comes first on a little-endian machine.
            self.statement(LOAD, ARGUMENTS_AT + 8 * arg as u32);
            *loaded = Some(arg);
        }
    }

    /// The jump from `head` to the next instruction that will be written.
    const fn skip_from(&self, head: usize) -> Target {
        // Fits: a program has at most LIMIT instructions.
        Target::Skip((self.len - head - 1) as u8)
    }

    /// Appends the two verdicts and resolves the jumps.
    const fn finish(mut self) -> Program {
        let kill = self.len;
        self.statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS);
        let allow = self.len;
        self.statement(RETURN, libc::SECCOMP_RET_ALLOW);
        let mut at = 0;
        while at < kill {
            let (yes, no) = self.targets[at];
            self.code[at].jt = distance(at, yes, kill, allow);
            self.code[at].jf = distance(at, no, kill, allow);
            at += 1;
        }
        Program { code: self.code, len: self.len, own_process: self.own_process }
    }
}

const fn distance(at: usize, target: Target, kill: usize, allow: usize) -> u8 {
    match target {
        Target::Next => 0,
        Target::Skip(count) => count,
        // Fits: a program has at most LIMIT instructions.
        Target::Kill => (kill - at - 1) as u8,
        Target::Allow => (allow - at - 1) as u8,
    }
}
