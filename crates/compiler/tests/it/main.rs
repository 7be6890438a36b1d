//! The compiler through its front door: changes in, packets out.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world has failed")]

mod affinity;
mod histories;
mod packets;
mod reconcile;
mod rules;
mod service_cidrs;
mod shape;
mod source_ranges;
mod upkeep;
mod world;
