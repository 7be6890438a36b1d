//! UDP flows are moved off endpoints that do not serve any more (contract §7), and connections in a flowtable off endpoints that are gone.
//!
//! The kernel keeps the destination of a flow as long as datagrams come, whatever the rules say by then. So after each sync
//! that changed the endpoints of a UDP frontend, the flows to it that lead elsewhere than they may are deleted; the next
//! datagram of each is a new flow, for which the rules hold. No sync waits for this: it is done on a thread of its own.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::{Discriminant, discriminant, take};
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use compiler::{FlowCheck, table_family};
use model::{Family, PerFamily, Protocol};
use netlink::{Conntrack, Flow, Flows, Tally};
use telemetry::{Invalidation, Metrics};
use tracing::{debug, info, warn};

use self::checks::Checks;
use crate::node;

/// How long after a commit flows are listed. A datagram that found the old rules is in the list by then; and what changes
/// in both families at once is one piece of work.
const SETTLE: Duration = Duration::from_millis(10);

/// How long flows are left alone after a pass that took long. Flows of datagrams are to move within a second of a change.
const MAX_SETTLE: Duration = Duration::from_millis(500);

/// How long after a failure it is tried again, unless there are other checks to make before; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// Who is told of frontends whose flows are to be checked: [`Reconciler`], or a test.
pub(crate) trait CheckFlows: Send {
    /// Has the flows of these frontends checked some time soon. Does not block.
    fn check(&self, family: Family, checks: Vec<FlowCheck>);

    /// Has this done when the checks that were asked for have been made, or have failed for now. Does not block.
    fn then(&self, next: Next);
}

/// What is to be done next.
pub(crate) type Next = Box<dyn FnOnce() + Send>;

/// The kernel's flows: [`Conntrack`], or those of a test.
pub(crate) trait Connections: Send {
    /// Deletes the flows that are stale.
    ///
    /// # Errors
    /// They cannot be listed.
    fn delete(&mut self, flows: Flows, is_stale: &mut dyn FnMut(&Flow) -> bool) -> io::Result<Tally>;
}

impl Connections for Conntrack {
    fn delete(&mut self, flows: Flows, is_stale: &mut dyn FnMut(&Flow) -> bool) -> io::Result<Tally> {
        Self::delete(self, flows, is_stale)
    }
}

/// Lists the addresses of the node.
pub(crate) type ListAddresses = Box<dyn FnMut() -> Result<Vec<IpAddr>> + Send>;

/// Checks flows, of both families, on a thread that ends with it.
pub(crate) struct Reconciler(Arc<Queue>);

/// What waits to be checked: one entry for each frontend at most, however long it takes.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    checks: PerFamily<Checks>,
    next: Vec<Next>,
    /// Whether any of both came since the last were taken.
    fresh: bool,
    /// Whether there will be no more.
    ended: bool,
}

/// Starts a reconciler on the kernel's conntrack. `None`, after a warning, if the kernel or our rights do not allow it:
/// Services work without.
///
/// # Errors
/// The system has no thread to spare.
pub(crate) fn start(metrics: Arc<Metrics>) -> Result<Option<Arc<Reconciler>>> {
    let conntrack = match Conntrack::open() {
        Ok(conntrack) => conntrack,
        Err(error) => {
            warn!("UDP flows will stay with endpoints that are gone, until they pause: {error}");
            return Ok(None);
        }
    };
    let reconciler = Reconciler::spawn(conntrack, Box::new(node::interface_addresses), metrics);
    Ok(Some(Arc::new(reconciler.context("cannot start the thread that checks UDP flows")?)))
}

impl Reconciler {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub(crate) fn spawn(
        connections: impl Connections + 'static,
        addresses: ListAddresses,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let queue = Arc::<Queue>::default();
        let worker = Worker { connections, addresses, metrics, took: Duration::ZERO, reported: None };
        let theirs = Arc::clone(&queue);
        thread::Builder::new().name("flows".to_owned()).spawn(move || worker.run(&theirs))?;
        Ok(Self(queue))
    }
}

impl CheckFlows for Arc<Reconciler> {
    fn check(&self, family: Family, checks: Vec<FlowCheck>) {
        if !checks.is_empty() {
            let mut waiting = self.0.lock();
            waiting.checks.get_mut(family).add(checks);
            waiting.fresh = true;
            self.0.changed.notify_one();
        }
    }

    fn then(&self, next: Next) {
        let mut waiting = self.0.lock();
        waiting.next.push(next);
        waiting.fresh = true;
        self.0.changed.notify_one();
    }
}

