//! What load balancers are told, and when.

use std::time::Duration;

use model::{PortNumber, TrafficPolicy, Update};
use tokio::time::sleep;

use super::harness::{Harness, service, slice};
use super::*;

const LONG: Duration = Duration::from_secs(3600);

pub(super) fn balanced(name: &str) -> Update {
    let Update::Service(service) = service(name) else { unreachable!() };
    let health_check_node_port = PortNumber::new(32_100);
    Update::Service(model::Service { external_policy: TrafficPolicy::Local, health_check_node_port, ..service })
}

/// So many endpoints on this node.
pub(super) fn local(name: &str, endpoints: u8) -> Update {
    let Update::Slice(mut slice) = slice(name, endpoints) else { unreachable!() };
    slice.endpoints.iter_mut().for_each(|endpoint| endpoint.local = true);
    Update::Slice(slice)
}

/// What IPv4 was told since the last call.
pub(super) fn told(harness: &mut Harness) -> Vec<Option<usize>> {
    let told = harness.answers.told().into_iter().filter(|(family, ..)| *family == Family::V4);
    told.map(|(_, name, endpoints)| {
        assert_eq!(name, "web");
        endpoints
    })
    .collect()
}

async fn change(harness: &mut Harness, updates: impl IntoIterator<Item = Update>) -> Vec<Option<usize>> {
    harness.updates.send(updates.into_iter().collect()).await.unwrap();
    sleep(LONG).await;
    told(harness)
}

#[tokio::test(start_paused = true)]
async fn what_is_told_is_what_has_been_written() {
    let mut harness = Harness::synced(&["web", "other"]).await;
    assert_eq!(change(&mut harness, [local("web", 1)]).await, [], "nobody may ask");
    assert_eq!(change(&mut harness, [balanced("web")]).await, [Some(1)]);
    harness.kernels.v4.get_stuck();
    assert_eq!(change(&mut harness, [local("web", 2)]).await, [], "on its way");
    assert_eq!(change(&mut harness, [local("web", 3)]).await, [], "waiting behind it");
    harness.kernels.v4.let_one_go();
    sleep(LONG).await;
    assert_eq!(told(&mut harness), [Some(2)], "and not what came since");
    harness.kernels.v4.let_go();
    sleep(LONG).await;
    assert_eq!(told(&mut harness), [Some(3)]);
    assert_eq!(change(&mut harness, [service("web")]).await, [None]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_written_is_not_told() {
    let mut harness = Harness::synced(&["web"]).await;
    assert_eq!(change(&mut harness, [balanced("web"), local("web", 1)]).await, [Some(1)]);
    harness.kernels.v4.fail(true);
    assert_eq!(change(&mut harness, [local("web", 2)]).await, []);
    harness.kernels.v4.fail(false);
    sleep(LONG).await;
    assert_eq!(told(&mut harness), [Some(2)], "once, however often it was tried");
}

/// Its rules are gone, so that nobody is to be sent here.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_set_aside_has_no_endpoints() {
    let mut harness = Harness::synced(&["web"]).await;
    assert_eq!(change(&mut harness, [balanced("web"), local("web", 1)]).await, [Some(1)]);
    let Update::Service(web) = service("web") else { unreachable!() };
    harness.kernels.v4.refuse(web.cluster_ips.v4);
    harness.updates.send(vec![local("web", 2)]).await.unwrap();
    // Before it is tried again.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(told(&mut harness).last(), Some(&Some(0)));
    harness.kernels.v4.refuse([]);
    sleep(LONG).await;
    assert_eq!(told(&mut harness).last(), Some(&Some(2)));
}
