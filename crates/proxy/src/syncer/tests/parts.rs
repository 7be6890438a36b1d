//! Tables that are too large for one transaction.

use testing::scale::Scale;

use super::health_checks::{balanced, local, told};
use super::*;
use crate::table::everything::PART;

const SCALE: (u32, u32) = (4_000, 10);
/// A frontend, an address, ten endpoints, and one of them on this node: so many elements has each of its Services.
const EACH: usize = 13;

async fn send_all(harness: &Harness) {
    let (services, endpoints) = SCALE;
    let updates: Vec<_> = Scale::new(services, endpoints).updates().collect();
    harness.updates.send(updates).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_large_table_comes_in_several_transactions() {
    let mut harness = Harness::start();
    send_all(&harness).await;
    let (mut parts, mut elements) = (0, 0);
    while elements < SCALE.0 as usize * EACH {
        let commit = harness.commit_of(Family::V4).await;
        let added = commit.transaction.ops.iter().filter(|op| matches!(op, Op::AddElements { .. })).map(Op::len);
        let added: usize = added.sum();
        assert!(commit.accepted && commit.is_full() == (parts == 0) && added < PART * 5 / 4, "{added} elements");
        (parts, elements) = (parts + 1, elements + added);
    }
    assert_eq!(parts, (SCALE.0 as usize * EACH).div_ceil(PART));
    sleep(HOUR).await;
    assert!(harness.metric("kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1"), "one sync");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_fails_is_made_up_for() {
    let mut harness = Harness::start();
    harness.kernels.v4.fail_after_one();
    send_all(&harness).await;
    while harness.commit_of(Family::V4).await.accepted {}
    assert!(harness.kernels.v4.elements(Family::V4) < SCALE.0 as usize * EACH, "a part is missing");
    harness.kernels.v4.fail(false);
    while !harness.commit_of(Family::V4).await.accepted {}
    let mut whole = Harness::start();
    send_all(&whole).await;
    whole.commit_of(Family::V4).await;
    sleep(HOUR).await;
    assert_eq!(harness.kernels.v4.elements(Family::V4), whole.kernels.v4.elements(Family::V4));
}

/// There must be no moment without Services.
#[tokio::test(start_paused = true)]
async fn a_large_table_that_cannot_be_read_is_replaced_in_one_transaction() {
    let mut harness = Harness::start();
    send_all(&harness).await;
    sleep(HOUR).await;
    while harness.commits.try_recv().is_ok() {}
    harness.kernels.v4.get_unreadable();
    harness.edited(vec![]).await;
    let commit = harness.commit_of(Family::V4).await;
    assert!(commit.accepted && commit.is_full() && commit.transaction.len() > SCALE.0 as usize * EACH);
}

#[tokio::test(start_paused = true)]
async fn what_load_balancers_are_told_after_the_last_part_is_what_the_parts_have() {
    let mut harness = Harness::start();
    harness.kernels.v4.get_stuck();
    send_all(&harness).await;
    harness.updates.send(vec![balanced("web"), local("web", 1)]).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    // The table is read, the first part is on its way, and then the last is.
    for _ in 0..2 {
        harness.kernels.v4.let_one_go();
        sleep(Duration::from_secs(1)).await;
    }
    harness.updates.send(vec![local("web", 2)]).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&mut harness), []);
    harness.kernels.v4.let_go();
    sleep(HOUR).await;
    assert_eq!(told(&mut harness), [Some(1), Some(2)]);
}
