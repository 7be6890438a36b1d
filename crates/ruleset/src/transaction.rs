//! Transactions.

use std::sync::Arc;

use crate::{Chain, Element, Family, Flowtable, Interface, Name, Rule, Set, Table};

/// Changes to one table that happen together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The family of the table.
    pub family: Family,
    /// The name of the table.
    pub table: Name,
    /// The changes, in order.
    pub ops: Vec<Op>,
}

/// One change. Every object belongs to the table of its [`Transaction`].
///
/// "Add" leaves an equal table, chain, set, flowtable or counter that exists as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Adds the table.
    AddTable(Table),
    /// Deletes the table and all that is in it. It must exist.
    DeleteTable,
    /// Adds a chain.
    AddChain(Chain),
    /// Deletes a chain, which must exist and which nothing may refer to.
    DeleteChain(Name),
    /// Deletes all rules of a chain.
    FlushChain(Name),
    /// Appends a rule.
    AddRule(Rule),
    /// Deletes one rule, as it is done in tables of other programs. It must exist.
    DeleteRule {
        /// The chain that it is in.
        chain: Name,
        /// The number that the kernel gave it, which no other rule of the table ever gets.
        handle: u64,
    },
    /// Adds a set or map.
    AddSet(Arc<Set>),
    /// Deletes a set or map and its elements. It must exist, and no rule may refer to it.
    DeleteSet(Name),
    /// Deletes all elements of a set.
    FlushSet(Arc<Set>),
    /// Adds elements. An element that exists with the same data stays; with other data, the transaction fails.
    AddElements {
        /// The set.
        set: Arc<Set>,
        /// The elements.
        elements: Vec<Element>,
    },
    /// Deletes elements by their keys; each must exist.
    DeleteElements {
        /// The set.
        set: Arc<Set>,
        /// The elements.
        elements: Vec<Element>,
    },
    /// Adds a flowtable, and devices to those that it has; at most [`Flowtable::MOST_DEVICES`]. Before Linux 6.16 each must exist.
    AddFlowtable {
        /// The flowtable.
        flowtable: Flowtable,
        /// The devices, none of them a prefix.
        devices: Vec<Interface>,
    },
    /// Takes devices from a flowtable; at most [`Flowtable::MOST_DEVICES`], each of which must be in it. It must exist.
    DeleteDevices {
        /// The flowtable.
        flowtable: Flowtable,
        /// The devices; not none, which would delete the flowtable.
        devices: Vec<Interface>,
    },
    /// Deletes a flowtable. It must exist, and no rule may refer to it. Connections in it go on as if they had never been there.
    DeleteFlowtable(Name),
    /// Adds a counter that rules count with ([`crate::Statement::Count`]).
    AddCounter(Name),
    /// Deletes a counter. It must exist, and no rule may refer to it.
    DeleteCounter(Name),
}

impl Transaction {
    /// One that changes nothing yet.
    pub const fn new(family: Family, table: Name) -> Self {
        Self { family, table, ops: Vec::new() }
    }

    /// How many objects it changes, each element counted.
    pub fn len(&self) -> usize {
        self.ops.iter().map(Op::len).sum()
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Op {
    /// How many objects it changes.
    pub fn len(&self) -> usize {
        match self {
            Self::AddElements { elements, .. } | Self::DeleteElements { elements, .. } => elements.len(),
            Self::DeleteDevices { devices, .. } => devices.len(),
            _ => 1,
        }
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
