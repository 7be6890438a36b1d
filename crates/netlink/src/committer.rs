//! A thread that commits.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use ruleset::{CommitError, CommitReport, Kernel, Transaction};

/// What is called with the outcome of a commit, on the thread that commits: it must not block.
pub type Reply = Box<dyn FnOnce(Result<CommitReport, CommitError>) + Send>;

/// Commits transactions one after the other, on a thread of its own.
///
/// When this is dropped, what was handed over is still committed, and waited for.
#[derive(Debug)]
pub struct Committer {
    /// `None` only while this is dropped.
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

struct Job {
    transaction: Transaction,
    reply: Reply,
}

impl Committer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub fn spawn<K: Kernel + Send + 'static>(kernel: K) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(1);
        let thread = thread::Builder::new().name("committer".to_owned()).spawn(move || work(kernel, &queue))?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Commits a transaction, and calls `reply` with the outcome. Blocks while one is being committed and another waits,
    /// so a caller that awaits each reply never blocks.
    ///
    /// If the thread has ended, which it does only if the kernel panicked, `reply` is dropped without a call.
    pub fn commit(
        &self,
        transaction: Transaction,
        reply: impl FnOnce(Result<CommitReport, CommitError>) + Send + 'static,
    ) {
        let reply = Box::new(reply);
        if let Some(jobs) = &self.jobs {
            // An error returns the job, which drops the reply.
            drop(jobs.send(Job { transaction, reply }));
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, that has been reported by then.
            drop(thread.join());
        }
    }
}

fn work<K: Kernel>(mut kernel: K, queue: &Receiver<Job>) {
    for Job { transaction, reply } in queue {
        reply(kernel.commit(&transaction));
    }
}