impl Drop for Reconciler {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that is done with the lock held leaves it half done.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for checks, or until `retry` is over, if those that failed are to be tried again, and then for `settle`, for more to
    /// come. `None` at the end.
    fn take(&self, retry: Option<Duration>, settle: Duration) -> Option<(PerFamily<Checks>, Vec<Next>)> {
        let idle = |waiting: &mut Waiting| !waiting.fresh && !waiting.ended;
        let waiting = self.lock();
        let mut waiting = match retry {
            None => self.changed.wait_while(waiting, idle).unwrap_or_else(PoisonError::into_inner),
            Some(retry) => {
                self.changed.wait_timeout_while(waiting, retry, idle).unwrap_or_else(PoisonError::into_inner).0
            }
        };
        if !waiting.ended {
            drop(waiting);
            thread::sleep(settle);
            waiting = self.lock();
        }
        waiting.fresh = false;
        let taken = (take(&mut waiting.checks), take(&mut waiting.next));
        (!waiting.ended).then_some(taken)
    }

    /// Has checks wait that failed, but for frontends that others came for meanwhile.
    fn put_back(&self, family: Family, failed: Checks) {
        self.lock().checks.get_mut(family).add_older(failed);
    }
}

/// The thread.
struct Worker<C> {
    connections: C,
    addresses: ListAddresses,
    metrics: Arc<Metrics>,
    /// How long the last pass took.
    took: Duration,
    /// What went wrong last, if it has not worked since.
    reported: Option<Discriminant<Problem>>,
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0:#}")]
    Addresses(anyhow::Error),
    #[error("cannot list the connections of this node: {0}")]
    List(io::Error),
    #[error("the kernel refused to delete {count} connections: {source}")]
    Refused { count: u64, source: io::Error },
    #[error("the list of this node's connections was interrupted again and again, so that some may be missing in it")]
    Incomplete,
}

impl<C: Connections> Worker<C> {
    fn run(mut self, queue: &Queue) {
        let mut retry = None;
        // Where the table of connections is large, it is not gone through all the time.
        let settle = |took: Duration| SETTLE.max(took * 9).min(MAX_SETTLE);
        while let Some((checks, next)) = queue.take(retry, settle(self.took)) {
            let mut failed = false;
            let PerFamily { v4, v6 } = checks;
            for (family, checks) in [(Family::V4, v4), (Family::V6, v6)] {
                if checks.is_empty() {
                    continue;
                }
                if let Err(problem) = self.reconcile(family, &checks) {
                    self.metrics.connections_not_reconciled(family);
                    self.report(family, &problem);
                    queue.put_back(family, checks);
                    failed = true;
                }
            }
            next.into_iter().for_each(|next| next());
            if !failed && self.reported.take().is_some() {
                info!("UDP flows are checked again");
            }
            retry = failed.then(|| retry.map_or(FIRST_RETRY, |last| MAX_RETRY.min(last * 2)));
        }
    }

    fn reconcile(&mut self, family: Family, checks: &Checks) -> Result<(), Problem> {
        let began = Instant::now();
        let mut own = BTreeSet::new();
        if checks.have_node_ports() {
            // Those of this moment: they come and go while we run.
            own.extend((self.addresses)().map_err(Problem::Addresses)?);
            own.retain(|address| !address.is_loopback());
        }
        let outcomes: Vec<_> = checks.protocols().map(|protocol| self.pass(family, protocol, checks, &own)).collect();
        self.took = began.elapsed();
        outcomes.into_iter().collect()
    }

    /// Looks at the flows of one protocol; of TCP only at those in a flowtable.
    fn pass(
        &mut self,
        family: Family,
        protocol: Protocol,
        checks: &Checks,
        own: &BTreeSet<IpAddr>,
    ) -> Result<(), Problem> {
        let began = Instant::now();
        let offloaded = protocol == Protocol::Tcp;
        let flows = Flows { family: table_family(family), protocol: protocol.number(), offloaded };
        let mut invalidated = BTreeMap::from(Invalidation::ALL.map(|reason| (reason, 0)));
        let is_stale = &mut |flow: &Flow| {
            let reason = checks.stale(protocol, flow, own);
            if let Some(reason) = reason.filter(|_| flow.is_offloaded) {
                *invalidated.entry(reason).or_default() += 1;
            }
            reason.is_some()
        };
        let Tally { listed, deleted, refused, complete, .. } =
            self.connections.delete(flows, is_stale).map_err(Problem::List)?;
        let took = began.elapsed();
        self.metrics.connections_reconciled(family, took, deleted);
        invalidated.into_iter().for_each(|(reason, flows)| self.metrics.fast_path_invalidated(reason, flows));
        debug!(ipFamily = %family, %protocol, listed, entriesDeleted = deleted, ?took, "Finished reconciling conntrack entries");
        match refused {
            Some((count, source)) => Err(Problem::Refused { count, source }),
            None if !complete => Err(Problem::Incomplete),
            None => Ok(()),
        }
    }

    /// Warns of a problem, once for its kind until it works again.
    fn report(&mut self, family: Family, problem: &Problem) {
        let kind = discriminant(problem);
        if self.reported.replace(kind) == Some(kind) {
            debug!(ipFamily = %family, "UDP flows may still go to endpoints that are gone: {problem}");
        } else {
            warn!(ipFamily = %family, "UDP flows may still go to endpoints that are gone, it will be tried again: {problem}");
        }
    }
}

#[cfg(test)]
mod tests;
