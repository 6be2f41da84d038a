//! Pure types of the inventory and the checks of what callers ask for. Must not open, call or wait.
