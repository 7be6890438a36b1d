//! The fast path with the real binary, kernel and sockets. It takes a kernel with flowtables: `make fastpath` runs this in VMs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod devices;
mod forwarded;
mod invalidation;
mod long;
mod offload;
mod switching;
#[path = "../it/world.rs"]
mod world;
