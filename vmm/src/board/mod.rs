//! The board as data: address map, interrupt numbers, firmware tables. Pure: no ioctls, no files, no threads.

#![forbid(unsafe_code)]

pub mod map;
