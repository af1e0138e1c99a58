//! What two ends that speak the protocol can rely upon, and what they do with a peer that does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod hostile_bytes;
mod limits;
mod parts;
mod raw;
mod round_trips;
mod samples;
mod strategies;
mod versions;
