//! What files of `/proc` say. Pure: text in, numbers out; what a kernel does not say is zero or absent.

/// Bytes of a sector in the kernel's block statistics, whatever the disk has.
const SECTOR: u64 = 512;

/// The value after a field's name and white space at the begin of a line: `btime 1700000000`.
pub fn field<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(|c: char| c.is_whitespace()).then(|| rest.trim())
    })
}

/// A field of `meminfo` (also of a NUMA node, where the line begins with the node), in bytes.
pub fn memory(text: &str, name: &str) -> u64 {
    let find = |line: &str| {
        let mut words = line.split_whitespace().skip_while(|word| *word != name).skip(1);
        Some(words.next()?.parse::<u64>().ok()? * 1024)
    };
    text.lines().find_map(find).unwrap_or(0)
}

/// CPU time of all CPUs together, in the kernel's ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuTicks {
    /// Not idle and not waiting for disks.
    pub busy: u64,
    /// All.
    pub total: u64,
}

/// The first line of `stat`.
pub fn cpu(text: &str) -> CpuTicks {
    let Some(line) = field(text, "cpu") else { return CpuTicks::default() };
    let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // Guest time is in user time already: the first eight only.
    let total = ticks.iter().take(8).sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    CpuTicks { busy: total - idle, total }
}

/// What disks or interfaces have moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes read, or received.
    pub in_bytes: u64,
    /// Bytes written, or transmitted.
    pub out_bytes: u64,
    /// Reads, or packets received.
    pub in_operations: u64,
    /// Writes, or packets transmitted.
    pub out_operations: u64,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, other: Self) {
        self.in_bytes += other.in_bytes;
        self.out_bytes += other.out_bytes;
        self.in_operations += other.in_operations;
        self.out_operations += other.out_operations;
    }
}

/// `diskstats`: the sum over the disks that `counts` names (partitions and stacked devices would count twice).
pub fn disks(text: &str, counts: impl Fn(&str) -> bool) -> Moved {
    let mut sum = Moved::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().skip(2);
        let Some(name) = words.next() else { continue };
        let values: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        if let [reads, _, sectors_in, _, writes, _, sectors_out, ..] = values[..]
            && counts(name)
        {
            sum += Moved {
                in_bytes: sectors_in * SECTOR,
                out_bytes: sectors_out * SECTOR,
                in_operations: reads,
                out_operations: writes,
            };
        }
    }
    sum
}

/// `net/dev`: the sum over the interfaces that `counts` names.
pub fn interfaces(text: &str, counts: impl Fn(&str) -> bool) -> Moved {
    let mut sum = Moved::default();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let values: Vec<u64> = rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
        if values.len() >= 10 && counts(name.trim()) {
            sum += Moved {
                in_bytes: values[0],
                out_bytes: values[8],
                in_operations: values[1],
                out_operations: values[9],
            };
        }
    }
    sum
}

/// `pressure/*`: microseconds in which some task waited.
pub fn pressure(text: &str) -> Option<u64> {
    let line = field(text, "some")?;
    line.split_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}
