//! What happens to a table besides syncs: Services that are set aside, and affinity that is forgotten.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use model::{Family, Protocol, Service, ServiceName, Update};
use netlink::ForeignEdit;
use ruleset::{Data, Datum, Element, Op, Words};
use tokio::time::{Instant, sleep};

use super::harness::{Harness, service, slice};

const HOUR: Duration = Duration::from_hours(1);

fn address(name: &str) -> IpAddr {
    let Update::Service(Service { cluster_ips, .. }) = service(name) else { unreachable!() };
    cluster_ips.v4.unwrap()
}

fn set_aside(count: usize) -> String {
    format!(r#"slipstream_services_set_aside{{ip_family="IPv4"}} {count}"#)
}

fn has(harness: &Harness, name: &str) -> bool {
    let table = harness.kernels.v4.table(Family::V4).unwrap();
    table.sets()["cluster-ips"].elements.contains_key(&Words::build().address(address(name)).finish())
}

/// One Service that the kernel does not take must not hold up the others (kube-proxy: for ever, and all of the family).
#[tokio::test(start_paused = true)]
async fn a_service_that_the_kernel_refuses_never_blocks_others() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    harness.kernels.v4.refuse([address("bad")]);
    let began = Instant::now();
    harness.updates.send(vec![service("bad"), slice("bad", 1), service("good"), slice("good", 1)]).await.unwrap();
    while !has(&harness, "good") {
        harness.commit_of(Family::V4).await;
    }
    assert_eq!(began.elapsed(), Duration::ZERO, "tried again at once, without it");
    assert!(!has(&harness, "bad") && harness.metric(&set_aside(1)));

    // It is tried again now and then, and the others go on meanwhile.
    harness.send(service("more")).await;
    while !has(&harness, "more") {
        harness.commit_of(Family::V4).await;
    }
    harness.kernels.v4.refuse([]);
    while !has(&harness, "bad") {
        harness.commit_of(Family::V4).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    assert!(harness.metric(&set_aside(0)));
}

#[tokio::test(start_paused = true)]
async fn a_refused_service_is_tried_again_as_soon_as_it_changes() {
    let mut harness = Harness::synced(&["web"]).await;
    harness.kernels.v4.refuse([address("bad")]);
    harness.send(service("bad")).await;
    sleep(Duration::from_secs(5)).await;
    assert!(harness.metric(&set_aside(1)));
    harness.kernels.v4.refuse([]);
    let began = Instant::now();
    harness.send(slice("bad", 1)).await;
    while !has(&harness, "bad") {
        harness.commit_of(Family::V4).await;
    }
    assert!(began.elapsed() <= Duration::from_secs(1));
    assert!(harness.metric(&set_aside(0)));
    harness.send(Update::ServiceGone(ServiceName::new("test", "bad"))).await;
    sleep(HOUR).await;
    assert!(!has(&harness, "bad"));
}

/// Each refusal names a few. If there is no end to it, the kernel has another problem, and is not asked without pause.
#[tokio::test(start_paused = true)]
async fn a_kernel_that_refuses_many_keeps_most_in_service_and_is_not_asked_without_pause() {
    let mut harness = Harness::synced(&["web"]).await;
    let names: Vec<_> = (b'a'..=b'z').map(|letter| char::from(letter).to_string()).collect();
    harness.kernels.v4.refuse(names.iter().map(|name| address(name)));
    harness.updates.send(names.iter().map(|name| service(name)).collect()).await.unwrap();
    sleep(Duration::from_mins(1)).await;
    let commits = std::iter::from_fn(|| harness.commits.try_recv().ok()).filter(|commit| commit.family == Family::V4);
    let commits = commits.count();
    // Each of 16 costs a refusal, and another one when they are let in again after half a minute.
    assert!(commits < 2 * 16 + 10, "{commits}");
    assert!(has(&harness, "web"));
    assert!((1..=16).any(|count| harness.metric(&set_aside(count))));
}

/// What another program does between the reading of the table and the commit is no fault of a Service.
#[tokio::test(start_paused = true)]
async fn a_race_with_another_program_sets_nobody_aside() {
    let mut harness = Harness::synced(&["web"]).await;
    sleep(HOUR).await;
    let kernel = harness.kernels.v4.clone();
    let intact = kernel.table(Family::V4);
    let endpoints = &intact.as_ref().unwrap().sets()["endpoints"];
    let set = endpoints.set.clone();
    let ours = endpoints.elements.values().next().unwrap().clone();
    let endpoint = Words::build().address(address("else")).port(80).datum();
    let theirs = Element { data: Data::Value(endpoint), ..ours.clone() };
    kernel.get_stuck();
    kernel.edit(Family::V4, vec![Op::DeleteElements { set: set.clone(), elements: vec![ours] }]);
    harness.edits.send(ForeignEdit::Missed).await.unwrap();
    sleep(Duration::from_millis(1)).await;
    kernel.let_one_go();
    sleep(Duration::from_millis(1)).await;
    assert!(kernel.is_busy(), "it was read, and is to be repaired");
    kernel.edit(Family::V4, vec![Op::AddElements { set, elements: vec![theirs] }]);
    kernel.let_go();
    assert!(!harness.commit_of(Family::V4).await.accepted, "another element has its key now");
    sleep(Duration::from_millis(1)).await;
    assert!(harness.metric(&set_aside(0)) || !harness.telemetry.metrics.render().contains("services_set_aside{"));
    sleep(HOUR).await;
    assert!(kernel.table(Family::V4) == intact);
}

/// kube-proxy leaves a first sync that failed to the next change, or to the next hour.
#[tokio::test(start_paused = true)]
async fn an_initial_sync_that_fails_is_retried_at_once() {
    let mut harness = Harness::start();
    harness.kernels.v4.fail_once();
    let began = Instant::now();
    for update in [
        Update::ListStarted(model::Kind::Service),
        service("web"),
        Update::ListComplete(model::Kind::Service),
        Update::ListStarted(model::Kind::EndpointSlice),
        Update::ListComplete(model::Kind::EndpointSlice),
    ] {
        harness.send(update).await;
    }
    assert!(!harness.commit_of(Family::V4).await.accepted);
    assert!(harness.commit_of(Family::V4).await.accepted);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(has(&harness, "web"));
}

fn sticky(name: &str) -> Update {
    let Update::Service(service) = service(name) else { unreachable!() };
    Update::Service(Service { affinity: NonZeroU32::new(60), ..service })
}

/// Has the kernel note that a client was sent to an endpoint of a Service.
fn remember(harness: &Harness, name: &str, client: u8, endpoint: &Datum) {
    let set = harness.kernels.v4.table(Family::V4).unwrap().sets()["affinity"].set.clone();
    let client: IpAddr = [203, 0, 113, client].into();
    let key = Words::build().address(client).address(address(name)).protocol(Protocol::Tcp.number()).port(80).finish();
    let element = Element { key, data: Data::Value(*endpoint), comment: None };
    harness.kernels.v4.edit(Family::V4, vec![Op::AddElements { set, elements: vec![element] }]);
}

fn endpoints(harness: &Harness) -> Vec<Datum> {
    let table = harness.kernels.v4.table(Family::V4).unwrap();
    let values = table.sets()["endpoints"].elements.values();
    values
        .map(|element| match &element.data {
            Data::Value(endpoint) => *endpoint,
            data => panic!("{data:?}"),
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn clients_of_an_endpoint_that_left_are_forgotten_right_after_the_commit() {
    let mut harness = Harness::synced(&[]).await;
    harness.updates.send(vec![sticky("web"), slice("web", 2)]).await.unwrap();
    harness.commit_of(Family::V4).await;
    sleep(HOUR).await;
    while harness.commits.try_recv().is_ok() {}
    let endpoints = endpoints(&harness);
    remember(&harness, "web", 1, &endpoints[0]);
    remember(&harness, "web", 2, &endpoints[1]);

    let began = Instant::now();
    harness.send(slice("web", 1)).await;
    harness.commit_of(Family::V4).await;
    assert_eq!(harness.elements_of("affinity-gone-ips"), 1, "no new connection goes there from now on");
    let forgotten = harness.commit_of(Family::V4).await;
    assert!(matches!(&forgotten.transaction.ops[..], [Op::DeleteElements { elements, .. }] if elements.len() == 1));
    assert_eq!((harness.elements_of("affinity"), began.elapsed()), (1, Duration::ZERO));
    sleep(HOUR).await;
    assert_eq!(harness.elements_of("affinity-gone-ips"), 0, "no packet can be on its way there any more");
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_forgotten_is_tried_again_and_guarded_against_meanwhile() {
    let mut harness = Harness::synced(&[]).await;
    harness.updates.send(vec![sticky("web"), slice("web", 2)]).await.unwrap();
    harness.commit_of(Family::V4).await;
    sleep(HOUR).await;
    let endpoints = endpoints(&harness);
    remember(&harness, "web", 1, &endpoints[1]);
    harness.kernels.v4.get_stuck();
    harness.send(slice("web", 1)).await;
    sleep(Duration::from_secs(1)).await;
    // The sync succeeds, what follows it does not.
    harness.kernels.v4.fail_after_one();
    harness.kernels.v4.let_go();
    sleep(Duration::from_mins(1)).await;
    assert_eq!((harness.elements_of("affinity"), harness.elements_of("affinity-gone-ips")), (1, 1));
    harness.kernels.v4.fail(false);
    sleep(HOUR).await;
    assert_eq!((harness.elements_of("affinity"), harness.elements_of("affinity-gone-ips")), (0, 0));
}
