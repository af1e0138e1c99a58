//! psync.
