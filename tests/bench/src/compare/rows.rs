//! What is compared, as data: a row each, its unit, its bar, and the best figure published for a peer.

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Times and sizes.
    Lower,
    /// Rates.
    Higher,
}

/// What a row must reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// Nothing was promised.
    None,
    /// At most this much above the bare program.
    AboveBare(f64),
    /// At most this.
    AtMost(f64),
    /// Ahead of QEMU's better mode in this run.
    Qemu,
}

/// A row of the table.
pub struct Row {
    /// Its group, for `--only`.
    pub group: &'static str,
    /// Its name in JSON, and for benches the payload's name and field.
    pub name: &'static str,
    /// Unit of all its figures.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// The promise.
    pub bar: Bar,
    /// The best of Firecracker, Cloud Hypervisor and QEMU on a machine of this kind when quiet, with another payload.
    pub published: Option<f64>,
}

const fn row(group: &'static str, name: &'static str, unit: &'static str, bar: Bar, published: Option<f64>) -> Row {
    Row { group, name, unit, better: Better::Lower, bar, published }
}

const fn rate(group: &'static str, name: &'static str, unit: &'static str, published: f64) -> Row {
    Row { group, name, unit, better: Better::Higher, bar: Bar::Qemu, published: Some(published) }
}

/// All rows in the order of the table.
pub const ROWS: &[Row] = &[
    row("start", "spawn to READY, 1 vCPU", "ms", Bar::AboveBare(2.0), Some(4.9)),
    row("start", "spawn to READY, 2 vCPUs", "ms", Bar::None, Some(5.5)),
    row("twenty", "20 VMs at once, all READY", "ms", Bar::None, Some(91.0)),
    row("memory", "memory beyond guest, bare (RSS)", "MiB", Bar::None, Some(4.0)),
    row("memory", "memory beyond guest, bare (PSS)", "MiB", Bar::None, None),
    row("memory", "memory beyond guest, disk + NIC (RSS)", "MiB", Bar::AtMost(3.5), Some(4.5)),
    row("memory", "memory beyond guest, disk + NIC (PSS)", "MiB", Bar::None, None),
    row("memory", "memory beyond guest, after I/O (RSS)", "MiB", Bar::None, None),
    row("memory", "threads, idle", "", Bar::None, Some(2.0)),
    row("memory", "threads, after I/O", "", Bar::None, Some(2.0)),
    rate("blk", "blk-randread-qd1", "kIOPS", 121.0),
    row("blk", "blk-randread-qd1 p50", "us", Bar::None, Some(6.0)),
    rate("blk", "blk-randread-qd32", "kIOPS", 477.0),
    row("blk", "blk-randread-qd32 p50", "us", Bar::None, None),
    rate("blk", "blk-randwrite-qd1", "kIOPS", 104.0),
    rate("blk", "blk-seqread-128k-qd8", "GB/s", 6.2),
    rate("blk", "blk-seqwrite-128k-qd8", "GB/s", 3.9),
    row("exits", "pio p50", "us", Bar::None, Some(25.0)),
    row("exits", "mmio p50", "us", Bar::None, Some(25.0)),
    row("exits", "notify p50", "us", Bar::None, Some(2.6)),
    rate("net", "net-tx-64", "kpps", 741.0),
    rate("net", "net-tx-1514", "kpps", 703.0),
    rate("net", "net-rx-64", "kpps", 488.0),
    rate("net", "net-rx-1514", "kpps", 444.0),
    row("net", "net-rtt p50", "us", Bar::Qemu, Some(17.0)),
    row("vsock", "vsock-rtt p50", "us", Bar::None, Some(34.0)),
];

/// Whether `ours` keeps the row's promise; nothing if there is none or what it is held against was not measured.
pub fn verdict(row: &Row, ours: f64, bare: Option<f64>, qemu: Option<f64>) -> Option<bool> {
    match row.bar {
        Bar::None => None,
        Bar::AboveBare(margin) => bare.map(|bare| ours <= bare + margin),
        Bar::AtMost(limit) => Some(ours <= limit),
        Bar::Qemu => qemu.map(|qemu| if row.better == Better::Lower { ours < qemu } else { ours > qemu }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_bar_is_held_against_the_right_figure() {
        let start = row("start", "a", "ms", Bar::AboveBare(2.0), None);
        assert_eq!(verdict(&start, 4.0, Some(2.0), Some(1.0)), Some(true));
        assert_eq!(verdict(&start, 4.1, Some(2.0), None), Some(false));
        assert_eq!(verdict(&start, 4.1, None, None), None);
        let size = row("memory", "a", "MiB", Bar::AtMost(3.5), None);
        assert_eq!(verdict(&size, 3.6, None, None), Some(false));
        assert_eq!(verdict(&rate("blk", "a", "kIOPS", 9.0), 5.0, None, Some(4.0)), Some(true));
        let time = row("net", "a", "us", Bar::Qemu, None);
        assert_eq!(verdict(&time, 5.0, None, Some(4.0)), Some(false));
    }
}
