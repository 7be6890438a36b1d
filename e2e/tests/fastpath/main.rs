//! The fast path with the real binary, kernel and sockets. It takes a kernel with flowtables: `make fastpath` runs this in VMs.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod devices;
mod forwarded;
mod invalidation;
mod ipvs;
mod long;
mod networks;
mod offload;
mod others;
mod selftest;
mod switching;
#[allow(dead_code, reason = "shared with the other tests, which use all of it")]
#[path = "../it/world.rs"]
mod world;
