//! What the packet tracer says of the compiler's rules (`crates/compiler/tests/it/packets.rs`), proven with the real
//! binary, kernel and sockets, in both families.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod adoption;
mod bad_input;
mod changes;
mod configuration;
mod frontends;
mod monitor;
mod policies;
mod repair;
mod restarts;
mod takeover;
mod world;
