//! What to do with a VM when the daemon starts: what was wanted × what is there → one step. Pure.
//!
//! The daemon may have been killed between any two instructions, and the node may have lost power. The record says what was
//! wanted and what was begun; the kernel says what runs.

use crate::model::vm::Begun;

/// What the kernel and the run directory say about a VM's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Its VMM is there.
    Alive,
    /// There was one since the node booted, and it is gone.
    Gone,
    /// There was none since the node booted.
    Nothing,
}

/// What the record says.
// Independent facts, each with its name: enums of two would say the same twice.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// What was begun and is not known to be over.
    pub begun: Begun,
    /// It shall be on.
    pub running: bool,
    /// Nothing more was to be tried.
    pub failed: bool,
    /// It starts with the node.
    pub autostart: bool,
    /// The node was booted since the daemon last ran.
    pub node_booted: bool,
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Undo the creation: delete the volumes that were made, and the record.
    UndoCreation,
    /// Go on with the deletion. A VMM that is still there is killed first.
    FinishDeletion,
    /// Take the VMM over.
    Adopt,
    /// Take the VMM over, and stop it: it should be off.
    AdoptAndStop,
    /// Start it, in the order of autostart.
    Start,
    /// It ended while nobody looked: the restart policy decides.
    Lost,
    /// It failed before, and stays so.
    StayFailed,
    /// It is off, as it should be.
    StayOff,
}

/// The step for a VM.
pub fn step(wanted: Wanted, found: Found) -> Step {
    match (wanted.begun, found) {
        (Begun::Creation, _) => Step::UndoCreation,
        (Begun::Deletion, _) => Step::FinishDeletion,
        (Begun::Nothing, Found::Alive) if wanted.running => Step::Adopt,
        (Begun::Nothing, Found::Alive) => Step::AdoptAndStop,
        (Begun::Nothing, _) if wanted.node_booted && wanted.autostart => Step::Start,
        (Begun::Nothing, _) if wanted.running && wanted.failed => Step::StayFailed,
        // It was to run, the daemon was killed before there was a VMM, or the node went down under it.
        (Begun::Nothing, Found::Nothing) if wanted.running => Step::Start,
        (Begun::Nothing, Found::Gone) if wanted.running && wanted.node_booted => Step::Start,
        (Begun::Nothing, Found::Gone) if wanted.running => Step::Lost,
        (Begun::Nothing, Found::Gone | Found::Nothing) => Step::StayOff,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFF: Wanted =
        Wanted { begun: Begun::Nothing, running: false, failed: false, autostart: false, node_booted: false };

    #[test]
    fn every_kind_of_record_with_every_finding() {
        use Found::{Alive, Gone, Nothing};
        use Step::{Adopt, AdoptAndStop, FinishDeletion, Lost, Start, StayFailed, StayOff, UndoCreation};
        let on = Wanted { running: true, ..OFF };
        let booted = Wanted { node_booted: true, ..OFF };
        let table = [
            ("off", OFF, [AdoptAndStop, StayOff, StayOff]),
            ("on", on, [Adopt, Lost, Start]),
            ("failed", Wanted { failed: true, ..on }, [Adopt, StayFailed, StayFailed]),
            ("autostart, daemon restarted", Wanted { autostart: true, ..OFF }, [AdoptAndStop, StayOff, StayOff]),
            ("booted, off", booted, [AdoptAndStop, StayOff, StayOff]),
            ("booted, on", Wanted { running: true, ..booted }, [Adopt, Start, Start]),
            ("booted, autostart", Wanted { autostart: true, ..booted }, [AdoptAndStop, Start, Start]),
            (
                "booted, autostart, failed",
                Wanted { autostart: true, running: true, failed: true, ..booted },
                [Adopt, Start, Start],
            ),
            ("creating", Wanted { begun: Begun::Creation, ..on }, [UndoCreation; 3]),
            ("deleting", Wanted { begun: Begun::Deletion, ..on }, [FinishDeletion; 3]),
        ];
        for (name, wanted, expected) in table {
            assert_eq!([Alive, Gone, Nothing].map(|found| step(wanted, found)), expected, "{name}");
        }
    }

    #[test]
    fn a_living_vmm_is_never_left_alone_and_never_doubled() {
        for bits in 0..16_u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            let wanted = Wanted {
                begun: Begun::Nothing,
                running: bit(0),
                failed: bit(1),
                autostart: bit(2),
                node_booted: bit(3),
            };
            assert!(matches!(step(wanted, Found::Alive), Step::Adopt | Step::AdoptAndStop), "{wanted:?}");
        }
    }
}
