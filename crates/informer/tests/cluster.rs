//! What the API source learns of the cluster besides Services: ServiceCIDRs and the own node.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers as well")]

mod common;

use common::{Informed, follow, server};
use informer::watch_node;
use model::{Family, Node, NodeStatus, Update};
use serde_json::{Value, json};
use testing::api::{FakeApi, Resource};
use testing::objects::{node, service, service_cidr};
use tokio::sync::watch;

fn cidrs(informed: &Informed<()>) -> String {
    let cidrs = Family::ALL.into_iter().flat_map(|family| informed.state.service_cidrs(family));
    cidrs.map(|cidr| cidr.to_string()).collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service_cidrs_are_listed_and_followed() {
    let api = FakeApi::start().unwrap();
    api.put(service_cidr("kubernetes", &["10.96.0.0/16", "fd00::/112"]));
    let mut informed = follow(&api).await;
    informed.until("the list", |i| cidrs(i) == "10.96.0.0/16 fd00::/112").await;
    api.put(service_cidr("more", &["10.97.0.0/16"]));
    informed.until("one more", |i| cidrs(i) == "10.96.0.0/16 10.97.0.0/16 fd00::/112").await;
    api.delete(Resource::ServiceCidrs, "", "kubernetes");
    informed.until("one less", |i| cidrs(i) == "10.97.0.0/16").await;

    // Gone while nobody watched.
    api.go_down();
    api.delete(Resource::ServiceCidrs, "", "more");
    api.compact(testing::api::Expiry::Event);
    api.come_up().unwrap();
    informed.until("the new list", |i| cidrs(i).is_empty()).await;
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_service_cidrs_is_not_asked_again_and_again() {
    let api = FakeApi::start().unwrap();
    api.unserve(Resource::ServiceCidrs);
    api.put(service("default", "web").cluster_ip("10.0.0.1").port("http", "TCP", 80));
    let mut informed = follow(&api).await;
    informed.until_complete().await;
    // What is refused for another reason has been asked for again by now.
    api.forbid(Resource::Services);
    api.end_watches();
    api.wait_for_requests("the Services to be asked for twice more", |requests| {
        requests.iter().filter(|r| r.path == Resource::Services.path()).count() > 3
    });
    let asked = api.requests().iter().filter(|r| r.path == Resource::ServiceCidrs.path()).count();
    assert_eq!(asked, 1);
    let failures = informed.failures.lock().unwrap().clone();
    assert!(!failures.contains(&"servicecidrs"), "{failures:?}");
    informed.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_service_cidrs_all_else_goes_on() {
    let api = FakeApi::start().unwrap();
    api.forbid(Resource::ServiceCidrs);
    api.put(service("default", "web").cluster_ip("10.0.0.1").port("http", "TCP", 80));
    api.put(service_cidr("kubernetes", &["10.96.0.0/16"]));
    let mut informed = follow(&api).await;
    informed.until_complete().await;
    assert_eq!((informed.port("web"), cidrs(&informed)), (Some(80), String::new()));
    api.wait_for_requests("another try", |requests| {
        requests.iter().filter(|r| r.path == Resource::ServiceCidrs.path()).count() > 1
    });
    assert!(informed.failures.lock().unwrap().iter().all(|resource| *resource == "servicecidrs"));
    api.allow(Resource::ServiceCidrs);
    informed.until("the list", |i| cidrs(i) == "10.96.0.0/16").await;
    informed.stop().await;
}

/// A watch of the node `here`, and what it says.
async fn own_node(api: &FakeApi) -> (Informed<()>, watch::Receiver<NodeStatus>) {
    let server = server(api).await;
    let (sender, status) = watch::channel(NodeStatus::Unknown);
    let informed = Informed::start(move |_: tokio::sync::mpsc::Sender<Vec<Update>>, reporter| {
        watch_node(server, "here".into(), sender, reporter)
    });
    (informed, status)
}

async fn until(status: &mut watch::Receiver<NodeStatus>, what: &str, condition: impl FnMut(&NodeStatus) -> bool) {
    let waited = tokio::time::timeout(std::time::Duration::from_secs(30), status.wait_for(condition)).await;
    drop(waited.unwrap_or_else(|_| panic!("waited for {what}")).unwrap());
}

fn is(status: &NodeStatus, condition: impl Fn(&Node) -> bool) -> bool {
    matches!(status, NodeStatus::Known(node) if condition(node))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_node_is_watched_and_no_other() {
    let api = FakeApi::start().unwrap();
    api.put(node("there", &["10.9.0.0/24"], &["192.0.2.9"]));
    let (informed, mut status) = own_node(&api).await;
    until(&mut status, "the list", |s| *s == NodeStatus::Missing).await;
    let query = api.requests().iter().find(|r| r.path == Resource::Nodes.path()).unwrap().query.clone();
    assert_eq!(query["fieldSelector"], "metadata.name=here");

    api.put(node("here", &["10.1.0.0/24"], &["192.0.2.1", "fd00::1"]));
    until(&mut status, "the Node", |s| is(s, |node| node.addresses.len() == 2 && node.pod_cidrs.len() == 1)).await;
    let mut changed: Value = node("here", &["10.1.0.0/24"], &["192.0.2.1"]);
    changed["metadata"]["labels"]["topology.kubernetes.io/zone"] = "a".into();
    changed["spec"]["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    api.put(changed.clone());
    until(&mut status, "the change", |s| is(s, |node| node.zone.as_deref() == Some("a") && node.is_leaving)).await;

    // What cannot be understood changes nothing, neither in the watch nor in a list.
    api.put(json!({"kind": "Node", "metadata": {"name": "here"}, "spec": 5}));
    api.expire_watches();
    api.wait_for_watch(Resource::Nodes);
    assert!(is(&status.borrow(), |node| node.is_leaving), "{status:?}");
    api.delete(Resource::Nodes, "", "here");
    until(&mut status, "the deletion", |s| *s == NodeStatus::Missing).await;
    api.put(changed);
    until(&mut status, "the Node again", |s| is(s, |node| node.is_leaving)).await;
    drop(status);
    informed.source.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_node_is_unknown_until_the_server_says() {
    let api = FakeApi::start().unwrap();
    api.put(node("here", &[], &["192.0.2.1"]));
    api.forbid(Resource::Nodes);
    let (informed, mut status) = own_node(&api).await;
    api.wait_for_requests("a second try", |requests| requests.len() > 1);
    assert_eq!(*status.borrow(), NodeStatus::Unknown);
    assert!(informed.failures.lock().unwrap().contains(&"nodes"));
    api.allow(Resource::Nodes);
    until(&mut status, "the Node", |s| is(s, |_| true)).await;
}
