//! What a table has done on the committing thread, and how that ends.

use netlink::{Committer, Reconciled, Reply};
use ruleset::{CommitError, CommitReport, Family, Found, Kernel, Name, ReadError, Transaction};

/// How a job ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The table was read; `None` if there is none.
    Read(Result<Option<Found>, ReadError>),
    /// Changes were committed.
    Written(Result<Reconciled, CommitError>),
}

/// Talks to a kernel without blocking the caller: [`Committer`], or something of the tests that does without a thread.
///
/// Replies are called with the outcome, or dropped if there will be none.
pub(crate) trait Commit: Send {
    /// Commits a transaction.
    fn commit(&self, transaction: Transaction, reply: Reply<Result<CommitReport, CommitError>>);

    /// Reads a table.
    fn read(&self, family: Family, table: Name, reply: Reply<Result<Option<Found>, ReadError>>);

    /// Makes the table that was found the one that `full` makes from nothing.
    fn reconcile(&self, full: Transaction, found: Option<Found>, reply: Reply<Result<Reconciled, CommitError>>);
}

impl<K: Kernel + Send + 'static> Commit for Committer<K> {
    fn commit(&self, transaction: Transaction, reply: Reply<Result<CommitReport, CommitError>>) {
        Self::commit(self, transaction, reply);
    }

    fn read(&self, family: Family, table: Name, reply: Reply<Result<Option<Found>, ReadError>>) {
        Self::read(self, family, table, reply);
    }

    fn reconcile(&self, full: Transaction, found: Option<Found>, reply: Reply<Result<Reconciled, CommitError>>) {
        Self::reconcile(self, full, found, reply);
    }
}
