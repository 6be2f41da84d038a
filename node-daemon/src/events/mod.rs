//! Events in one order: kept, and pushed to whoever watches. Any task; must not decide anything.
