//! Turns the model into nf_tables transactions.
//!
//! A Service is elements of shared maps only; chains, rules and sets depend on the configuration and on the set of distinct
//! endpoint counts (ARCHITECTURE.md, "The ruleset"). A [`Compiler`] remembers what it has programmed for one family and
//! turns a change into a transaction on just the elements it concerns. [`Tracer`] tells what a ruleset does to a packet.

mod adopt;
mod affinity;
mod chains;
mod claims;
mod compiler;
mod counted;
mod edit;
mod fastpath;
mod flows;
mod frontend;
mod layout;
mod lb;
mod on_demand;
mod options;
mod port;
mod sets;
mod tracer;

pub use claims::Conflict;
pub use compiler::{Compiler, NoLocalEndpoints, ServedPort, table_family, table_name};
pub use fastpath::{FastPath, FastPathCounts};
pub use flows::FlowCheck;
pub use frontend::Frontend;
pub use options::{Mark, NodePorts, Offloads, Options, Pods};
pub use tracer::{Fate, Note, Packet, Tracer};

/// A name written in this crate.
pub(crate) fn name(name: &str) -> ruleset::Name {
    ruleset::Name::new(name).expect("names in this crate are short and plain")
}
