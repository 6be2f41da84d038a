//! In which order VMs start with the node. Pure.
//!
//! VMs of equal order start together. The wait after an order is the longest that one of its VMs asks for. VMs that ran
//! when the node went down and have no autostart come last, together: nobody said that anything depends on them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::vm::Autostart;

/// VMs that start together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave<T> {
    /// Who starts.
    pub vms: Vec<T>,
    /// How long to wait before the next wave.
    pub delay: Duration,
}

/// The waves, first to last. Within a wave the order of `vms` stays.
pub fn waves<T>(vms: impl IntoIterator<Item = (T, Autostart)>) -> Vec<Wave<T>> {
    let mut ordered: BTreeMap<(bool, i32), Wave<T>> = BTreeMap::new();
    for (vm, autostart) in vms {
        let key = if autostart.enabled { (false, autostart.order) } else { (true, 0) };
        let wave = ordered.entry(key).or_insert_with(|| Wave { vms: Vec::new(), delay: Duration::ZERO });
        wave.vms.push(vm);
        if autostart.enabled {
            wave.delay = wave.delay.max(autostart.delay);
        }
    }
    ordered.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn autostart(order: i32, seconds: u64) -> Autostart {
        Autostart { enabled: true, order, delay: Duration::from_secs(seconds) }
    }

    #[test]
    fn equal_orders_start_together_and_the_longest_delay_counts() {
        let off = Autostart { enabled: false, order: -9, delay: Duration::from_secs(99) };
        let waves = waves([
            ("ran", off),
            ("web1", autostart(10, 1)),
            ("dns", autostart(-5, 3)),
            ("web2", autostart(10, 2)),
            ("db", autostart(0, 0)),
        ]);
        let seconds: Vec<_> = waves.iter().map(|wave| (wave.vms.clone(), wave.delay.as_secs())).collect();
        assert_eq!(seconds, [(vec!["dns"], 3), (vec!["db"], 0), (vec!["web1", "web2"], 2), (vec!["ran"], 0)]);
    }
}
