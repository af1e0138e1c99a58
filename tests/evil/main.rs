//! Peers that mean harm, in both roles, against psync as a process of its own: each says what no
//! honest psync says, and gets a named error or nothing at all. Every process runs under strace, and
//! beside each root lies a sentinel: nothing outside the root may be opened, made, changed or moved.
//!
//! One row of a table is one peer. `paths` has paths that are none, in every message that carries
//! one; `initiators` attacks a server, `responders` an end that a person has started; `lines` are
//! peers that bend the line itself; `seals` signs what it may not; `names` steer terminals; `granted` has a key with few rights.
//!
//!     cargo test --test evil
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a test's failure")]

#[path = "../common/mod.rs"]
mod common;

mod granted;
mod ground;
mod hand;
mod initiators;
mod lines;
mod mask;
mod names;
mod paths;
mod responders;
mod seals;
mod trace;
mod voice;
