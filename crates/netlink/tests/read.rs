//! Tables read back, and made what they should be.

#![allow(clippy::unwrap_used, reason = "the values are constants of the test")]

mod common;

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use common::{add, address, chain, endpoint, endpoints, kernel, name, nft, reads_back, set, table, transaction};
use netlink::{Committer, NfTables, Reconciled};
use ruleset::{
    Chain, ChainKind, Comment, CommitReport, Comparison, Data, DataType, Describe as _, Element, Family, Field, Found,
    Hook, HookPoint, Kernel as _, Op, Reconciler, Rule, Selector, Set, SetKind, Statement, Transaction, Verdict, Words,
    reconcile,
};
use testing::netns::Namespace;

/// A table of the compiler's kind, made from nothing.
fn full() -> Transaction {
    let services = set("services", &[Field::Address, Field::Protocol, Field::Port], Some(DataType::Verdict));
    let frontend = vec![Selector::DestinationAddress, Selector::Protocol, Selector::DestinationPort];
    let key = |n: u32| Words::build().address(address(0x0a60_0000 + n)).protocol(6).port(80).finish();
    let goto = |n: u32, comment: Option<&str>| common::verdict(key(n), Verdict::Goto(name("lb")), comment);
    let hook = Hook { kind: ChainKind::Nat, point: HookPoint::Prerouting, priority: -100 };
    let rule = |text, statements| Op::AddRule(Rule { chain: name(text), statements, comment: None });
    let lookup = Statement::VerdictMap { key: frontend.clone(), map: services.clone() };
    let random = [frontend, vec![Selector::Random(NonZeroU32::new(7).unwrap())]].concat();
    let addresses = set("addresses", &[Field::Address], None);
    let known = Statement::InSet { key: vec![Selector::DestinationAddress], set: addresses.clone() };
    let cluster_ip = |n| Element { key: Words::build().address(address(n)).finish(), data: Data::None, comment: None };
    let ops = vec![
        table(),
        Op::DeleteTable,
        table(),
        Op::AddChain(Chain { name: name("nat-prerouting"), hook: Some(hook), comment: None }),
        chain("services"),
        chain("lb"),
        Op::AddSet(services.clone()),
        Op::AddSet(endpoints()),
        Op::AddSet(addresses.clone()),
        rule("nat-prerouting", vec![Statement::Verdict(Verdict::Jump(name("services")))]),
        rule("lb", vec![Statement::Dnat { key: random, map: endpoints() }]),
        rule("services", vec![known, lookup.clone()]),
        Op::AddRule(Rule { chain: name("services"), statements: vec![lookup], comment: Some(Comment::new("twice")) }),
        add(&services, (0..50).map(|n| goto(n, (n < 10).then_some("prod/web:http"))).collect()),
        add(&endpoints(), (0..300).map(endpoint).collect()),
        add(&addresses, (0..50).map(cluster_ip).collect()),
    ];
    transaction(Family::Ip, ops)
}

fn read(kernel: &mut NfTables) -> Result<Found> {
    kernel.read(Family::Ip, &name("t"))?.context("there is no table")
}

#[test]
fn a_table_that_is_not_there() -> Result<()> {
    let (namespace, mut kernel) = kernel("none")?;
    nft(&namespace, "add table ip6 t", "")?;
    nft(&namespace, "add table ip t2", "")?;
    assert_eq!(kernel.read(Family::Ip, &name("t"))?, None);
    Ok(())
}

