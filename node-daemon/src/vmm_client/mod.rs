//! The daemon's side of a VMM's control socket. Whatever comes from there is hostile.
