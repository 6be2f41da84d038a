//! The rules of NUMA nodes: each by itself, then all together.
//!
//! Runs on the main thread. It must not decide where a node's memory lies in the address space: `board/` does.

use super::check::keyed;
use super::error::ConfigError;
use super::parse::CpuRange;
use super::plan::NumaPlan;
use super::wire::NumaConfig;

const OPTION: &str = "--numa";
/// ACPI 6.5 section 5.2.17: a node's distance to itself, and the least to another.
const LOCAL: u8 = 10;
/// What a remote node has when nobody says otherwise.
const REMOTE: u8 = 20;

/// Checks node `index` of `count`; `page` is the page size of memory and its name.
pub(super) fn node(
    config: &NumaConfig,
    index: usize,
    count: usize,
    page: (u64, &str),
) -> Result<NumaPlan, ConfigError> {
    if config.size_bytes == 0 || !config.size_bytes.is_multiple_of(page.0) {
        let reason = format!("must be a multiple of the page size, {}, and not zero", page.1);
        return Err(ConfigError::new(OPTION, config.size_bytes, reason).at_key("memory"));
    }
    let cpus: CpuRange = keyed(OPTION, "cpus", &config.cpus)?;
    let distances = match config.distances.as_slice() {
        [] => (0..count).map(|other| if other == index { LOCAL } else { REMOTE }).collect(),
        given => given.to_vec(),
    };
    distances_fit(&distances, index, count)?;
    Ok(NumaPlan { size_bytes: config.size_bytes, cpus, distances })
}

fn distances_fit(distances: &[u8], index: usize, count: usize) -> Result<(), ConfigError> {
    let joined = || distances.iter().map(u8::to_string).collect::<Vec<_>>().join(":");
    let refused = |reason: String| Err(ConfigError::new(OPTION, joined(), reason).at_key("distances"));
    if distances.len() != count {
        return refused(format!("there are {count} nodes; give one distance each, or none at all"));
    }
    let fits = |(other, distance): (usize, &u8)| if other == index { *distance == LOCAL } else { *distance > LOCAL };
    if distances.iter().enumerate().all(fits) {
        return Ok(());
    }
    refused(format!("a node is {LOCAL} from itself and further from all others"))
}

/// Checks that the nodes have all the memory and all the vCPUs, each once.
pub(super) fn adds_up(nodes: &[NumaPlan], memory: u64, cpus: u8) -> Result<(), ConfigError> {
    if nodes.is_empty() {
        return Ok(());
    }
    let sum = nodes.iter().try_fold(0_u64, |sum, node| sum.checked_add(node.size_bytes));
    if sum != Some(memory) {
        let reason = format!("the nodes' memory must add up to that of --memory, {memory} bytes");
        return Err(ConfigError::new(OPTION, "", reason));
    }
    for cpu in 0..cpus {
        let owners = nodes.iter().filter(|node| (node.cpus.first..=node.cpus.last).contains(&cpu)).count();
        if owners != 1 {
            let reason = format!("vCPU {cpu} is in {owners} nodes; put each into one");
            return Err(ConfigError::new(OPTION, "", reason));
        }
    }
    let last = |index: usize, node: &NumaPlan| {
        let reason = format!("the last vCPU is number {}", cpus.saturating_sub(1));
        let value = format!("{}-{}", node.cpus.first, node.cpus.last);
        ConfigError::new(OPTION, value, reason).at_key("cpus").at_item(index)
    };
    match nodes.iter().enumerate().find(|(_, node)| node.cpus.last >= cpus) {
        Some((index, node)) => Err(last(index, node)),
        None => Ok(()),
    }
}
