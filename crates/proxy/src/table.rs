//! One family's table: compiling, committing, and what to do when a commit fails.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use compiler::{Compiler, NodePorts};
use model::{Changes, Family, ServiceName, State};
use netlink::{Committer, Reply};
use ruleset::{CommitError, CommitReport, Transaction};
use telemetry::{Moment, SyncKind};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::conflicts::Conflicts;
use crate::flows::CheckFlows;
use crate::pacer::Pacer;
use crate::syncer::Telemetry;

/// How long after a sync, if nothing else is to be done, chains that no Service needs any more are deleted. Before kernel
/// 6.2 this must not be less than a second (contract §5.9); it is longer because a Service that is being rolled out is back
/// at the same number of endpoints soon, and a new chain costs more than a change of elements.
const SWEEP_DELAY: Duration = Duration::from_secs(10);

/// How many times of changes are remembered for their programming latency while syncs fail.
const MAX_TRIGGERED: usize = 10_000;

/// How a commit ended.
pub(crate) type Outcome = Result<CommitReport, CommitError>;

/// Commits transactions without blocking the caller: [`Committer`], or something of the tests that does without a thread.
pub(crate) trait Commit: Send {
    /// Hands over a transaction. `reply` is called with the outcome, or dropped if there will be none.
    fn commit(&self, transaction: Transaction, reply: Reply);
}

impl Commit for Committer {
    fn commit(&self, transaction: Transaction, reply: Reply) {
        Self::commit(self, transaction, reply);
    }
}

/// The table of one family and the way it is kept true.
///
/// At most one transaction is on its way to the kernel at a time. One that fails leaves the rules as they were; the next
/// sync then writes everything anew, because what the compiler remembers is no longer what the kernel has.
pub(crate) struct Table {
    compiler: Compiler,
    committer: Box<dyn Commit>,
    pacer: Pacer,
    telemetry: Telemetry,
    /// Who looks after the flows of what changed, if anyone does.
    flows: Option<Box<dyn CheckFlows>>,
    conflicts: Conflicts,
    /// What changed since the last sync began.
    waiting: BTreeSet<ServiceName>,
    /// When the changes that the kernel does not have were made.
    triggered: Vec<SystemTime>,
    /// Whether the next sync has to write everything.
    everything: bool,
    /// Whether the last sync failed.
    failing: bool,
    sweep_at: Option<Instant>,
    running: Option<Running>,
}

/// A transaction on its way.
#[derive(Debug)]
struct Running {
    job: Job,
    outcome: oneshot::Receiver<Outcome>,
}

#[derive(Debug)]
enum Job {
    Sync { kind: SyncKind, began: Instant, triggered: Vec<SystemTime>, operations: usize },
    Sweep,
}

impl Table {
    /// A table that has not been written yet.
    pub(crate) fn new(
        compiler: Compiler,
        committer: impl Commit + 'static,
        pacer: Pacer,
        telemetry: Telemetry,
    ) -> Self {
        Self {
            compiler,
            committer: Box::new(committer),
            pacer,
            telemetry,
            flows: None,
            conflicts: Conflicts::default(),
            waiting: BTreeSet::new(),
            triggered: Vec::new(),
            everything: true,
            failing: false,
            sweep_at: None,
            running: None,
        }
    }

    /// Has flows checked after each sync.
    #[must_use]
    pub(crate) fn with_flows(self, flows: impl CheckFlows + 'static) -> Self {
        Self { flows: Some(Box::new(flows)), ..self }
    }

    pub(crate) const fn family(&self) -> Family {
        self.compiler.family()
    }

    /// How many Services have changes that no sync has begun to write.
    pub(crate) fn pending(&self) -> usize {
        self.waiting.len()
    }

    /// From now on, a change that waits too long is unhealthy.
    pub(crate) fn loop_started(&self) {
        self.telemetry.health.updated(self.family(), Moment::now());
        self.telemetry.metrics.sync_queued(self.family(), SystemTime::now());
    }

    /// Asks for a sync of these changes.
    pub(crate) fn request(&mut self, changes: &Changes) {
        self.waiting.extend(changes.services.iter().cloned());
        self.triggered.extend(changes.triggered.get(self.family()));
        self.triggered.truncate(MAX_TRIGGERED);
        self.pacer.request();
        self.queued();
    }

    /// Has the next sync change which of the node's addresses take NodePort traffic. Does not ask for one.
    pub(crate) fn set_node_ports(&mut self, node_ports: NodePorts) {
        self.compiler.set_node_ports(node_ports);
    }

    /// Starts a sync or a sweep if it is time for one.
    pub(crate) fn start_what_is_due(&mut self, state: &State, now: Instant) {
        if self.wake().is_none_or(|at| at > now) {
            return;
        }
        if self.pacer.next_run().is_some() {
            self.sync(state);
        } else {
            self.sweep();
        }
    }

