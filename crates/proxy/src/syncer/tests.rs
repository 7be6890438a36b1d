//! The sync loop over in-memory kernels that can be made to fail or to take their time. All of it runs on one thread, and
//! tokio's clock jumps ahead whenever everything waits for it: the outcome does not depend on the machine.

mod faults;
mod harness;
mod health_checks;
mod live;
mod localhost;
mod node;
mod parts;
mod repairs;
mod upkeep;

use std::collections::BTreeSet;
use std::time::Duration;

use compiler::FlowCheck;
use model::{Family, Kind, Protocol, ServiceName};
use ruleset::Op;
use telemetry::Moment;
use tokio::time::sleep;

use self::harness::{Harness, service, service_over, slice, slice_over};
use super::*;

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_both_lists_are_complete() {
    let mut harness = Harness::start();
    harness.send(Update::ListStarted(Kind::Service)).await;
    harness.send(service("web")).await;
    harness.send(Update::ListComplete(Kind::Service)).await;
    harness.send(Update::ListStarted(Kind::EndpointSlice)).await;
    harness.send(slice("web", 2)).await;
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err(), "the slices were not complete");

    harness.send(Update::ListComplete(Kind::EndpointSlice)).await;
    let families: BTreeSet<_> = [harness.commit().await.family, harness.commit().await.family].into();
    assert_eq!(families, Family::ALL.into());
    assert!(harness.kernels.v4.elements(Family::V4) > 0);
    assert!(harness.kernels.v6.table(Family::V6).is_some());
}

/// What other modes of kube-proxy left must serve until then, and not longer on account of the other family.
#[tokio::test(start_paused = true)]
async fn the_first_write_of_each_table_is_told_once_and_waits_for_no_other() {
    let harness = Harness::start();
    harness.kernels.v6.fail(true);
    let firsts = |harness: &Harness| harness.firsts.try_iter().collect::<Vec<_>>();
    for kind in [Kind::Service, Kind::EndpointSlice] {
        harness.send(Update::ListStarted(kind)).await;
        assert_eq!(firsts(&harness), []);
        harness.send(Update::ListComplete(kind)).await;
    }
    sleep(HOUR).await;
    assert!(harness.kernels.v4.table(Family::V4).is_some());
    assert_eq!(firsts(&harness), [[Family::V6].into()]);

    harness.send(service("web")).await;
    harness.send(slice("web", 1)).await;
    sleep(HOUR).await;
    assert!(harness.kernels.v4.elements(Family::V4) > 0);
    assert_eq!(firsts(&harness), [], "it was not the first write");

    harness.kernels.v6.fail(false);
    sleep(HOUR).await;
    assert!(harness.kernels.v6.elements(Family::V6) > 0);
    assert_eq!(firsts(&harness), [BTreeSet::new()]);
}

