//! Commits transactions to the kernel's nf_tables through libnftnl and libmnl, and looks after its connections.
//!
//! [`NfTables`] is the kernel as a [`ruleset::Kernel`]: it turns a transaction into one batch of messages, sends them with
//! one system call, and reads what the kernel says about each; and it reads tables back. [`Committer`] runs it on a thread of
//! its own, because the kernel works inside its calls, from a tenth of a millisecond to seconds. [`Monitor`] tells when other
//! programs change our tables.
//!
//! Tables, chains and rules are libnftnl's objects. Sets and their elements, which the `nftnl` crate has no complete types
//! for, and of which there may be hundreds of thousands, are written straight into the batch. Everything is written the way
//! `nft` itself would, so that administrators can read the result with any `nft` (`tests/bytecode.rs` compares).
//!
//! [`Conntrack`] lists the connections that the kernel tracks, however many there are, and deletes those it is told to.
//!
//! [`Ipvs`], [`IpSets`] and [`legacy_chains`] are for what other ways to serve Services leave behind. None of them makes the kernel
//! load anything.

mod attributes;
mod batch;
mod bytecode;
mod committer;
mod conntrack;
mod decode;
mod describe;
mod dump;
mod elements;
mod encode;
mod expression;
mod fastpath;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod ipset;
mod ipvs;
mod legacy;
mod message;
mod monitor;
mod nf_tables;
mod outcome;
mod outline;
mod reply;
mod rule_text;
mod sets;
mod socket;
mod uapi;

pub use committer::{Committer, Reconciled};
pub use conntrack::{Conntrack, ConntrackError, Flow, Flows, Tally, Tuple};
pub use fastpath::{ForwardChain, FoundFlowtable, Place};
pub use ipset::IpSets;
pub use ipvs::{Ipvs, VirtualServer};
pub use legacy::legacy_chains;
pub use monitor::{ForeignEdit, Monitor, Program};
pub use nf_tables::{NfTables, OpenError};
pub use outline::Jump;
