//! Tables that are too large for one transaction.

use testing::scale::Scale;

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
