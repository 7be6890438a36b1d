//! What other programs do to the tables, and what is found at the start.

use std::sync::Arc;

use netlink::Program;
use ruleset::{Chain, Name, Rule, Set, Statement};

use super::*;

fn edit(family: Family) -> ForeignEdit {
    let family = compiler::table_family(family);
    ForeignEdit::Seen { family, by: Some(Program { name: "nft".to_owned(), pid: 7 }) }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

impl Harness {
    /// Has another program change the IPv4 table, and tells the syncer.
    pub(super) async fn edited(&self, ops: Vec<Op>) {
        self.kernels.v4.edit(Family::V4, ops);
        self.edits.send(edit(Family::V4)).await.unwrap();
    }

    fn set(&self, text: &str) -> Arc<Set> {
        Arc::clone(&self.kernels.v4.table(Family::V4).unwrap().sets()[text].set)
    }

    fn edits(&self) -> usize {
        let metrics = self.telemetry.metrics.render();
        let line = metrics.lines().find_map(|l| l.strip_prefix(r#"slipstream_foreign_edits_total{ip_family="IPv4"} "#));
        line.map_or(0, |count| count.parse().unwrap())
    }
}

#[tokio::test(start_paused = true)]
async fn each_kind_of_foreign_edit_is_undone_at_once() {
    let mut harness = Harness::synced(&["web"]).await;
    let intact = harness.kernels.v4.table(Family::V4);
    let endpoints = harness.set("endpoints");
    let foreign_rule = |chain| Op::AddRule(Rule { chain, statements: vec![Statement::Reject], comment: None });
    let foreign_chain = Op::AddChain(Chain { name: name("foreign"), hook: None, comment: None });
    let cases = [
        (vec![Op::DeleteTable], true),
        (vec![Op::FlushSet(endpoints)], false),
        (vec![Op::FlushChain(name("services"))], false),
        (vec![foreign_rule(name("services"))], false),
        (vec![foreign_chain, foreign_rule(name("foreign"))], false),
    ];
    for (count, (ops, replaced)) in cases.into_iter().enumerate() {
        sleep(HOUR).await;
        let start = Instant::now();
        harness.edited(ops).await;
        let repair = harness.commit().await;
        assert_eq!((repair.family, repair.accepted, repair.is_full()), (Family::V4, true, replaced));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(harness.edits(), count + 1);
    }
    let sweep = harness.commit().await;
    assert_eq!(sweep.transaction.ops, [Op::DeleteChain(name("foreign"))]);
    assert_eq!(harness.kernels.v4.table(Family::V4), intact);
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err(), "what was repaired is not repaired again");
    assert!(harness.telemetry.health.is_healthy(Moment::now() + HOUR));
}

#[tokio::test(start_paused = true)]
async fn an_edit_that_changes_nothing_is_looked_at_and_costs_no_commit() {
    let mut harness = Harness::synced(&["web"]).await;
    harness.edits.send(ForeignEdit::Missed).await.unwrap();
    harness.edits.send(edit(Family::V4)).await.unwrap();
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err());
    // At the start, at once, and a second later for the second edit.
    assert_eq!((harness.kernels.v4.readings(), harness.kernels.v6.readings()), (3, 2));
    assert_eq!(harness.edits(), 1, "what was missed may have been nothing");
    assert!(harness.metric("slipstream_foreign_edits_missed_total 1"));
    assert!(harness.metric(r#"slipstream_full_syncs_total{ip_family="IPv4",result="unchanged"} 2"#));
}

#[tokio::test(start_paused = true)]
async fn a_program_that_undoes_repairs_does_not_keep_us_busy() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    let start = Instant::now();
    let endpoints = harness.set("endpoints");
    let mut repairs = 0;
    while start.elapsed() < Duration::from_mins(10) {
        harness.edited(vec![Op::FlushSet(Arc::clone(&endpoints))]).await;
        assert!(harness.commit_of(Family::V4).await.accepted);
        repairs += 1;
        if repairs == 8 {
            assert!(start.elapsed() <= Duration::from_secs(7), "the first ones come fast: {:?}", start.elapsed());
        }
    }
    assert!(repairs < 40, "{repairs} repairs");

    // A change does not wait for the repair that is due.
    harness.edited(vec![Op::FlushSet(endpoints)]).await;
    let asked = Instant::now();
    harness.send(service("new")).await;
    assert!(harness.commit_of(Family::V4).await.accepted);
    assert!(asked.elapsed() <= Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_edit_during_a_sync_is_not_forgotten() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    let intact = harness.kernels.v4.table(Family::V4);
    harness.kernels.v4.get_stuck();
    // The first is stuck in the reading, the others come meanwhile.
    for text in ["services", "masquerading", "cluster-ips-check"] {
        harness.edited(vec![Op::FlushChain(name(text))]).await;
        sleep(Duration::from_millis(1)).await;
    }
    assert!(harness.kernels.v4.is_busy());
    harness.kernels.v4.let_go();
    harness.commit_of(Family::V4).await;
    sleep(HOUR).await;
    assert_eq!(harness.kernels.v4.table(Family::V4), intact);
    assert_eq!(harness.kernels.v4.readings(), 3);
}

/// What goes while everything is looked at was there before all the same.
#[tokio::test(start_paused = true)]
async fn flows_of_a_service_that_goes_during_a_repair_are_checked() {
    let mut harness = Harness::synced(&[]).await;
    let dns = || [service_over(Protocol::Udp, "dns"), slice_over(Protocol::Udp, "dns", 1)];
    harness.updates.send(dns().into()).await.unwrap();
    sleep(HOUR).await;
    while harness.checks.try_recv().is_ok() {}
    harness.kernels.v4.get_stuck();
    harness.edited(vec![Op::FlushChain(name("services"))]).await;
    sleep(Duration::from_millis(1)).await;
    assert!(harness.kernels.v4.is_busy());
    harness.send(Update::ServiceGone(ServiceName::new("test", "dns"))).await;
    sleep(Duration::from_millis(1)).await;
    harness.kernels.v4.let_go();
    sleep(HOUR).await;
    let checks = std::iter::from_fn(|| harness.checks.try_recv().ok()).filter(|(family, _)| *family == Family::V4);
    let checks: Vec<_> = checks.flat_map(|(_, checks)| checks).collect();
    assert!(!checks.is_empty() && checks.iter().all(|check| check.serving.is_none()), "{checks:?}");
}

#[tokio::test(start_paused = true)]
async fn before_the_first_sync_the_table_is_another_programs() {
    let mut harness = Harness::start();
    for _ in 0..3 {
        harness.edits.send(edit(Family::V4)).await.unwrap();
    }
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err());
    assert_eq!((harness.edits(), harness.kernels.v4.readings()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_table_that_cannot_be_read_is_replaced() {
    let mut harness = Harness::synced(&["web"]).await;
    let intact = harness.kernels.v4.table(Family::V4);
    harness.kernels.v4.get_unreadable();
    harness.edited(vec![Op::FlushChain(name("services"))]).await;
    let commit = harness.commit_of(Family::V4).await;
    assert!(commit.accepted && commit.is_full());
    assert_eq!(harness.kernels.v4.table(Family::V4), intact);
    sleep(HOUR).await;
    // As at the start.
    assert!(harness.metric(r#"slipstream_full_syncs_total{ip_family="IPv4",result="replaced"} 2"#));
}
