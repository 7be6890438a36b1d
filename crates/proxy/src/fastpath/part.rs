//! The fast path of one family: what the kernel has of it, and what it should have.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::Result;
use compiler::{FastPath, FastPathCounts, table_family, table_name};
use ifsync::Members;
use model::{Family, Protocol};
use netlink::{Conntrack, Flows, FoundFlowtable, NfTables, Place};
use ruleset::{CommitError, DeviceChanges, Kernel as _};
use telemetry::{InterfaceSync, Metrics};
use tracing::{info, warn};

/// How often it is tried at once to tell the kernel of devices while these come and go.
const TRIES: usize = 5;

#[derive(Debug)]
pub(super) struct Part {
    fast_path: FastPath,
    /// Whether the table has been written, into which it goes.
    table_is_there: bool,
    /// The numbers of devices that the rules know; `None` if it is not declared, or not known to be as it should.
    declared: Option<BTreeSet<NonZeroU32>>,
    /// What had been counted when it was last asked for.
    counts: FastPathCounts,
    /// Whether it is known to be out of order.
    failing: bool,
}

/// What came of telling the kernel of the devices.
#[derive(Debug)]
pub(super) struct Synced {
    /// The links as they were then.
    pub(super) members: Members,
    /// Whether anything had to change.
    pub(super) changed: bool,
    /// How often devices came or went in between.
    races: usize,
}

impl Part {
    pub(super) const fn new(fast_path: FastPath) -> Self {
        let counts = FastPathCounts { offloads: 0, misses: 0, dry_run: 0 };
        Self { fast_path, table_is_there: false, declared: None, counts, failing: false }
    }

    pub(super) const fn family(&self) -> Family {
        self.fast_path.family
    }

    /// The table has been looked at as a whole and written: at the start, or because someone changed it or a transaction failed. What
    /// there was of the fast path may be gone.
    pub(super) fn table_written(&mut self) {
        self.table_is_there = true;
        self.renew();
    }

    /// Whether there is a table to write to.
    pub(super) const fn is_ready(&self) -> bool {
        self.table_is_there
    }

    /// Has it declared anew with the next sync, so that its connections take the slow path for one packet.
    pub(super) fn renew(&mut self) {
        self.declared = None;
    }

    /// Makes it what it should be for the devices that `list` tells of.
    ///
    /// Devices may go between the list and the transaction, which the kernel refuses then as a whole: the list is made again.
    ///
    /// # Errors
    /// The kernel refused, for another reason or all the time.
    pub(super) async fn sync(
        &mut self,
        kernel: &mut NfTables,
        list: impl AsyncFn() -> Result<Members>,
    ) -> Result<Synced> {
        let mut races = 0;
        loop {
            let members = list().await?;
            match self.write(kernel, &members) {
                Ok(changed) => {
                    self.recovered();
                    return Ok(Synced { members, changed, races });
                }
                // Nothing of the transaction has happened, so that what is known stays true.
                Err(error) if races + 1 < TRIES && is_race(&error) => races += 1,
                Err(error) => {
                    self.declared = None;
                    return Err(error);
                }
            }
        }
    }

    /// Returns whether anything had to be written.
    fn write(&mut self, kernel: &mut NfTables, members: &Members) -> Result<bool> {
        let found = self.flowtable(kernel)?;
        let replaces = found.is_some();
        let chain_is_there = is_declared(self.family(), kernel)?;
        if let (Some(FoundFlowtable { devices, .. }), Some(numbers), true) = (found, &self.declared, chain_is_there) {
            let changes: DeviceChanges = members.changes(&devices, numbers);
            if changes.is_empty() {
                return Ok(false);
            }
            kernel.commit(&self.fast_path.change_devices(&changes))?;
        } else {
            kernel.commit(&self.fast_path.declare(&members.devices, replaces))?;
        }
        self.declared = Some(members.devices.keys().copied().collect());
        Ok(true)
    }

    fn flowtable(&self, kernel: &mut NfTables) -> Result<Option<FoundFlowtable>> {
        let ours = FastPath::flowtable();
        let found = kernel.flowtables()?;
        Ok(found.into_iter().find(|found| is_ours(&found.place, self.family()) && found.place.name == ours.as_str()))
    }

