//! Desired and observed state into steps: pure functions and tables. Applying is next door, in `vm/`.
