//! Pools, volumes, images and seeds. The only room that touches what pools hold.
