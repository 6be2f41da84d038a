//! Desired and observed state into steps: pure functions and tables. Applying is next door, in `vm/`.
//!
//! Nothing here waits, opens, logs or looks at a clock: time comes in as a number. So every decision about a VM can be
//! tested as a table, without a VM.
//!
//! | file | decides |
//! |---|---|
//! | `lifecycle` | what an event means in a state: the one table of a VM's life |
//! | `restart` | what comes after an end: nothing, another attempt after a wait, giving up |
//! | `startup` | what to do with each VM when the daemon starts |
//! | `autostart` | in which order VMs start with the node |
//! | `admission` | whether a VM fits beside those that run |

pub mod admission;
pub mod autostart;
pub mod lifecycle;
pub mod restart;
pub mod startup;
