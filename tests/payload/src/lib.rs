//! The payload's pure parts: what needs no guest to be right and is therefore tested on the host.
#![no_std]
#![forbid(unsafe_code)]
