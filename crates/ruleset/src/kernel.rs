//! What a kernel does with transactions.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::{Describe, Element, Family, Found, Name, Op, Set, Transaction, Words};

/// Something that commits transactions: the real kernel behind netlink, or the [`crate::Fake`].
pub trait Kernel: Describe {
    /// Commits all of a transaction, or nothing of it.
    ///
    /// # Errors
    /// Nothing was changed, except after [`CommitError::Unknown`].
    fn commit(&mut self, transaction: &Transaction) -> Result<CommitReport, CommitError>;

    /// Reads a table as it is at one moment; `None` if there is none of this name.
    ///
    /// # Errors
    /// It is not known what the kernel holds.
    fn read(&mut self, family: Family, table: &Name) -> Result<Option<Found>, ReadError>;

    /// Lists the elements of a set; none if there is no such set. While rules add elements and let them expire, any of them may be
    /// missing: what must not be missed has to be looked for until nothing more is found.
    ///
    /// # Errors
    /// It is not known what the kernel holds.
    fn elements(&mut self, family: Family, table: &Name, set: &Name) -> Result<Vec<Element>, ReadError>;
}

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It was never the same from the beginning to the end of a reading.
    #[error("the ruleset was changed by others during each of {tries} readings")]
    Unstable {
        /// How often it was tried.
        tries: u32,
    },
    /// The kernel did not tell, or nothing that makes sense.
    #[error("the kernel's nf_tables cannot be read: {0}")]
    Failed(#[from] io::Error),
}

/// What a commit took. All zero from a [`crate::Fake`], and for a transaction that changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitReport {
    /// How long it took to turn the transaction into messages.
    pub encode: Duration,
    /// How long the kernel took to receive, check and carry them out, and to answer; with the time that it waited for other programs'
    /// commits. These wait for ours a little less: until all is carried out.
    pub kernel: Duration,
    /// The size of the messages.
    pub bytes: usize,
}

/// Why a transaction was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The kernel refused it as a whole, and what may be done about it.
    #[error("the kernel refused the transaction on table {table}: {source}; {advice}")]
    Refused {
        /// The family and name of the table.
        table: String,
        /// What to do.
        advice: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused some of its operations.
    #[error("the kernel refused {first}{more}", first = .rejections[0], more = and_more(.rejections.len()))]
    Rejected {
        /// The operations and the reasons, in order; never empty.
        rejections: Vec<Rejection>,
    },
    /// It is not known whether the transaction was committed: its effects have to be read back or written anew.
    #[error("the kernel's answer to the transaction on table {table} was lost: {source}")]
    Unknown {
        /// The family and name of the table.
        table: String,
        /// How the answer was lost.
        source: io::Error,
    },
}

/// An operation that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}")]
pub struct Rejection {
    /// The operation in the syntax of `nft`.
    pub operation: String,
    /// Where it stands: the index of the operation in [`Transaction::ops`], and of the element in it if that is known.
    pub position: (usize, Option<usize>),
    /// The set and the key, if it is about an element that is known.
    pub element: Option<(Arc<Set>, Words)>,
    /// The kernel's answer.
    pub source: io::Error,
}

impl Rejection {
    /// The kernel refused an operation of a transaction, by its index, or one of its elements.
    pub fn new(transaction: &Transaction, op: usize, element: Option<usize>, source: io::Error) -> Self {
        let operation = &transaction.ops[op];
        let text = match element {
            Some(element) => transaction.display_element(operation, element).to_string(),
            None => transaction.display(operation).to_string(),
        };
        let known = match operation {
            Op::AddElements { set, elements } | Op::DeleteElements { set, elements } => {
                element.and_then(|index| Some((Arc::clone(set), elements.get(index)?.key)))
            }
            _ => None,
        };
        Self { operation: text, position: (op, element), element: known, source }
    }
}

fn and_more(rejections: usize) -> String {
    if rejections > 1 { format!(" (and {} more operations)", rejections - 1) } else { String::new() }
}
