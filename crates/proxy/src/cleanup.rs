//! Taking away what Slipstream, and every mode of kube-proxy, leaves in the kernel (contract §3.3).
//!
//! No program is run and no module is loaded for that, and nothing is touched that is not known to be kube-proxy's: by the names of
//! chains, ipsets and a link, and by what these say of IPVS.

mod iptables;
mod ipvs;

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use anyhow::{Context as _, Error, Result, ensure};
use compiler::table_family;
use model::Family;
use netlink::{NfTables, OpenError};
use ruleset::{CommitError, Kernel as _, Op, Transaction};
use tracing::{error, info, warn};

/// Takes away the rules of Slipstream and of every mode of kube-proxy (`--cleanup`, contract §1.5).
///
/// # Errors
/// Something of that could not be taken away, as the log says. Everything else was.
pub fn cleanup() -> Result<()> {
    let mut failures = Vec::new();
    if let Some(mut kernel) = open(&mut failures) {
        for family in Family::ALL.map(table_family) {
            failures.extend(delete_table(&mut kernel, family).err());
            iptables::remove(&mut kernel, family, &mut failures);
        }
    }
    ipvs::remove(&mut failures);
    failures.iter().for_each(|failure| error!("{failure:#}"));
    ensure!(failures.is_empty(), "encountered an error while tearing down rules: {} of them, as above", failures.len());
    info!("what could be removed of kube-proxy's rules is gone");
    Ok(())
}

/// Takes away what kube-proxy's iptables and ipvs modes have left, on a thread of its own. It is to be told which tables have not been
/// written yet, whenever one has been for the first time: until our rules are in place, the others serve. Connections go on, as
/// conntrack remembers where to; only those through IPVS end.
pub(crate) fn leftovers() -> Sender<BTreeSet<Family>> {
    let (unwritten, told) = mpsc::channel();
    if let Err(error) = thread::Builder::new().name("leftovers".to_owned()).spawn(move || remove_leftovers(&told)) {
        warn!("there is no thread to remove what another mode of kube-proxy left: {error}");
    }
    unwritten
}

/// Chains go as soon as the table of their family has been written, so that one that never is does not keep those of the other; what
/// the families share, when all have been.
fn remove_leftovers(told: &Receiver<BTreeSet<Family>>) {
    let mut left = Family::ALL.to_vec();
    while !left.is_empty()
        && let Ok(unwritten) = told.recv()
    {
        let (later, now): (Vec<_>, Vec<_>) = left.into_iter().partition(|family| unwritten.contains(family));
        left = later;
        let mut failures = Vec::new();
        if let Some(mut kernel) = open(&mut failures) {
            now.into_iter().for_each(|family| iptables::remove(&mut kernel, table_family(family), &mut failures));
        }
        if left.is_empty() {
            ipvs::remove(&mut failures);
        }
        for failure in failures {
            warn!(
                "something stays of what another mode of kube-proxy left, until the next start or --cleanup: {failure:#}"
            );
        }
    }
}

/// The kernel's nf_tables, unless it has none, and so no rules.
fn open(failures: &mut Vec<Error>) -> Option<NfTables> {
    match NfTables::open() {
        Ok(kernel) => Some(kernel),
        Err(OpenError::Missing) => {
            info!("this kernel has no nf_tables loaded, and so no rules in them");
            None
        }
        Err(error) => {
            failures.push(error.into());
            None
        }
    }
}

/// Deletes the table that is ours as well as that of kube-proxy's nftables mode.
fn delete_table(kernel: &mut NfTables, family: ruleset::Family) -> Result<()> {
    let table = compiler::table_name();
    let transaction = Transaction { ops: vec![Op::DeleteTable], ..Transaction::new(family, table) };
    match kernel.commit(&transaction) {
        Ok(_) => {
            info!(%family, table = %transaction.table, "deleted the table");
            Ok(())
        }
        Err(CommitError::Rejected { rejections }) if rejections.iter().all(|r| is_missing(&r.source)) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("the table {family} {} stays", transaction.table)),
    }
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
