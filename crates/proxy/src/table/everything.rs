//! Syncs that look at everything: whatever the kernel holds becomes the wanted table.

use std::sync::Arc;

use model::State;
use ruleset::{Found, ReadError, Reconciler, Transaction};
use telemetry::{FullSync, SyncKind};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Compiled, Job, Sync, Table};
use crate::commit::Outcome;

/// How many elements the transactions have, more or less, of which a table is made where there is none: each takes the kernel some
/// 60 ms, during which no other program can change rules, and little memory.
pub(crate) const PART: usize = 20_000;

impl Table {
    /// Makes the table the wanted one, whatever was found.
    pub(super) fn sync_everything(&mut self, state: &State, began: Instant, found: Result<Option<Found>, ReadError>) {
        // What was asked for meanwhile is in the state already.
        self.pacer.started();
        let waiting = std::mem::take(&mut self.waiting);
        self.compiler.follow(state, &waiting);
        let sync = Sync::new(SyncKind::Full, began, std::mem::take(&mut self.triggered));
        match found {
            Ok(Some(found)) => self.reconcile(state, sync, found),
            Ok(None) => {
                let first = self.compile_first(state, PART);
                self.commit_part(state, Sync { replaced: true, ..sync }, first);
            }
            Err(error) => {
                warn!(ipFamily = %self.family(), "the table is replaced as a whole: {error}");
                self.replace(state, sync);
            }
        }
    }

    /// Writes a part of a table, and compiles the next one while the kernel is busy with it.
    pub(super) fn commit_part(&mut self, state: &State, sync: Sync, part: Transaction) {
        self.commit(Job::Sync(sync), part);
        self.next_part = self.compiler.compile_next(state, PART);
    }

    /// Writes what differs from what was found.
    fn reconcile(&mut self, state: &State, sync: Sync, found: Found) {
        let found = Arc::new(found);
        self.compiler.adopt(Arc::clone(&found));
        let (family, table) = self.compiler.table();
        let mut reconciler = Reconciler::new(family, table, found);
        reconciler.take(&self.compile_first(state, PART));
        while let Some(part) = self.compiler.compile_next(state, PART) {
            reconciler.take(&part);
        }
        let reply = self.start(Job::Sync(sync));
        self.committer.reconcile(reconciler, Box::new(|outcome| reply(Outcome::Written(outcome))));
    }

    /// Replaces a table that cannot be read, or cannot be made the wanted one: at once, so that there is always one or the other.
    pub(super) fn replace(&mut self, state: &State, sync: Sync) {
        // What came since it was compared.
        let waiting = std::mem::take(&mut self.waiting);
        self.compiler.follow(state, &waiting);
        let full = self.compile_first(state, usize::MAX);
        self.commit(Job::Sync(Sync { replaced: true, ..sync }), full);
    }

    /// Compiles everything anew, and takes note of what is told once it is written: all parts are of the state of this moment.
    fn compile_first(&mut self, state: &State, most: usize) -> Transaction {
        let first = self.compiler.compile_first(state, most);
        self.compiled = Some(Compiled::Everything);
        self.tell_conflicts();
        let (services, endpoints) = self.compiler.compiled();
        debug!(ipFamily = %self.family(), numServices = services, numEndpoints = endpoints, "Reloading service nftables data");
        first
    }

    /// All of it is as it should be: says what that took.
    pub(super) fn tell_of_all(&self, sync: &Sync) {
        let (what, found) = match (sync.replaced, sync.operations) {
            (true, _) => (FullSync::Replaced, "the table was written as a whole"),
            (false, 0) => (FullSync::Unchanged, "the table that was there is as it should be"),
            (false, _) => (FullSync::Changed, "what differed in the table that was there was changed"),
        };
        self.telemetry.metrics.fully_synced(self.family(), what);
        info!(ipFamily = %self.family(), operations = sync.operations, "all rules are in place: {found}");
    }
}
