//! What fits and what does not, on a node with 4 CPUs, 8 GiB, two NUMA nodes and some huge pages.

use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;

fn set(text: &str) -> CpuSet {
    text.parse().expect("a CPU set")
}

fn node() -> Capacity {
    Capacity {
        cpus: set("0-3"),
        memory_bytes: 8 * GIB,
        huge_pages: vec![HugePool { page_bytes: 2 * MIB, total: 512, free: 500 }],
        nodes: vec![
            Node { id: 0, cpus: set("0-1"), memory_bytes: 4 * GIB },
            Node { id: 1, cpus: set("2-3"), memory_bytes: 4 * GIB },
        ],
    }
}

fn vm(vcpus: u32, mib: u64) -> Demand {
    Demand { vcpus, pinning: None, memory_bytes: mib * MIB, huge_pages: None }
}

fn pinned(vcpus: u32, mib: u64, cpus: &str) -> Demand {
    Demand { pinning: Some(set(cpus)), ..vm(vcpus, mib) }
}

const POLICY: Policy = Policy { cpu_overcommit: 4, host_memory_bytes: GIB };

fn fits(promised: &[Demand], wanted: &Demand) -> Result<(), Shortage> {
    admit(&node(), POLICY, promised, wanted)
}

#[test]
fn memory_is_promised_once() {
    // 8 GiB less 1 GiB in huge pages less 1 GiB for the host.
    assert_eq!(fits(&[], &vm(1, 6 * 1024)), Ok(()));
    assert_eq!(fits(&[], &vm(1, 6 * 1024 + 1)), Err(Shortage::Memory { need: 6145, free: 6144, total: 6144 }));
    assert_eq!(fits(&[vm(1, 4096)], &vm(1, 2049)), Err(Shortage::Memory { need: 2049, free: 2048, total: 6144 }));
}

#[test]
fn huge_pages_come_from_their_pool() {
    let huge = |page_bytes, pages| Demand { huge_pages: Some((page_bytes, pages)), ..vm(1, 10) };
    assert_eq!(fits(&[], &huge(2 * MIB, 500)), Ok(()));
    assert_eq!(fits(&[], &huge(2 * MIB, 501)), Err(Shortage::HugePages { need: 501, page_mib: 2, free: 500 }));
    assert_eq!(
        fits(&[huge(2 * MIB, 400)], &huge(2 * MIB, 113)),
        Err(Shortage::HugePages { need: 113, page_mib: 2, free: 112 })
    );
    assert_eq!(fits(&[], &huge(GIB, 1)), Err(Shortage::HugePages { need: 1, page_mib: 1024, free: 0 }));
}

#[test]
fn cpu_time_is_overcommitted_by_the_factor() {
    assert_eq!(fits(&[vm(15, 10)], &vm(1, 10)), Ok(()));
    assert_eq!(
        fits(&[vm(15, 10)], &vm(2, 10)),
        Err(Shortage::Vcpus { vcpus: 2, free: 1, limit: 16, cpus: 4, overcommit: 4 })
    );
    assert_eq!(
        fits(&[pinned(4, 10, "0-3")], &vm(1, 10)),
        Err(Shortage::Vcpus { vcpus: 1, free: 0, limit: 0, cpus: 0, overcommit: 4 })
    );
}

#[test]
fn pinned_vcpus_do_not_share() {
    assert_eq!(fits(&[pinned(1, 10, "0-1")], &pinned(1, 10, "0")), Ok(()), "the other one moves over");
    assert_eq!(fits(&[pinned(2, 10, "0-1")], &pinned(1, 10, "1-2")), Ok(()), "there is still CPU 2");
    assert_eq!(
        fits(&[pinned(2, 10, "0-1"), pinned(1, 10, "2")], &pinned(1, 10, "0-2")),
        Err(Shortage::Pinned { vcpus: 1, pinning: set("0-2") })
    );
    assert_eq!(fits(&[], &pinned(1, 10, "4")), Err(Shortage::NoSuchCpu { pinning: set("4"), cpus: set("0-3") }));
}

