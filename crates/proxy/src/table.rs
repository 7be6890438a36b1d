//! One family's table: compiling, committing, and what to do when a commit fails or others change the table.

pub(crate) mod everything;
mod followup;
mod upkeep;

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use compiler::{Compiler, FastPath, NodePorts, ServedPort};
use model::{Changes, Family, PortNumber, ServiceName, State};
use netlink::Reconciled;
use ruleset::{CommitError, Name, Op, Transaction};
use telemetry::{Moment, SyncKind};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::asides::Asides;
use crate::commit::{Commit, Outcome};
use crate::conflicts::Conflicts;
use crate::fastpath::Teller;
use crate::flows::CheckFlows;
use crate::pacer::Pacer;
use crate::repairs::Repairs;
use crate::syncer::Telemetry;

/// How long after a sync it is looked for what no Service needs any more; what is found twice is deleted. Before kernel 6.2 this
/// must not be less than a second (contract §5.9); it is longer because a Service that is being rolled out is back at the same
/// number of endpoints soon, and a new chain costs more than a change of elements.
const SWEEP_DELAY: Duration = Duration::from_secs(10);

/// How long until it is tried again to have the kernel forget where it sent clients.
const FORGET_RETRY: Duration = Duration::from_secs(5);

/// How many times of changes are remembered for their programming latency while syncs fail.
const MAX_TRIGGERED: usize = 10_000;

/// The table of one family and the way it is kept true.
///
/// At most one job is on its way to the kernel at a time. Whenever it is not certain that the kernel has what the compiler
/// remembers, which is at the start, after a transaction that failed, and after other programs changed the table, the next sync
/// looks at everything: it reads the table, has the compiler go on with what is there, and writes what differs.
pub(crate) struct Table {
    compiler: Compiler,
    committer: Box<dyn Commit>,
    pacer: Pacer,
    telemetry: Telemetry,
    /// Who looks after the flows of what changed, if anyone does.
    flows: Option<Box<dyn CheckFlows>>,
    /// Who adds the fast path to a table that has been written.
    fast_path: Option<Teller>,
    conflicts: Conflicts,
    /// What changed since the last sync began.
    waiting: BTreeSet<ServiceName>,
    /// When the changes that the kernel does not have were made.
    triggered: Vec<SystemTime>,
    /// Whether the next sync has to look at everything.
    everything: bool,
    /// Whether the last sync failed.
    failing: bool,
    /// When what others did is undone.
    repairs: Repairs,
    /// Chains without rules that are in the table and should not be; see [`ruleset::Reconciliation::unwanted`].
    unwanted: BTreeSet<Name>,
    /// When the kernel is told to forget where it sent clients that it must not send there any more.
    forget_at: Option<Instant>,
    /// Whether the last try to have it forget failed.
    not_forgotten: bool,
    sweep_at: Option<Instant>,
    /// What was compiled, and whether a sync has succeeded, since this was last asked for.
    compiled: Option<Compiled>,
    is_synced: bool,
    /// What comes next of a table that is made part by part.
    next_part: Option<Transaction>,
    /// Services that the kernel refused.
    asides: Asides,
    running: Option<Running>,
}

/// What a sync is about.
#[derive(Debug)]
pub(crate) enum Compiled {
    Everything,
    Services(BTreeSet<ServiceName>),
}

/// A job on its way.
#[derive(Debug)]
struct Running {
    job: Job,
    outcome: oneshot::Receiver<Outcome>,
}

#[derive(Debug)]
enum Job {
    /// Reads the table, to look at everything.
    Read {
        began: Instant,
    },
    Sync(Sync),
    /// Lists where the kernel sent clients.
    List,
    /// Deletes what is not true of that any more.
    Forget,
    Sweep,
}

/// One that writes changes, in one transaction or, where a table is made from nothing, in several.
#[derive(Debug)]
struct Sync {
    kind: SyncKind,
    began: Instant,
    triggered: Vec<SystemTime>,
    /// Whether the table was replaced as a whole.
    replaced: bool,
    /// How many operations the kernel has taken.
    operations: usize,
}

