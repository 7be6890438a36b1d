//! What a table has done on the committing thread, and how that ends.

use netlink::{Committer, Reconciled};
use ruleset::{CommitError, CommitReport, Element, Family, Found, Kernel, Name, ReadError, Reconciler, Transaction};

/// What is called with the outcome of a job, on the thread that did it: it must not block.
pub(crate) type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// How a job ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The table was read; `None` if there is none.
    Read(Result<Option<Found>, ReadError>),
    /// The elements of a set were listed.
    Listed(Result<Vec<Element>, ReadError>),
    /// Changes were committed.
    Written(Result<Reconciled, CommitError>),
}

impl Outcome {
    /// A transaction of so many operations was committed, or was not.
    pub(crate) fn committed(done: Result<CommitReport, CommitError>, operations: usize) -> Self {
        let written = |report| Reconciled::Done { operations, unwanted: Vec::new(), report };
        Self::Written(done.map(written))
    }
}

/// Talks to a kernel without blocking the caller: [`Committer`], or something of the tests that does without a thread.
///
/// Replies are called with the outcome, or dropped if there will be none.
pub(crate) trait Commit: Send {
    /// Commits a transaction.
    fn commit(&self, transaction: Transaction, reply: Reply<Result<CommitReport, CommitError>>);

    /// Reads a table.
    fn read(&self, family: Family, table: Name, reply: Reply<Result<Option<Found>, ReadError>>);

    /// Lists the elements of a set.
    fn elements(&self, family: Family, table: Name, set: Name, reply: Reply<Result<Vec<Element>, ReadError>>);

    /// Commits a transaction that deletes elements, of which some may be gone.
    fn delete(&self, transaction: Transaction, reply: Reply<Result<CommitReport, CommitError>>);

    /// Makes the table that was found the wanted one.
    fn reconcile(&self, reconciler: Reconciler, reply: Reply<Result<Reconciled, CommitError>>);
}

impl<K: Kernel + Send + 'static> Commit for Committer<K> {
    fn commit(&self, transaction: Transaction, reply: Reply<Result<CommitReport, CommitError>>) {
        Self::commit(self, transaction, reply);
    }

    fn read(&self, family: Family, table: Name, reply: Reply<Result<Option<Found>, ReadError>>) {
        Self::read(self, family, table, reply);
    }

    fn elements(&self, family: Family, table: Name, set: Name, reply: Reply<Result<Vec<Element>, ReadError>>) {
        Self::elements(self, family, table, set, reply);
    }

    fn delete(&self, transaction: Transaction, reply: Reply<Result<CommitReport, CommitError>>) {
        Self::delete(self, transaction, reply);
    }

    fn reconcile(&self, reconciler: Reconciler, reply: Reply<Result<Reconciled, CommitError>>) {
        Self::reconcile(self, reconciler, reply);
    }
}