#[test]
fn memory_near_the_cpus_is_promised_once() {
    assert_eq!(fits(&[pinned(1, 3072, "0")], &pinned(1, 1024, "1")), Ok(()));
    assert_eq!(
        fits(&[pinned(1, 3072, "0")], &pinned(1, 1025, "1")),
        Err(Shortage::NodeMemory { nodes: vec![0], need: 1025, free: 1024 })
    );
    assert_eq!(fits(&[pinned(1, 3072, "0")], &pinned(2, 2048, "1-2")), Ok(()), "it spans both nodes");
}

#[test]
fn a_shortage_is_one_sentence_with_figures() {
    let text = fits(&[], &vm(1, 7000)).unwrap_err().to_string();
    assert_eq!(
        text,
        "it needs 7000 MiB of memory, and 6144 MiB of 6144 MiB are not promised to VMs or kept for the host"
    );
}

fn demands() -> impl Strategy<Value = Vec<(u32, u64, Option<u8>, u64)>> {
    proptest::collection::vec((1_u32..4, 1_u64..2000, proptest::option::of(1_u8..16), 0_u64..200), 0..12)
}

fn demand((vcpus, mib, mask, pages): (u32, u64, Option<u8>, u64)) -> Demand {
    let pinning = mask.map(|mask| (0..4).filter(|cpu| mask & (1 << cpu) != 0).collect::<CpuSet>());
    Demand { vcpus, pinning, memory_bytes: mib * MIB, huge_pages: (pages > 0).then_some((2 * MIB, pages)) }
}

proptest! {
    /// Whoever asks in whatever order: what was admitted fits together.
    #[test]
    fn what_is_admitted_fits_together(asked in demands()) {
        let mut promised: Vec<Demand> = Vec::new();
        for asked in asked {
            let wanted = demand(asked);
            if fits(&promised, &wanted).is_ok() {
                promised.push(wanted);
            }
        }
        let memory: u64 = promised.iter().map(|demand| demand.memory_bytes).sum();
        prop_assert!(memory <= 6 * GIB);
        let pages: u64 = promised.iter().filter_map(|demand| demand.huge_pages).map(|(_, pages)| pages).sum();
        prop_assert!(pages <= 512);
        for mask in 1_u8..16 {
            let inside = |demand: &&Demand| {
                demand.pinning.as_ref().is_some_and(|set| set.iter().all(|cpu| mask & (1 << cpu) != 0))
            };
            let vcpus: u32 = promised.iter().filter(inside).map(|demand| demand.vcpus).sum();
            prop_assert!(vcpus <= mask.count_ones(), "more pinned vCPUs than CPUs in {:04b}", mask);
        }
        for (node, mask) in [(0, 0b0011_u8), (1, 0b1100)] {
            let inside = |demand: &&Demand| {
                demand.pinning.as_ref().is_some_and(|set| set.iter().all(|cpu| mask & (1 << cpu) != 0))
            };
            let bytes: u64 = promised.iter().filter(inside).map(|demand| demand.memory_bytes).sum();
            prop_assert!(bytes <= 4 * GIB, "node {}", node);
        }
    }

    /// Asking for less never fails where asking for more does not.
    #[test]
    fn less_always_fits_where_more_does(asked in demands(), wanted in (1_u32..4, 1_u64..2000, proptest::option::of(1_u8..16), 0_u64..200)) {
        let promised: Vec<Demand> = asked.into_iter().map(demand).collect();
        let wanted = demand(wanted);
        if fits(&promised, &wanted).is_ok() {
            let less = Demand { vcpus: 1, memory_bytes: wanted.memory_bytes / 2, ..wanted };
            prop_assert_eq!(fits(&promised, &less), Ok(()));
        }
    }
}