/// Whatever another program does to a table, it is the wanted one again after one transaction of just what is amiss.
#[test]
fn foreign_edits_are_undone() -> Result<()> {
    // The edit, and how many objects it takes to undo it; none where the table has to be replaced.
    let edits = [
        ("add rule ip t services counter", Some(1 + 2)),
        ("insert rule ip t lb ip saddr { 10.0.0.1, 10.0.0.2 } drop", Some(1 + 1)),
        ("add chain ip t extra; add rule ip t services jump extra; add rule ip t extra drop", Some(1 + 1 + 2)),
        ("add rule ip t lb ip saddr 10.0.0.1 jump { counter ; }", Some(1 + 1)),
        ("flush chain ip t services", Some(2)),
        ("flush chain ip t nat-prerouting; delete chain ip t nat-prerouting", Some(2)),
        ("flush chain ip t lb; flush map ip t endpoints; delete map ip t endpoints", Some(1 + 1 + 300)),
        ("flush set ip t addresses", Some(50)),
        ("delete element ip t services { 10.96.0.3 . tcp . 80 }", Some(1)),
        ("add element ip t services { 10.99.0.1 . tcp . 80 : accept }", Some(1)),
        (
            "delete element ip t services { 10.96.0.4 . tcp . 80 }; \
             add element ip t services { 10.96.0.4 . tcp . 80 comment \"x\" : drop }",
            Some(1 + 1),
        ),
        ("add set ip t more { type ifname . ipv4_addr ; elements = { lo . 10.0.0.1 } }", Some(1)),
        ("add set ip t ranges { type ipv4_addr ; flags interval ; elements = { 10.0.0.0/8 } }", Some(1)),
        ("add table ip t { flags dormant ; }", None),
        ("add chain ip t _ours", None),
        ("add set ip t _ours { type ipv4_addr ; }", None),
        ("add chain ip t more { type filter hook input priority 0 ; }", None),
        ("chain ip t nat-prerouting { policy drop ; }", None),
        ("flush ruleset", None),
        ("delete table ip t; add table ip t; add map ip t services { type ipv4_addr : verdict ; }", None),
    ];
    let (namespace, mut kernel) = kernel("edits")?;
    kernel.commit(&full())?;
    reads_back(&mut kernel, &full())?;
    for (edit, cost) in edits {
        nft(&namespace, "-f -", &edit.replace("; ", "\n").replace(" ;\n", " ; "))
            .or_else(|_| nft(&namespace, "-f -", edit))
            .with_context(|| edit.to_owned())?;
        let generation = kernel.generation()?;
        let found = kernel.read(Family::Ip, &name("t"))?;
        let reconciled = found.map(|found| reconciled(&mut kernel, found)).transpose();
        match reconciled.with_context(|| edit.to_owned())? {
            Some(Reconciled::Done { operations, unwanted, .. }) => {
                assert_eq!(Some(operations), cost, "{edit}");
                assert_eq!(kernel.generation()?, generation + 1, "{edit}");
                let sweep = unwanted.into_iter().map(Op::DeleteChain).collect::<Vec<_>>();
                kernel.commit(&transaction(Family::Ip, sweep))?;
            }
            None | Some(Reconciled::Unfit) => {
                assert_eq!((cost, kernel.generation()?), (None, generation), "{edit}");
                kernel.commit(&full())?;
            }
        }
        reads_back(&mut kernel, &full()).with_context(|| edit.to_owned())?;
    }
    Ok(())
}

#[test]
fn what_is_right_is_not_written() -> Result<()> {
    let (_namespace, mut kernel) = kernel("right")?;
    kernel.commit(&full())?;
    let generation = kernel.generation()?;
    let found = read(&mut kernel)?;
    let done = reconciled(&mut kernel, found)?;
    assert_eq!(done, Reconciled::Done { operations: 0, unwanted: Vec::new(), report: CommitReport::default() });
    assert_eq!(kernel.generation()?, generation);
    Ok(())
}

fn reconciled(kernel: &mut NfTables, found: Found) -> Result<Reconciled> {
    let mut reconciler = Reconciler::new(Family::Ip, name("t"), Arc::new(found));
    reconciler.take(&full());
    Ok(Reconciled::by(kernel, reconciler)?)
}

/// Matches everything, and no key of ours would delete it.
#[test]
fn elements_without_a_key() -> Result<()> {
    let (namespace, mut kernel) = kernel("catchall")?;
    kernel.commit(&full())?;
    nft(&namespace, "-f -", "add element ip t addresses { * }")?;
    assert_eq!(read(&mut kernel)?.sets["addresses"].unspeakable, 1);
    let found = read(&mut kernel)?;
    assert_eq!(reconciled(&mut kernel, found)?, Reconciled::Unfit);
    kernel.commit(&full())?;
    reads_back(&mut kernel, &full())
}

/// Others change other tables all the time. A reading that they spoil is begun anew.
/// Rules fill it while it is read, and no reconciliation looks at it.
#[test]
fn what_rules_add_to_a_set_is_not_read_with_the_table() -> Result<()> {
    let (_namespace, mut kernel) = kernel("dynamic")?;
    let size = NonZeroU32::new(1000).unwrap();
    let clients = Set::clone(&set("clients", &[Field::Address], None));
    let clients = Arc::new(Set { kind: SetKind::Dynamic { size }, ..clients });
    let elements: Vec<_> = (0..500)
        .map(|n| Element { key: Words::build().address(address(n)).finish(), data: Data::None, comment: None })
        .collect();
    let ops = vec![table(), Op::AddSet(clients.clone()), add(&clients, elements.clone())];
    kernel.commit(&transaction(Family::Ip, ops))?;
    let found = &read(&mut kernel)?.sets[&clients.name];
    assert!(found.elements.is_empty());
    assert_eq!(kernel.elements(Family::Ip, &name("t"), &clients.name)?.len(), elements.len());
    Ok(())
}

