//! nf_tables objects and transactions as plain values.
//!
//! A [`Transaction`] is a list of [`Op`]s on one table. It can be printed in the syntax of `nft` (it implements `Display`),
//! applied to the in-memory [`Fake`] kernel, or committed by the `netlink` crate to the real one; the packet tracer of the
//! `compiler` crate interprets the [`Rule`]s that a `Fake` holds. What a kernel holds already is [`Found`], and [`reconcile`]
//! makes of a transaction for a whole table the one for what differs.

mod elements;
mod fake;
mod found;
mod kernel;
mod objects;
mod print;
mod reconcile;
mod rule;
mod transaction;
mod words;

pub use elements::{Elements, ElementsBuilder};
pub use fake::{Fake, FakeChain, FakeSet, FakeTable};
pub use found::{Describe, Found, FoundChain, FoundSet};
pub use kernel::{CommitError, CommitReport, Kernel, ReadError, Rejection};
pub use objects::{
    Chain, ChainKind, Comment, Data, DataType, DeviceChanges, Element, Family, Field, Flowtable, Hook, HookPoint, Name,
    NameError, Rule, Set, SetKind, Table,
};
pub use reconcile::{Reconciler, Reconciliation, reconcile};
pub use rule::{Comparison, Interface, InterfaceError, Selector, Statement, Verdict};
pub use transaction::{Op, Transaction};
pub use words::{Datum, Words, WordsBuilder};
