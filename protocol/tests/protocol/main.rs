//! What two ends that speak the protocol can rely upon, and what they do with a peer that does not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod actors;
mod golden_vectors;
mod hostile_bytes;
mod known;
mod limits;
mod moves;
mod pair;
mod parts;
mod raw;
mod referee;
mod round_trips;
mod samples;
mod sessions;
mod strategies;
mod trees;
mod versions;
mod wrong_states;
