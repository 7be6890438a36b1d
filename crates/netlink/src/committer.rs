//! A thread that talks to the kernel.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use ruleset::{
    CommitError, CommitReport, Element, Family, Found, Kernel, Name, Op, ReadError, Reconciler, Reconciliation,
    Rejection, Transaction,
};

/// Does one job after the other with a kernel, on a thread of its own.
///
/// If the thread has ended, which it does only if the kernel panicked, replies are dropped without a call. When this is
/// dropped, what was handed over is still done, and waited for.
#[derive(Debug)]
pub struct Committer<K> {
    /// `None` only while this is dropped.
    jobs: Option<SyncSender<Job<K>>>,
    thread: Option<JoinHandle<()>>,
}

type Job<K> = Box<dyn FnOnce(&mut K) + Send>;

/// What became of a table that was to be made the wanted one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reconciled {
    /// It is the wanted one.
    Done {
        /// How many objects were changed, each element counted.
        operations: usize,
        /// Chains to be deleted later; see [`Reconciliation::unwanted`].
        unwanted: Vec<Name>,
        /// What the commit took; all zero if nothing had to be changed.
        report: CommitReport,
    },
    /// Nothing was done: it has to be replaced as a whole, see [`Reconciler::finish`].
    Unfit,
}

impl<K: Kernel + Send + 'static> Committer<K> {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn spawn(kernel: K) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(1);
        let thread = thread::Builder::new().name("committer".to_owned()).spawn(move || work(kernel, &queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Commits a transaction, and calls `reply` with the outcome. Blocks while one job is being done and another waits, so a
    /// caller that awaits each reply never blocks.
    pub fn commit(
        &self,
        transaction: Transaction,
        reply: impl FnOnce(Result<CommitReport, CommitError>) + Send + 'static,
    ) {
        self.hand_over(move |kernel| reply(kernel.commit(&transaction)));
    }

    /// Reads a table. Blocks as [`Committer::commit`].
    pub fn read(
        &self,
        family: Family,
        table: Name,
        reply: impl FnOnce(Result<Option<Found>, ReadError>) + Send + 'static,
    ) {
        self.hand_over(move |kernel| reply(kernel.read(family, &table)));
    }

    /// Lists the elements of a set. Blocks as [`Committer::commit`].
    pub fn elements(
        &self,
        family: Family,
        table: Name,
        set: Name,
        reply: impl FnOnce(Result<Vec<Element>, ReadError>) + Send + 'static,
    ) {
        self.hand_over(move |kernel| reply(kernel.elements(family, &table, &set)));
    }

    /// Commits a transaction that deletes elements, of which some may have gone by themselves meanwhile; those are left out.
    /// Blocks as [`Committer::commit`].
    pub fn delete(
        &self,
        transaction: Transaction,
        reply: impl FnOnce(Result<CommitReport, CommitError>) + Send + 'static,
    ) {
        self.hand_over(move |kernel| reply(delete(kernel, transaction)));
    }

    /// Makes the table that was found the wanted one; see [`Reconciler`]. Blocks as [`Committer::commit`].
    pub fn reconcile(
        &self,
        reconciler: Reconciler,
        reply: impl FnOnce(Result<Reconciled, CommitError>) + Send + 'static,
    ) {
        self.hand_over(move |kernel| reply(Reconciled::by(kernel, reconciler)));
    }

    fn hand_over(&self, job: impl FnOnce(&mut K) + Send + 'static) {
        if let Some(jobs) = &self.jobs {
            // An error returns the job, which drops the reply.
            drop(jobs.send(Box::new(job)));
        }
    }
}

impl Reconciled {
    /// Makes the table that a kernel holds the wanted one.
    ///
    /// # Errors
    /// Those of the commit.
    pub fn by(kernel: &mut impl Kernel, reconciler: Reconciler) -> Result<Self, CommitError> {
        let Some(Reconciliation { transaction, unwanted }) = reconciler.finish(kernel) else { return Ok(Self::Unfit) };
        let report = if transaction.is_empty() { CommitReport::default() } else { kernel.commit(&transaction)? };
        Ok(Self::Done { operations: transaction.len(), unwanted, report })
    }
}

/// How often a transaction is tried without elements that have gone. The kernel names one of each message, which has some
/// thousand, and in the milliseconds since they were listed hardly any can have gone.
const DELETIONS: u32 = 32;

fn delete(kernel: &mut impl Kernel, mut transaction: Transaction) -> Result<CommitReport, CommitError> {
    for _ in 0..DELETIONS {
        match kernel.commit(&transaction) {
            Err(CommitError::Rejected { rejections }) => {
                if !leave_out(&mut transaction, &rejections) {
                    return Err(CommitError::Rejected { rejections });
                }
            }
            done => return done,
        }
    }
    kernel.commit(&transaction)
}

/// Takes out the elements that were refused because they have gone, if nothing was refused for another reason.
fn leave_out(transaction: &mut Transaction, rejections: &[Rejection]) -> bool {
    // From the last, so that the others keep their places.
    rejections.iter().rev().all(|rejection| {
        let (op, element) = rejection.position;
        let is_gone = rejection.source.raw_os_error() == Some(libc::ENOENT);
        match (transaction.ops.get_mut(op), element) {
            (Some(Op::DeleteElements { elements, .. }), Some(index)) if is_gone && index < elements.len() => {
                elements.remove(index);
                true
            }
            _ => false,
        }
    })
}

impl<K> Drop for Committer<K> {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, that has been reported by then.
            drop(thread.join());
        }
    }
}

fn work<K>(mut kernel: K, queue: &Receiver<Job<K>>) {
    for job in queue {
        job(&mut kernel);
    }
}
