//! What is done about a table between syncs: settings change, edits of others are noticed, what is not needed any more goes, the kernel
//! forgets what is not true any more, and Services that it refused are tried again.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::ErrorKind;

use model::ServiceName;
use netlink::ForeignEdit;
use ruleset::{CommitError, Element, Op, Rejection};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{FORGET_RETRY, Job, SWEEP_DELAY, Table};
use crate::commit::Outcome;
use crate::fastpath;
use crate::live::Live;

/// How many Services are set aside at most. A kernel that refuses more than that has another problem.
const MOST: usize = 16;

impl Table {
    /// Changes how syncs are spaced, and which connections may take the fast path. Returns whether that takes a sync.
    pub(crate) fn set_live(&mut self, settings: &Live) -> bool {
        self.pacer.set_intervals(settings.min_sync_period, settings.sync_period);
        let changed = self.compiler.set_offloads(fastpath::offloads(settings.fast_path.as_ref()));
        self.everything |= changed;
        changed
    }

    /// Takes note that another program changed the table, or may have done so, and asks for a repair.
    pub(crate) fn edited(&mut self, edit: &ForeignEdit, now: Instant) {
        let family = self.family();
        let is_new = self.repairs.request(now);
        match edit {
            ForeignEdit::Seen { by, .. } => {
                self.telemetry.metrics.foreign_edit(family);
                if is_new {
                    let who = by.as_ref().map_or_else(|| "another program".to_owned(), ToString::to_string);
                    warn!(ipFamily = %family, "{who} changed the table kube-proxy, which is ours: it is being repaired");
                }
            }
            ForeignEdit::Missed | ForeignEdit::Deaf(_) if is_new => {
                warn!(ipFamily = %family, "commits of other programs may have been missed: the table is checked");
            }
            ForeignEdit::Missed | ForeignEdit::Deaf(_) => {}
        }
        self.everything = true;
        self.queued();
    }

    /// Has what nothing needs any more looked for in a while, if there may be any.
    pub(super) fn plan_sweep(&mut self, now: Instant) {
        if self.compiler.is_unswept() || !self.unwanted.is_empty() {
            self.sweep_at.get_or_insert(now + SWEEP_DELAY);
        }
    }

    pub(super) fn sweep(&mut self, now: Instant) {
        self.sweep_at = None;
        let mut transaction = self.compiler.sweep();
        transaction.ops.extend(std::mem::take(&mut self.unwanted).into_iter().map(Op::DeleteChain));
        if !transaction.is_empty() {
            debug!(ipFamily = %self.family(), operations = transaction.len(), "Deleting stale nftables chains");
            self.commit(Job::Sweep, transaction);
        }
        self.plan_sweep(now);
    }

    /// Asks the kernel where it sent clients, because some of them must not be sent there any more.
    pub(super) fn list(&mut self) {
        self.forget_at = None;
        let Some(choices) = self.compiler.stale_choices() else { return };
        let (family, table) = self.compiler.table();
        let reply = self.start(Job::List);
        self.committer.elements(family, table, choices.name.clone(), Box::new(|listed| reply(Outcome::Listed(listed))));
    }

    /// Deletes what is not true any more of where the kernel sent clients.
    pub(super) fn forget(&mut self, choices: &[Element]) {
        let transaction = self.compiler.forget(choices);
        if transaction.is_empty() {
            if std::mem::take(&mut self.not_forgotten) {
                info!(ipFamily = %self.family(), "clients with session affinity to endpoints that left go elsewhere again");
            }
            return;
        }
        debug!(ipFamily = %self.family(), of = choices.len(), clients = transaction.len(), "forgetting where clients were sent");
        let operations = transaction.len();
        let reply = self.start(Job::Forget);
        self.committer.delete(transaction, Box::new(move |done| reply(Outcome::committed(done, operations))));
    }

    /// What was to be forgotten is still there. New connections to endpoints that left are dropped meanwhile.
    pub(super) fn not_forgotten(&mut self, error: &dyn Display, now: Instant) {
        self.telemetry.metrics.cleanup_failed(self.family());
        self.forget_at = Some(now + FORGET_RETRY);
        if !std::mem::replace(&mut self.not_forgotten, true) {
            warn!(
                ipFamily = %self.family(),
                "clients with session affinity to endpoints that left have to wait, it will be tried again: {error}"
            );
        }
    }

    /// Sets the Services aside that the kernel refused, so that the others are served. Returns whether there are any. `is_again`:
    /// whether the sync before failed as well.
    pub(super) fn set_aside(&mut self, error: &CommitError, is_again: bool, now: Instant) -> bool {
        let CommitError::Rejected { rejections } = error else { return false };
        // What is there already, or is not there, may be another program's doing since the table was read: to read it again
        // mends that. If it does not, it is what the Services want, unless more than elements is refused: then the table has gone. That
        // we may not is never their doing: the table is another's.
        let only_elements = rejections.iter().all(|rejection| rejection.element.is_some());
        let is_own = |rejection: &&Rejection| match rejection.source.kind() {
            ErrorKind::PermissionDenied => false,
            ErrorKind::AlreadyExists | ErrorKind::NotFound => is_again && only_elements,
            _ => true,
        };
        let elements = rejections.iter().filter(is_own).filter_map(|rejection| rejection.element.as_ref());
        let owners: BTreeSet<ServiceName> = elements.filter_map(|(set, key)| self.compiler.owner(set, key)).collect();
        if owners.is_empty() || self.asides.count() + owners.len() > MOST {
            return false;
        }
        // Their flows and clients are seen to as if they had gone.
        self.waiting.extend(owners.iter().cloned());
        for service in owners {
            let delay = self.asides.put(service.clone(), now);
            self.compiler.set_aside(&service, true);
            error!(
                ipFamily = %self.family(), %service, retry_in = ?delay,
                "this Service is not served, because {error}: change or delete it, or report it with this log"
            );
        }
        self.telemetry.metrics.services_set_aside(self.family(), self.asides.count());
        true
    }

    /// Tries Services again that were set aside for long enough.
    pub(super) fn take_back(&mut self, now: Instant) {
        if self.asides.next().is_none_or(|at| at > now) {
            return;
        }
        for service in self.asides.take_due(now) {
            info!(ipFamily = %self.family(), %service, "trying again a Service that was refused");
            self.compiler.set_aside(&service, false);
            self.waiting.insert(service);
        }
        self.telemetry.metrics.services_set_aside(self.family(), self.asides.count());
        self.pacer.request();
    }
}