    /// When there will be something to start, unless something happens before. A sweep waits until no sync is wanted.
    pub(crate) fn wake(&self) -> Option<Instant> {
        if self.running.is_some() {
            return None;
        }
        self.pacer.next_run().or(self.sweep_at)
    }

    /// Waits for the end of the commit on its way; for ever if there is none. `None` if the committing thread has died.
    pub(crate) fn poll_commit(&mut self, context: &mut Context<'_>) -> Poll<Option<Outcome>> {
        let Some(running) = &mut self.running else {
            return Poll::Pending;
        };
        Pin::new(&mut running.outcome).poll(context).map(Result::ok)
    }

    /// Takes note of the end of a commit.
    pub(crate) fn finish(&mut self, outcome: Outcome, now: Instant) {
        let Some(Running { job, .. }) = self.running.take() else {
            return;
        };
        match (job, outcome) {
            (Job::Sync { kind, began, triggered, operations }, Ok(report)) => {
                self.telemetry.metrics.committed(self.family(), operations, report.kernel);
                self.synced(kind, now - began, &triggered);
                self.pacer.succeeded(now);
                self.sweep_at = Some(now + SWEEP_DELAY);
            }
            (Job::Sync { kind, began, triggered, .. }, Err(error)) => {
                self.telemetry.metrics.sync_failed(self.family(), kind, now - began);
                self.everything = true;
                self.failing = true;
                self.triggered.splice(..0, triggered);
                let retry_in = self.pacer.failed(now);
                error!(family = %self.family(), ?retry_in, "nftables sync failed, the rules in place stay: {error}");
            }
            (Job::Sweep, Ok(_)) => debug!(family = %self.family(), "unused chains are deleted"),
            (Job::Sweep, Err(error)) => {
                self.telemetry.metrics.cleanup_failed(self.family());
                self.everything = true;
                warn!(family = %self.family(), "Unable to delete stale chains; will retry later: {error}");
            }
        }
    }

    fn sync(&mut self, state: &State) {
        let began = Instant::now();
        self.pacer.started();
        let waiting = std::mem::take(&mut self.waiting);
        let (kind, transaction) = if std::mem::take(&mut self.everything) {
            (SyncKind::Full, self.compiler.compile_all(state))
        } else {
            (SyncKind::Partial, self.compiler.compile(state, &waiting))
        };
        let conflicts = self.conflicts.update(self.compiler.conflicts());
        self.telemetry.metrics.frontends_in_conflict(self.family(), conflicts);
        let operations = transaction.len();
        debug!(family = %self.family(), ?kind, services = waiting.len(), operations, "Syncing nftables rules");
        let triggered = std::mem::take(&mut self.triggered);
        if transaction.is_empty() {
            // What costs the kernel nothing needs no pause after it.
            self.synced(kind, began.elapsed(), &triggered);
        } else {
            self.commit(Job::Sync { kind, began, triggered, operations }, transaction);
        }
    }

    fn sweep(&mut self) {
        self.sweep_at = None;
        let transaction = self.compiler.sweep();
        if !transaction.is_empty() {
            debug!(family = %self.family(), operations = transaction.len(), "Deleting stale nftables chains");
            self.commit(Job::Sweep, transaction);
        }
    }

    fn commit(&mut self, job: Job, transaction: Transaction) {
        let (reply, outcome) = oneshot::channel();
        // If nobody waits for the outcome any more, the program is about to end.
        self.committer.commit(transaction, Box::new(move |outcome| drop(reply.send(outcome))));
        self.running = Some(Running { job, outcome });
    }

    fn synced(&mut self, kind: SyncKind, elapsed: Duration, triggered: &[SystemTime]) {
        let (family, wall) = (self.family(), SystemTime::now());
        // Now that the kernel has the rules by which flows that are deleted begin anew.
        let checks = self.compiler.take_flow_checks();
        if let Some(flows) = &self.flows {
            flows.check(family, checks);
        }
        let Telemetry { metrics, health } = &self.telemetry;
        metrics.synced(family, kind, elapsed, wall);
        for time in triggered {
            // A clock ahead of ours makes no negative latency.
            metrics.programmed(family, wall.duration_since(*time).unwrap_or_default());
        }
        health.updated(family, Moment::now());
        if !self.waiting.is_empty() {
            // They came while this was written.
            health.queued(family, Moment::now());
        }
        if std::mem::take(&mut self.failing) {
            info!(%family, "nftables sync works again, all changes are in place");
        }
        match kind {
            SyncKind::Full => info!(%family, ?elapsed, "all rules are in place"),
            SyncKind::Partial => debug!(%family, ?elapsed, "SyncProxyRules complete"),
        }
    }

    fn queued(&self) {
        self.telemetry.health.queued(self.family(), Moment::now());
        self.telemetry.metrics.sync_queued(self.family(), SystemTime::now());
    }
}
