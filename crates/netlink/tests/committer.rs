//! The thread that commits, and others that commit meanwhile.

mod common;

use std::sync::mpsc;

use anyhow::{Context as _, Result};
use common::{add, chain, endpoint, endpoints, kernel, nft, table, transaction};
use netlink::Committer;
use ruleset::{Family, Kernel as _, Op};

#[test]
fn transactions_are_committed_in_order() -> Result<()> {
    let (namespace, kernel) = kernel("committer")?;
    let committer = Committer::spawn(kernel)?;
    let set = endpoints();
    let (outcomes, received) = mpsc::channel();
    let start = transaction(Family::Ip, vec![table(), Op::AddSet(set.clone())]);
    let rest = (0..100).map(|n| transaction(Family::Ip, vec![add(&set, vec![endpoint(n)])]));
    for transaction in std::iter::once(start).chain(rest) {
        let outcomes = outcomes.clone();
        committer.commit(transaction, move |outcome| outcomes.send(outcome).unwrap());
    }
    for _ in 0..101 {
        let report = received.recv()??;
        assert!(report.bytes > 0);
        assert!(!report.kernel.is_zero());
    }
    assert_eq!(nft(&namespace, "list ruleset", "")?.matches("tcp").count(), 100);
    Ok(())
}

#[test]
fn what_was_handed_over_is_committed_before_it_ends() -> Result<()> {
    let (namespace, kernel) = kernel("end")?;
    let committer = Committer::spawn(kernel)?;
    committer.commit(transaction(Family::Ip, vec![table()]), |_| {});
    committer.commit(transaction(Family::Ip, vec![chain("last")]), |_| {});
    drop(committer);
    assert!(nft(&namespace, "list ruleset", "")?.contains("chain last"));
    Ok(())
}

/// Another program commits to its own table all the time; neither disturbs the other.
#[test]
fn beside_another_program() -> Result<()> {
    let (namespace, mut kernel) = kernel("beside")?;
    let set = endpoints();
    kernel.commit(&transaction(Family::Ip, vec![table(), Op::AddSet(set.clone())]))?;
    let mut other = namespace
        .command("sh")
        .args([
            "-ec",
            "i=0; while [ $i -lt 20 ]; do i=$((i+1)); nft add table inet other; nft delete table inet other; done",
        ])
        .spawn()
        .context("cannot run sh")?;
    let mut commits = 0;
    let status = loop {
        kernel.commit(&transaction(Family::Ip, vec![add(&set, vec![endpoint(commits)])]))?;
        commits += 1;
        if let Some(status) = other.try_wait()? {
            break status;
        }
    };
    assert!(status.success());
    let listing = namespace.sh("nft list map ip t endpoints | grep -o tcp | wc -l")?;
    assert_eq!(listing.trim(), commits.to_string());
    Ok(())
}
