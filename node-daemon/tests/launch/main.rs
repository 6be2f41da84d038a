//! VMMs that are really started, in their jails, with the payload guest on this host's KVM. As root, with `$QUANTIX_VMM` (a
//! static build) and `$QUANTIX_PAYLOAD`; where they are missing these tests say so and pass.

mod bench;
mod isolating;
mod reaching;
mod starting;