    /// Tells what has been counted since the last time.
    pub(super) fn count(&mut self, kernel: &mut NfTables, conntrack: Option<&mut Conntrack>, metrics: &Metrics) {
        if self.declared.is_none() {
            return;
        }
        let family = self.family();
        match kernel.counters(table_family(family), &table_name()) {
            Ok(packets) => {
                let now = FastPath::counts(|counter| packets.get(counter).copied());
                // Counters begin anew with the table.
                let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
                let last = std::mem::replace(&mut self.counts, now);
                let (offloads, misses) = (since(now.offloads, last.offloads), since(now.misses, last.misses));
                metrics.fast_path_counted(family, offloads, misses, since(now.dry_run, last.dry_run));
            }
            Err(error) => warn!(ipFamily = %family, "what the fast path counts cannot be read: {error}"),
        }
        if let Some(conntrack) = conntrack {
            match offloaded(conntrack, family) {
                Ok(flows) => metrics.fast_path_flows(family, flows),
                Err(error) => warn!(ipFamily = %family, "offloaded connections cannot be counted: {error}"),
            }
        }
    }

    /// Says once that it is out of order.
    pub(super) fn report_failure(&mut self, error: &anyhow::Error, elapsed: Duration, metrics: &Metrics) {
        let family = self.family();
        metrics.interfaces_synced(family, InterfaceSync::Failed, elapsed);
        metrics.fast_path_enabled(family, false);
        if !std::mem::replace(&mut self.failing, true) {
            warn!(ipFamily = %family, "the fast path is out of order, and tried again: {error:#}");
        }
    }

    /// Says that it is in order again, if it was not.
    fn recovered(&mut self) {
        if std::mem::take(&mut self.failing) {
            info!(ipFamily = %self.family(), "the fast path is in order again");
        }
    }
}

impl Synced {
    pub(super) fn report(&self, family: Family, elapsed: Duration, metrics: &Metrics) {
        for _ in 0..self.races {
            metrics.interfaces_synced(family, InterfaceSync::Raced, elapsed);
        }
        if self.changed {
            metrics.interfaces_synced(family, InterfaceSync::Done, elapsed);
        }
        metrics.fast_path_enabled(family, true);
        metrics.fast_path_devices(family, self.members.devices.len());
    }
}

/// Takes the fast path of an earlier start away, if there is one.
pub(super) fn remove(family: Family, kernel: &mut NfTables) -> Result<()> {
    if is_declared(family, kernel)? {
        kernel.commit(&FastPath::remove(family))?;
        info!(ipFamily = %family, "the fast path is switched off, and was taken away");
    }
    Ok(())
}

fn is_declared(family: Family, kernel: &mut NfTables) -> Result<bool> {
    let chain = FastPath::chain();
    let chains = kernel.forward_chains()?;
    Ok(chains.iter().any(|found| is_ours(&found.place, family) && found.place.name == chain.as_str()))
}

/// Whether something is in our table of this family.
pub(super) fn is_ours(place: &Place, family: Family) -> bool {
    let number = match family {
        Family::V4 => nix::libc::NFPROTO_IPV4,
        Family::V6 => nix::libc::NFPROTO_IPV6,
    };
    nix::libc::c_int::from(place.family) == number && place.table == table_name().as_str()
}

/// Whether the kernel refused because of a device that is not there any more, or is there already.
fn is_race(error: &anyhow::Error) -> bool {
    let Some(CommitError::Rejected { rejections }) = error.downcast_ref() else { return false };
    let raced = [nix::libc::ENOENT, nix::libc::EEXIST].map(Some);
    rejections.iter().all(|rejection| raced.contains(&rejection.source.raw_os_error()))
}

fn offloaded(conntrack: &mut Conntrack, family: Family) -> Result<u64> {
    let mut flows = 0;
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let which = Flows { family: table_family(family), protocol: protocol.number(), offloaded: true };
        flows += conntrack.count(which, |_| true)?.matched;
    }
    Ok(flows)
}

#[cfg(test)]
mod tests;
