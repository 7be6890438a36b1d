//! What is served on localhost, and when.

use std::time::Duration;

use model::{PortNumber, Service, Update};
use tokio::time::sleep;

use super::harness::{Harness, service, slice};
use super::*;

const LONG: Duration = Duration::from_secs(3600);
const PORT: u16 = 30_001;

fn exposed(name: &str) -> Service {
    let Update::Service(mut service) = service(name) else { unreachable!() };
    service.ports[0].node_port = PortNumber::new(PORT);
    service
}

/// Who has the port, and how many endpoints, by what has been told since the last call.
fn told(harness: &mut Harness) -> Vec<Option<(String, usize)>> {
    let told = harness.localhost.told(Family::V4).into_iter();
    told.map(|(port, served)| {
        assert_eq!(port, PORT);
        served
    })
    .collect()
}

async fn change(harness: &Harness, updates: impl IntoIterator<Item = Update>) {
    harness.updates.send(updates.into_iter().collect()).await.unwrap();
    sleep(LONG).await;
}

fn served(name: &str, endpoints: usize) -> Vec<Option<(String, usize)>> {
    vec![Some((name.to_owned(), endpoints))]
}

#[tokio::test(start_paused = true)]
async fn what_is_served_is_what_has_been_written() {
    let mut harness = Harness::synced(&["web", "other"]).await;
    change(&harness, [slice("web", 2)]).await;
    assert_eq!(told(&mut harness), [], "it has no NodePort");
    change(&harness, [Update::Service(exposed("web"))]).await;
    assert_eq!(told(&mut harness), served("web", 2));
    harness.kernels.v4.fail(true);
    change(&harness, [slice("web", 3)]).await;
    assert_eq!(told(&mut harness), []);
    harness.kernels.v4.fail(false);
    sleep(LONG).await;
    assert_eq!(told(&mut harness), served("web", 3));
    change(&harness, [service("web")]).await;
    assert_eq!(told(&mut harness), [None]);
}

/// It changes hands though the Service that gets it has not changed.
#[tokio::test(start_paused = true)]
async fn a_port_that_two_services_want_is_its_owners() {
    let mut harness = Harness::synced(&["web", "other"]).await;
    let younger = Service { created: 1, ..exposed("other") };
    change(&harness, [Update::Service(exposed("web")), slice("web", 1)]).await;
    change(&harness, [Update::Service(younger), slice("other", 2)]).await;
    assert_eq!(told(&mut harness).last(), served("web", 1).last());
    change(&harness, [service("web")]).await;
    assert_eq!(told(&mut harness), served("other", 2));
    change(&harness, [Update::Service(exposed("web"))]).await;
    assert_eq!(told(&mut harness), served("web", 1));
}

/// Its rules are gone, and so is what is served without them.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_set_aside_is_not_served() {
    let mut harness = Harness::synced(&["web"]).await;
    change(&harness, [Update::Service(exposed("web")), slice("web", 1)]).await;
    assert_eq!(told(&mut harness), served("web", 1));
    harness.kernels.v4.refuse(exposed("web").cluster_ips.v4);
    harness.updates.send(vec![slice("web", 2)]).await.unwrap();
    // Before it is tried again.
    sleep(Duration::from_secs(5)).await;
    assert_eq!(told(&mut harness).last(), Some(&None));
    harness.kernels.v4.refuse([]);
    sleep(LONG).await;
    assert_eq!(told(&mut harness).last(), served("web", 2).last());
}
