//! What follows from a sync: who has to know of it.

use std::time::{Duration, SystemTime};

use compiler::NoLocalEndpoints;
use model::Family;
use ruleset::{CommitReport, Name};
use telemetry::{Moment, SyncKind};
use tracing::{debug, info, trace};

use super::{Table, Telemetry};
use crate::fastpath::Teller;

impl Table {
    /// A transaction of a sync is committed.
    pub(super) fn written(&mut self, operations: usize, report: CommitReport, kind: SyncKind, unwanted: Vec<Name>) {
        if operations > 0 {
            self.telemetry.metrics.committed(self.family(), operations, report.kernel);
        }
        if kind == SyncKind::Full {
            self.unwanted = unwanted.into_iter().collect();
            // They have just lost their last reference.
            self.sweep_at = None;
        }
    }

    pub(super) fn synced(&mut self, kind: SyncKind, elapsed: Duration, triggered: &[SystemTime]) {
        let (family, wall) = (self.family(), SystemTime::now());
        // Now that the kernel has the rules by which flows that are deleted begin anew.
        let checks = self.compiler.take_flow_checks();
        if let Some(flows) = &self.flows {
            flows.check(family, checks);
        }
        if kind == SyncKind::Full {
            self.tell_fast_path(Teller::written);
        }
        if self.compiler.take_opted_out() {
            self.tell_fast_path(Teller::opted_out);
        }
        self.is_synced = true;
        let Telemetry { metrics, health } = &self.telemetry;
        let NoLocalEndpoints { internal, external } = self.compiler.no_local_endpoints();
        metrics.no_local_endpoints(family, internal, external);
        metrics.synced(family, kind, elapsed, wall);
        for time in triggered {
            // A clock ahead of ours makes no negative latency.
            let elapsed = wall.duration_since(*time).unwrap_or_default();
            metrics.programmed(family, elapsed);
            trace!(ipFamily = %family, ?elapsed, "Network programming");
        }
        health.updated(family, Moment::now());
        if !self.waiting.is_empty() {
            // They came while this was written.
            health.queued(family, Moment::now());
        }
        if std::mem::take(&mut self.failing) {
            info!(ipFamily = %family, "nftables sync works again, all changes are in place");
        }
        debug!(ipFamily = %family, ?elapsed, "SyncProxyRules complete");
    }

    /// Has the fast path declared anew. With that, connections leave it for a packet, so that those to be taken out of it cannot be told
    /// from others any more: they come first.
    fn tell_fast_path(&self, news: fn(&Teller, Family)) {
        let (Some(fast_path), family) = (self.fast_path.clone(), self.family()) else { return };
        match &self.flows {
            Some(flows) => flows.then(Box::new(move || news(&fast_path, family))),
            None => news(&fast_path, family),
        }
    }
}