impl Sync {
    const fn new(kind: SyncKind, began: Instant, triggered: Vec<SystemTime>) -> Self {
        Self { kind, began, triggered, replaced: false, operations: 0 }
    }
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
            fast_path: None,
            conflicts: Conflicts::default(),
            waiting: BTreeSet::new(),
            triggered: Vec::new(),
            everything: true,
            failing: false,
            repairs: Repairs::default(),
            unwanted: BTreeSet::new(),
            forget_at: None,
            not_forgotten: false,
            sweep_at: None,
            compiled: None,
            is_synced: false,
            next_part: None,
            asides: Asides::default(),
            running: None,
        }
    }

    /// Has the fast path told of the table.
    pub(crate) fn with_fast_path(self, teller: Teller) -> Self {
        Self { fast_path: Some(teller), ..self }
    }

    /// Has flows checked after each sync.
    #[must_use]
    pub(crate) fn with_flows(self, flows: impl CheckFlows + 'static) -> Self {
        Self { flows: Some(Box::new(flows)), ..self }
    }

    pub(crate) const fn family(&self) -> Family {
        self.compiler.family()
    }

    /// Whether it is the table of this family.
    pub(crate) fn is_of(&self, family: ruleset::Family) -> bool {
        self.compiler.table().0 == family
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
    pub(crate) fn request(&mut self, changes: &Changes, now: Instant) {
        for service in &changes.services {
            if self.asides.changed(service, now) {
                self.compiler.set_aside(service, false);
                self.telemetry.metrics.services_set_aside(self.compiler.family(), self.asides.count());
            }
        }
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

    /// Starts a job if it is time for one.
    pub(crate) fn start_what_is_due(&mut self, state: &State, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if self.running.is_some() {
            return;
        }
        self.take_back(now);
        // A sync comes first: Services wait for nothing, and where it is not certain what the kernel has, what it notes may follow
        // older rules.
        if is_due(self.next_sync()) {
            self.sync(state, now);
        } else if is_due(self.forget_at) && !self.everything {
            self.list();
        } else if is_due(self.sweep_at) {
            self.sweep(now);
        }
    }

    /// When there will be something to start, unless something happens before.
    pub(crate) fn wake(&self) -> Option<Instant> {
        if self.running.is_some() {
            return None;
        }
        let forget_at = self.forget_at.filter(|_| !self.everything);
        [forget_at, self.next_sync(), self.sweep_at, self.asides.next()].into_iter().flatten().min()
    }

    /// What is being written for the state of this moment, if a sync began since the last call.
    pub(crate) fn take_compiled(&mut self) -> Option<Compiled> {
        self.compiled.take()
    }

    /// Whether a Service is left out, because the kernel refused it.
    pub(crate) fn leaves_out(&self, service: &ServiceName) -> bool {
        self.asides.is_out(service)
    }

    /// Who has a TCP NodePort, and what serves it, by what was compiled last.
    pub(crate) fn tcp_node_port(&self, port: PortNumber) -> Option<ServedPort> {
        self.compiler.tcp_node_port(port)
    }

    /// Whether a sync has succeeded since the last call.
    pub(crate) fn take_synced(&mut self) -> bool {
        std::mem::take(&mut self.is_synced)
    }

    fn next_sync(&self) -> Option<Instant> {
        self.pacer.next_run().into_iter().chain(self.repairs.due()).min()
    }

    /// Waits for the end of the job on its way; for ever if there is none. `None` if the committing thread has died.
    pub(crate) fn poll_job(&mut self, context: &mut Context<'_>) -> Poll<Option<Outcome>> {
        let Some(running) = &mut self.running else {
            return Poll::Pending;
        };
        Pin::new(&mut running.outcome).poll(context).map(Result::ok)
    }

    /// Takes note of the end of a job, and goes on with the next one where it was the first of two.
    pub(crate) fn finish(&mut self, outcome: Outcome, state: &State, now: Instant) {
        let Some(Running { job, .. }) = self.running.take() else {
            return;
        };
        match (job, outcome) {
            (Job::Read { began }, Outcome::Read(mut found)) => {
                if let Ok(Some(found)) = &mut found {
                    FastPath::leave_out(found);
                }
                self.sync_everything(state, began, found);
            }
            (Job::Sync(sync), Outcome::Written(Ok(done))) => self.finish_sync(sync, done, state, now),
            (Job::Sync(sync), Outcome::Written(Err(error))) => self.sync_failed(sync, &error, now),
            (Job::List, Outcome::Listed(Ok(choices))) => self.forget(&choices),
            (Job::Forget, Outcome::Written(Ok(_))) => {
                self.compiler.forgotten();
                // A list may miss some: until there are none.
                self.forget_at = Some(now);
            }
            (Job::List, Outcome::Listed(Err(error))) => self.not_forgotten(&error, now),
            (Job::Forget, Outcome::Written(Err(error))) => self.not_forgotten(&error, now),
            (Job::Sweep, Outcome::Written(Ok(_))) => debug!(ipFamily = %self.family(), "unused chains are deleted"),
            (Job::Sweep, Outcome::Written(Err(error))) => {
                self.telemetry.metrics.cleanup_failed(self.family());
                self.everything = true;
                self.pacer.request();
                warn!(ipFamily = %self.family(), "Unable to delete stale chains; will retry later: {error}");
            }
            (Job::Read { .. } | Job::List, Outcome::Written(_))
            | (Job::Sync(_) | Job::Sweep | Job::Forget | Job::List, Outcome::Read(_))
            | (Job::Read { .. } | Job::Sync(_) | Job::Sweep | Job::Forget, Outcome::Listed(_)) => {
                error!(ipFamily = %self.family(), "the answer to another job arrived: report it with this log");
                self.everything = true;
                self.pacer.request();
            }
        }
    }

    fn finish_sync(&mut self, mut sync: Sync, done: Reconciled, state: &State, now: Instant) {
        let Reconciled::Done { operations, unwanted, report } = done else { return self.replace(state, sync) };
        sync.operations += operations;
        self.written(operations, report, sync.kind, unwanted);
        if let Some(part) = self.next_part.take() {
            return self.commit_part(state, sync, part);
        }
        if sync.kind == SyncKind::Full {
            self.tell_of_all(&sync);
        }
        self.synced(sync.kind, now - sync.began, &sync.triggered);
        self.pacer.succeeded(now);
        self.forget_at = self.compiler.stale_choices().map(|_| now);
        self.plan_sweep(now);
    }

    fn sync_failed(&mut self, sync: Sync, error: &CommitError, now: Instant) {
        let Sync { kind, began, triggered, .. } = sync;
        self.next_part = None;
        self.telemetry.metrics.sync_failed(self.family(), kind, now - began);
        self.everything = true;
        let is_again = std::mem::replace(&mut self.failing, true);
        self.triggered.splice(..0, triggered);
        if kind == SyncKind::Full && self.set_aside(error, is_again, now) {
            return self.pacer.retry_at_once(now);
        }
        let retry_in = self.pacer.failed(now);
        let family = self.family();
        error!(ipFamily = %family, err = %error, "nftables sync failed, the rules in place stay");
        info!(ipFamily = %family, retryingTime = ?retry_in, "Sync failed");
    }

    fn sync(&mut self, state: &State, now: Instant) {
        self.pacer.started();
        self.repairs.started(now);
        self.telemetry.health.queued(self.family(), Moment::now());
        if std::mem::take(&mut self.everything) {
            debug!(ipFamily = %self.family(), "Reading the nftables rules that are there");
            let (family, table) = self.compiler.table();
            let reply = self.start(Job::Read { began: now });
            self.committer.read(family, table, Box::new(|found| reply(Outcome::Read(found))));
        } else {
            self.sync_changes(state, now);
        }
    }

    /// Writes the changes.
    fn sync_changes(&mut self, state: &State, began: Instant) {
        let kind = SyncKind::Partial;
        let waiting = std::mem::take(&mut self.waiting);
        let transaction = self.compiler.compile(state, &waiting);
        self.tell_conflicts();
        debug!(ipFamily = %self.family(), services = waiting.len(), operations = transaction.len(), "Syncing nftables rules");
        self.compiled = Some(Compiled::Services(waiting));
        let triggered = std::mem::take(&mut self.triggered);
        if transaction.is_empty() {
            // What costs the kernel nothing needs no pause after it.
            self.synced(kind, began.elapsed(), &triggered);
        } else {
            self.commit(Job::Sync(Sync::new(kind, began, triggered)), transaction);
        }
    }

    fn commit(&mut self, job: Job, transaction: Transaction) {
        for op in &transaction.ops {
            if let Op::AddChain(chain) = op {
                self.unwanted.remove(&chain.name);
            }
        }
        let operations = transaction.len();
        let reply = self.start(job);
        self.committer.commit(transaction, Box::new(move |done| reply(Outcome::committed(done, operations))));
    }

    /// From now on, a job is on its way. Returns what its outcome is to be told to.
    fn start(&mut self, job: Job) -> impl FnOnce(Outcome) + Send + use<> {
        let (reply, outcome) = oneshot::channel();
        self.running = Some(Running { job, outcome });
        // If nobody waits for the outcome any more, the program is about to end.
        move |outcome| drop(reply.send(outcome))
    }

    fn tell_conflicts(&mut self) {
        let conflicts = self.conflicts.update(self.compiler.conflicts());
        self.telemetry.metrics.frontends_in_conflict(self.family(), conflicts);
    }

    fn queued(&self) {
        self.telemetry.health.queued(self.family(), Moment::now());
        self.telemetry.metrics.sync_queued(self.family(), SystemTime::now());
    }
}
