//! Edits of other programs are noticed, and only those.

#![allow(clippy::unwrap_used, reason = "the values are constants of the test")]

mod common;

use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Result, bail};
use common::{add, endpoint, endpoints, name, nft, table, transaction};
use netlink::{ForeignEdit, Monitor, NfTables};
use ruleset::{Family, Kernel as _, Op};
use testing::netns::Namespace;

/// A namespace with a table `t` of ours, and what is noticed there.
fn watched() -> Result<(Namespace, NfTables, Receiver<ForeignEdit>)> {
    let namespace = Namespace::new("watched")?;
    let (report, noticed) = mpsc::channel();
    let monitor = namespace.run(|| Monitor::spawn(name("t"), move |edit| drop(report.send(edit))))?;
    let mut kernel = namespace.run(NfTables::open)?.known_to(&monitor)?;
    kernel.commit(&transaction(
        Family::Ip,
        vec![table(), Op::AddSet(endpoints()), add(&endpoints(), vec![endpoint(1)])],
    ))?;
    kernel.commit(&transaction(Family::Ip6, vec![table()]))?;
    Ok((namespace, kernel, noticed))
}

fn next(noticed: &Receiver<ForeignEdit>) -> Result<(Family, String)> {
    match noticed.recv_timeout(Duration::from_secs(10))? {
        ForeignEdit::Seen { family, by: Some(program) } => Ok((family, program.name)),
        other => bail!("{other:?}"),
    }
}

#[test]
fn each_foreign_edit_is_noticed_once_with_its_author() -> Result<()> {
    let (namespace, mut kernel, noticed) = watched()?;
    let nft_edits = [
        "add chain ip t c",
        "add rule ip t c drop",
        "flush chain ip t c",
        "add set ip t s { type ipv4_addr ; }",
        "add element ip t s { 10.0.0.1, 10.0.0.2, 10.0.0.3 }",
        "delete element ip t endpoints { 10.0.0.1 . tcp . 80 . 1 }",
        "delete set ip t s",
        "delete table ip t",
    ];
    for edit in nft_edits {
        // Neither our own commits nor those on other tables come in between.
        kernel.commit(&transaction(Family::Ip6, vec![table()]))?;
        nft(&namespace, "add table ip t2", "")?;
        nft(&namespace, "add table inet t", "")?;
        nft(&namespace, "-f -", edit).or_else(|error| {
            if edit.starts_with("delete element") {
                // nft 1.0.6 cannot write keys of a `typeof` map.
                nft(&namespace, "flush map ip t endpoints", "")
            } else {
                Err(error)
            }
        })?;
        assert_eq!(next(&noticed)?, (Family::Ip, "nft".to_owned()), "{edit}");
    }
    nft(&namespace, "flush ruleset", "")?;
    assert_eq!(next(&noticed)?, (Family::Ip6, "nft".to_owned()));
    // The last would be heard after any others.
    nft(&namespace, "add table ip6 t", "")?;
    assert_eq!(next(&noticed)?, (Family::Ip6, "nft".to_owned()));
    assert!(noticed.try_recv().is_err());
    Ok(())
}

#[test]
fn our_own_commits_are_never_noticed_however_large() -> Result<()> {
    let (namespace, mut kernel, noticed) = watched()?;
    let elements: Vec<_> = (10..110_000).map(endpoint).collect();
    kernel.commit(&transaction(Family::Ip, vec![add(&endpoints(), elements)]))?;
    kernel.commit(&transaction(Family::Ip, vec![Op::FlushSet(endpoints())]))?;
    nft(&namespace, "add chain ip6 t c", "")?;
    assert_eq!(next(&noticed)?.0, Family::Ip6, "and nothing is lost before it");
    assert!(noticed.try_recv().is_err());
    Ok(())
}

/// A process of ours that knows nothing of the monitor is a foreign program.
#[test]
fn another_process_of_the_same_program_is_foreign() -> Result<()> {
    let (namespace, _kernel, noticed) = watched()?;
    let mut other = namespace.run(NfTables::open)?;
    other.commit(&transaction(Family::Ip, vec![Op::FlushSet(endpoints())]))?;
    assert_eq!(next(&noticed)?.0, Family::Ip);
    Ok(())
}
