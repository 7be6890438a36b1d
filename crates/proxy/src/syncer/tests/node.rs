//! What the node and the cluster around the Services have to say.

use std::sync::Arc;
use std::time::Duration;

use model::{Family, Hints, Kind, ServiceCidr, Update};
use tokio::time::{Instant, sleep};

use super::harness::{Harness, node_ports, service, slice};

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test(start_paused = true)]
async fn node_ports_follow_the_nodes_addresses() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    assert_eq!(harness.elements_of("nodeport-ips"), 1);
    for addresses in [&["192.0.2.10", "192.0.2.11"][..], &["192.0.2.11"], &[], &["192.0.2.12"]] {
        harness.node_ports.send((Family::V4, node_ports(addresses))).await.unwrap();
        let commit = harness.commit().await;
        assert!(commit.accepted && commit.family == Family::V4 && !commit.is_full(), "{commit:?}");
        assert!(commit.transaction.len() <= 2, "elements and nothing else: {commit:?}");
        assert_eq!(harness.elements_of("nodeport-ips"), addresses.len());
    }
    // A refused one is made up for.
    harness.kernels.v4.fail_once();
    harness.node_ports.send((Family::V4, node_ports(&["192.0.2.10", "192.0.2.11"]))).await.unwrap();
    assert!(!harness.commit().await.accepted);
    let commit = harness.commit().await;
    assert!(commit.accepted && !commit.is_full(), "{commit:?}");
    assert_eq!(harness.elements_of("nodeport-ips"), 2);
}

#[tokio::test(start_paused = true)]
async fn new_addresses_write_nothing_before_the_lists_are_complete() {
    let mut harness = Harness::start();
    harness.node_ports.send((Family::V4, node_ports(&["192.0.2.10", "192.0.2.11"]))).await.unwrap();
    harness.send(Update::Zone(Some("zone-a".into()))).await;
    sleep(HOUR).await;
    assert!(harness.commits.try_recv().is_err());
    for kind in [Kind::Service, Kind::EndpointSlice] {
        harness.send(Update::ListStarted(kind)).await;
        harness.send(Update::ListComplete(kind)).await;
    }
    assert!(harness.commit_of(Family::V4).await.is_full());
    assert_eq!(harness.elements_of("nodeport-ips"), 2, "what came meanwhile counts from the start");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_moves_to_another_zone_uses_its_endpoints() {
    let mut harness = Harness::synced(&["web"]).await;
    let Update::Slice(mut hinted) = slice("web", 4) else { panic!("no slice") };
    for (endpoint, zone) in hinted.endpoints.iter_mut().zip(["a", "b", "b", "b"]) {
        endpoint.hints = Some(Arc::new(Hints { zones: [zone.into()].into(), ..Hints::default() }));
    }
    harness.send(Update::Slice(hinted)).await;
    harness.commit_of(Family::V4).await;
    for (zone, endpoints) in [(Some("a"), 1), (Some("b"), 3), (None, 4), (Some("c"), 4)] {
        harness.send(Update::Zone(zone.map(Into::into))).await;
        sleep(HOUR).await;
        assert_eq!(harness.elements_of("endpoints"), endpoints, "{zone:?}");
    }
}

/// kube-proxy waits for the next full sync, for up to an hour.
#[tokio::test(start_paused = true)]
async fn a_service_cidr_is_effective_at_once() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    let (start, prefix) = (Instant::now(), "10.96.0.0/16".parse().unwrap());
    harness.send(Update::ServiceCidr(ServiceCidr { name: "kubernetes".into(), prefixes: vec![prefix] })).await;
    let commit = harness.commit_of(Family::V4).await;
    assert!(
        commit.accepted && !commit.is_full() && commit.transaction.to_string().contains("10.96.0.0/16"),
        "{commit:?}"
    );
    assert_eq!(start.elapsed(), Duration::ZERO);
    harness.send(service("late")).await;
    harness.commit_of(Family::V4).await;
}