/// 4.0.1.0 is an attribute of netlink's as well, and 4.0.1.64 is the same one but for flags.
#[test]
fn addresses_that_look_like_attributes_are_told_apart() -> Result<()> {
    let (_namespace, kernel) = kernel("addresses")?;
    let rule = |prefix: &str| {
        let prefix = prefix.parse().unwrap();
        let selector = Selector::SourceAddress;
        let statement = Statement::Prefix { selector, comparison: Comparison::Is, prefix };
        kernel.rule(Family::Ip, &Rule { chain: name("c"), statements: vec![statement], comment: None })
    };
    let texts = ["4.0.1.0/26", "4.0.1.64/26", "4.0.1.128/26", "4.0.1.192/26"].map(rule);
    let different: BTreeSet<_> = texts.iter().collect();
    assert_eq!(different.len(), texts.len(), "{texts:?}");
    Ok(())
}

#[test]
fn beside_another_program() -> Result<()> {
    let (namespace, mut kernel) = kernel("beside")?;
    kernel.commit(&full())?;
    let mut other = namespace
        .command("sh")
        .args(["-ec", "for i in $(seq 30); do nft add table ip other; nft delete table ip other; done"])
        .spawn()
        .context("cannot run sh")?;
    let status = loop {
        reads_back(&mut kernel, &full())?;
        if let Some(status) = other.try_wait()? {
            break status;
        }
    };
    assert!(status.success());
    Ok(())
}

#[test]
fn as_many_elements_as_a_large_cluster_has() -> Result<()> {
    let (_namespace, mut kernel) = kernel("110k")?;
    let ops = vec![table(), Op::AddSet(endpoints()), add(&endpoints(), (0..110_000).map(endpoint).collect())];
    let full = transaction(Family::Ip, ops);
    kernel.commit(&full)?;
    let start = Instant::now();
    let found = read(&mut kernel)?;
    let read = start.elapsed();
    assert_eq!(found.sets["endpoints"].elements.len(), 110_000);
    let start = Instant::now();
    let reconciliation = reconcile(full, Some(Arc::new(found)), &kernel);
    println!("110,000 elements: read in {read:?}, compared in {:?}", start.elapsed());
    ensure!(reconciliation.transaction.is_empty(), "{} operations", reconciliation.transaction.len());
    Ok(())
}

#[test]
fn jobs_are_done_in_order() -> Result<()> {
    let (_namespace, kernel) = kernel("jobs")?;
    let committer = Committer::spawn(kernel)?;
    let (answers, answered) = std::sync::mpsc::channel();
    let tell = |answers: &std::sync::mpsc::Sender<String>| {
        let answers = answers.clone();
        move |text: String| answers.send(text).unwrap()
    };
    let found = tell(&answers);
    committer.read(Family::Ip, name("t"), move |table| found(format!("{}", table.unwrap().is_some())));
    let reconciled = tell(&answers);
    let nothing = Reconciler::new(Family::Ip, name("t"), Arc::new(Found { beyond_repair: true, ..Found::default() }));
    committer.reconcile(nothing, move |done| reconciled(format!("{:?}", done.unwrap())));
    let committed = tell(&answers);
    committer.commit(full(), move |done| committed(format!("{}", done.is_ok())));
    let found = tell(&answers);
    committer.read(Family::Ip, name("t"), move |table| found(format!("{}", table.unwrap().unwrap().sets.len())));
    let answers: Vec<_> = answered.iter().take(4).collect();
    assert_eq!(answers, ["false", "Unfit", "true", "3"]);
    Ok(())
}

#[test]
fn the_namespace_is_that_of_the_thread() -> Result<()> {
    let (_namespace, mut kernel) = kernel("one")?;
    kernel.commit(&full())?;
    let other = Namespace::new("other")?;
    let mut elsewhere = other.run(NfTables::open)?;
    assert_eq!(elsewhere.read(Family::Ip, &name("t"))?, None);
    Ok(())
}
