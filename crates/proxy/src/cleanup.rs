//! Taking away what Slipstream, and every mode of kube-proxy, leaves in the kernel (contract §3.3).
//!
//! No program is run and no module is loaded for that, and nothing is touched that is not known to be kube-proxy's: by the names of
//! chains, ipsets and a link, and by what these say of IPVS.

mod iptables;
mod ipvs;

use std::io;
use std::thread;

use anyhow::{Context as _, Error, Result, ensure};
use config::Config;
use netlink::{NfTables, OpenError};
use ruleset::{CommitError, Family, Kernel as _, Op, Transaction};
use tracing::{error, info, warn};

/// Takes away the rules of Slipstream and of every mode of kube-proxy (`--cleanup`, contract §1.5). It is the same whatever the
/// configuration says.
///
/// # Errors
/// Something of that could not be taken away, as the log says. Everything else was.
pub fn cleanup(_config: &Config) -> Result<()> {
    let failures = remove(&[Family::Ip, Family::Ip6]);
    failures.iter().for_each(|failure| error!("{failure:#}"));
    ensure!(failures.is_empty(), "encountered an error while tearing down rules: {} of them, as above", failures.len());
    info!("what could be removed of kube-proxy's rules is gone");
    Ok(())
}

/// Takes away what kube-proxy's iptables and ipvs modes have left, on a thread of its own. To be called when our own rules are in
/// place, so that Services never go without. Connections go on, as conntrack remembers where to; only those through IPVS end.
pub(crate) fn remove_leftovers() {
    let work = || {
        for failure in remove(&[]) {
            warn!(
                "something stays of what another mode of kube-proxy left, until the next start or --cleanup: {failure:#}"
            );
        }
    };
    if let Err(error) = thread::Builder::new().name("leftovers".to_owned()).spawn(work) {
        warn!("there is no thread to remove what another mode of kube-proxy left: {error}");
    }
}

/// Removes our tables of these families, and what the other modes have left. Returns why something of that stays.
fn remove(tables: &[Family]) -> Vec<Error> {
    let mut failures = Vec::new();
    if let Some(mut kernel) = open(&mut failures) {
        for family in tables {
            failures.extend(delete_table(&mut kernel, *family).err());
        }
        iptables::remove(&mut kernel, &mut failures);
    }
    ipvs::remove(&mut failures);
    failures
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
fn delete_table(kernel: &mut NfTables, family: Family) -> Result<()> {
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
