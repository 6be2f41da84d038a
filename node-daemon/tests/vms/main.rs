//! VMs that are really run, on this host's KVM with the payload guest: the room `vm/` from the store to the process, with
//! disks that are plain files. As root, with `$QUANTIX_VMM` (a static build) and `$QUANTIX_PAYLOAD`: `make test` sets both.
//! Where there is no `/dev/kvm` these tests say so; where there is, they fail without the two.

mod bench;
mod endings;
mod lifecycle;
mod restarts;
