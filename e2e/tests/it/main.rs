//! What the packet tracer says of the compiler's rules (`crates/compiler/tests/it/packets.rs`), proven with the real
//! binary, kernel and sockets, in both families.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod adoption;
mod affinity;
mod bad_input;
mod changes;
mod configuration;
mod dropped;
mod faults;
mod frontends;
mod health_checks;
mod leftovers;
mod local_traffic;
mod localhost;
mod masquerade;
mod monitor;
mod node_ports;
mod policies;
mod repair;
mod restarts;
mod rights;
mod soak;
mod source_ranges;
mod takeover;
mod topology;
mod udp;
mod world;
