//! The node itself: what it is made of and how it stands, read from the kernel. Any task; changes nothing.