#[tokio::test(start_paused = true)]
async fn an_empty_cluster_has_tables_too() {
    let harness = Harness::synced(&[]).await;
    assert!(harness.kernels.v4.table(Family::V4).is_some());
    assert!(harness.kernels.v6.table(Family::V6).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_change_writes_only_itself_and_says_how_long_it_took() {
    let mut harness = Harness::synced(&["one", "two"]).await;
    let elements = harness.kernels.v4.elements(Family::V4);
    harness.send(service("three")).await;
    harness.send(slice("three", 1)).await;
    // Its ClusterIP, its frontend and its endpoint.
    while harness.kernels.v4.elements(Family::V4) < elements + 3 {
        assert!(!harness.commit_of(Family::V4).await.is_full());
    }
    harness.send(Update::ServiceGone(ServiceName::new("test", "three"))).await;
    harness.commit_of(Family::V4).await;
    let metrics = harness.telemetry.metrics.render();
    for name in ["programming_duration_seconds_count", "sync_partial_proxy_rules_duration_seconds_count"] {
        assert!(metrics.lines().any(|l| l.contains(name) && l.contains("IPv4") && !l.ends_with(" 0")), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_commit_is_retried_and_leaves_the_last_good_rules_and_the_other_family_alone() {
    let mut harness = Harness::synced(&["web"]).await;
    let good = harness.kernels.v4.table(Family::V4);
    harness.kernels.v4.fail(true);
    harness.send(service("new")).await;
    let mut waits = Vec::new();
    let mut last = Instant::now();
    let (mut v4, mut v6) = (0, 0);
    while v4 < 5 {
        let commit = harness.commit().await;
        match commit.family {
            Family::V4 => {
                assert!(!commit.accepted && !commit.is_full());
                v4 += 1;
                waits.push(last.elapsed().as_secs());
                last = Instant::now();
            }
            Family::V6 => {
                assert!(commit.accepted && !commit.is_full());
                v6 += 1;
            }
        }
        assert_eq!(harness.kernels.v4.table(Family::V4), good);
    }
    assert_eq!(v6, 1);
    assert_eq!(waits[1..], [0, 1, 2, 4], "the first retry is at once, the others grow apart");
    assert_eq!(harness.kernels.v4.readings(), v4, "after a failure, what there is is read");

    harness.kernels.v4.fail(false);
    let commit = harness.commit_of(Family::V4).await;
    assert!(commit.accepted && !commit.is_full());
    assert_ne!(harness.kernels.v4.table(Family::V4), good);
    sleep(HOUR).await;
    assert!(harness.telemetry.health.is_healthy(Moment::now() + HOUR), "nothing waits any more");
    assert!(harness.commits.try_recv().is_err(), "what succeeded is not tried again");
    assert!(harness.metric(r#"kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family="IPv4"} 5"#));
}

#[tokio::test(start_paused = true)]
async fn a_change_that_never_gets_in_is_unhealthy() {
    let mut harness = Harness::start();
    harness.kernels.v4.fail(true);
    for kind in [Kind::Service, Kind::EndpointSlice] {
        harness.send(Update::ListStarted(kind)).await;
        harness.send(Update::ListComplete(kind)).await;
    }
    assert!(!harness.commit_of(Family::V4).await.accepted);
    let health = &harness.telemetry.health;
    assert!(health.is_healthy(Moment::now()));
    assert!(!health.is_healthy(Moment::now() + Duration::from_mins(2)));
}

#[tokio::test(start_paused = true)]
async fn while_a_commit_runs_updates_are_taken_in_and_wait_for_its_end_together() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    harness.kernels.v4.get_stuck();
    // More than the channel holds: each is taken in although the first is still being committed.
    for name in ["a", "b", "c", "d"] {
        harness.send(service(name)).await;
        assert!(harness.commit_of(Family::V6).await.accepted, "IPv6 does not wait for IPv4");
    }
    assert!(harness.kernels.v4.is_busy());
    harness.kernels.v4.let_go();
    let first = harness.commit_of(Family::V4).await;
    let second = harness.commit_of(Family::V4).await;
    assert!(first.accepted && second.accepted);
    assert!(second.transaction.len() > first.transaction.len(), "the others came together");
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn syncs_keep_the_interval_between_them() {
    let mut harness = Harness::synced(&["web"]).await;
    harness.send(service("a")).await;
    harness.commit_of(Family::V4).await;
    let mut last = Instant::now();
    for name in ["b", "c", "d"] {
        harness.send(service(name)).await;
        harness.commit_of(Family::V4).await;
        assert_eq!(last.elapsed(), Duration::from_secs(1));
        last = Instant::now();
    }
}

/// With a Service whose chain is not needed once its number of endpoints changes: chains of common numbers stay.
async fn with_a_chain_of_its_own() -> Harness {
    const MORE_THAN_ARE_COMMON: u8 = 9;
    let mut harness = Harness::synced(&["web"]).await;
    for endpoints in 2..=MORE_THAN_ARE_COMMON {
        harness.send(slice("web", endpoints)).await;
        harness.commit_of(Family::V4).await;
    }
    harness
}

#[tokio::test(start_paused = true)]
async fn unused_chains_are_deleted_after_a_quiet_time() {
    let chains = |harness: &Harness| harness.kernels.v4.table(Family::V4).unwrap().chains().len();
    let mut harness = with_a_chain_of_its_own().await;
    let before = chains(&harness) - 1;
    harness.send(slice("web", 1)).await;
    harness.commit_of(Family::V4).await;
    assert_eq!(chains(&harness), before + 1);
    let sweep = harness.commit_of(Family::V4).await;
    assert!(matches!(sweep.transaction.ops[..], [Op::DeleteChain(_)]));
    assert_eq!(chains(&harness), before);
    assert!(!harness.telemetry.metrics.render().contains("cleanup_failures_total{"));
}

#[tokio::test(start_paused = true)]
async fn a_failed_sweep_is_no_failed_sync_and_a_sync_clears_it_up() {
    let mut harness = with_a_chain_of_its_own().await;
    harness.send(slice("web", 1)).await;
    assert!(harness.commit_of(Family::V4).await.accepted);
    let readings = harness.kernels.v4.readings();
    harness.kernels.v4.fail_once();
    assert!(!harness.commit_of(Family::V4).await.accepted);
    assert!(harness.commit_of(Family::V4).await.accepted, "what is not needed is found again, and deleted");
    let failed = r#"kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family="IPv4"} 1"#;
    sleep(HOUR).await;
    assert_eq!(harness.kernels.v4.readings(), readings + 1);
    assert!(harness.metric(failed));
    assert!(!harness.telemetry.metrics.render().contains("sync_failures_total{"));
    assert!(harness.telemetry.health.is_healthy(Moment::now()));
}

#[tokio::test(start_paused = true)]
async fn conflicts_are_counted() {
    let harness = Harness::synced(&["ab"]).await;
    // The same letters add up to the same address.
    harness.send(service("ba")).await;
    sleep(HOUR).await;
    for family in Family::ALL {
        assert!(harness.metric(&format!(r#"slipstream_frontends_in_conflict{{ip_family="{family}"}} 1"#)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_writes_nothing_is_neither_committed_nor_followed_by_a_pause() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    let start = Instant::now();
    harness.send(slice("web", 2)).await;
    assert_eq!(harness.commit().await.family, Family::V4);
    harness.send(service("late")).await;
    assert_eq!(harness.commit().await.family, Family::V6, "the slice was an IPv4 one");
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(harness.commit().await.family, Family::V4);
    assert_eq!(start.elapsed(), Duration::from_secs(1));
}

/// Flows are checked once the kernel has the rules for those that begin anew, and not before.
#[tokio::test(start_paused = true)]
async fn flow_checks_are_handed_over_after_a_commit_that_succeeded() {
    let mut harness = Harness::synced(&["web"]).await;
    harness.send(service_over(Protocol::Udp, "dns")).await;
    harness.send(slice_over(Protocol::Udp, "dns", 1)).await;
    let checks_of_v4 = async |harness: &mut Harness| loop {
        let (family, checks) = harness.checks.recv().await.unwrap();
        if family == Family::V4 {
            return checks;
        }
    };
    let serving = |check: &FlowCheck| check.serving.as_ref().map(BTreeSet::len);
    while !checks_of_v4(&mut harness).await.iter().any(|check| serving(check) == Some(1)) {}
    sleep(HOUR).await;
    while harness.commits.try_recv().is_ok() {}
    while harness.checks.try_recv().is_ok() {}

    harness.kernels.v4.fail(true);
    harness.send(slice_over(Protocol::Udp, "dns", 2)).await;
    assert!(!harness.commit_of(Family::V4).await.accepted);
    assert!(!harness.commit_of(Family::V4).await.accepted);
    assert!(harness.checks.try_recv().is_err());

    harness.kernels.v4.fail(false);
    assert!(harness.commit_of(Family::V4).await.accepted);
    let checks = checks_of_v4(&mut harness).await;
    assert_eq!(checks.len(), 1, "of UDP only");
    assert_eq!(serving(&checks[0]), Some(2));
    sleep(HOUR).await;
    assert!(harness.checks.try_recv().is_err(), "once");
}

#[tokio::test(start_paused = true)]
async fn it_does_not_outlive_a_committing_thread() {
    let harness = Harness::synced(&["web"]).await;
    harness.kernels.v6.get_stuck();
    harness.send(service("new")).await;
    sleep(HOUR).await;
    assert!(harness.kernels.v6.is_busy() && !harness.syncer.is_finished());
    harness.kernels.v6.die();
    let error = harness.syncer.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("IPv6"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_source() {
    let Harness { updates, syncer, .. } = Harness::synced(&[]).await;
    drop(updates);
    assert!(syncer.await.unwrap().is_ok());
}
