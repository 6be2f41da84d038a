//! Any bytes as a machine's configuration; one that is accepted means the same after a round trip.
#![no_main]

use libfuzzer_sys::fuzz_target;
use quantix_vmm::config::{MachineConfig, Plan, plan_from_json};

fuzz_target!(|data: &[u8]| {
    let Ok(plan) = plan_from_json(data) else { return };
    let config = MachineConfig::from_json(data).expect("it was read a moment ago");
    let again = MachineConfig::from_json(config.to_json().as_bytes()).expect("what was written can be read");
    assert_eq!(config, again);
    assert_eq!(Plan::try_from(&again).as_ref(), Ok(&plan));
});
