//! Events, as an API server is told of them (contract §10.1).

use serde_json::{Value, json};
use testing::objects::service;

use crate::api::Node;

/// The events with this reason, without what differs from run to run.
fn with_reason(events: &[Value], reason: &str) -> Vec<Value> {
    let fields = ["action", "note", "regarding", "reportingController", "type"];
    let told = events.iter().filter(|event| event["reason"] == reason);
    told.map(|event| fields.iter().map(|field| ((*field).to_owned(), event[field].clone())).collect()).collect()
}

#[test]
fn the_start_is_told_about_the_node() {
    let node = Node::new();
    let _proxy = node.start_with("");
    node.api.wait_for_events("one", |events| !events.is_empty());
    let events = node.api.events();
    let regarding = json!({"apiVersion": "v1", "kind": "Node", "name": "node-1"});
    let wanted = json!({
        "action": "StartKubeProxy", "note": null, "regarding": regarding, "reportingController": "kube-proxy", "type": "Normal"
    });
    assert_eq!(with_reason(&events, "Starting"), [wanted]);
    assert_eq!(events[0]["metadata"]["namespace"], "default");
    let host = nix::unistd::gethostname().unwrap();
    assert_eq!(events[0]["reportingInstance"], format!("kube-proxy-{}", host.display()));
}

#[test]
fn an_api_server_that_is_not_there_yet_is_told_later() {
    let node = Node::new();
    node.api.go_down();
    let proxy = node.start_with("");
    proxy.wait_for_log("check that the server runs");
    node.api.come_up().unwrap();
    proxy.wait_for_rule("10.96.0.10");
    node.api.wait_for_events("the start", |events| with_reason(events, "Starting").len() == 1);
}

#[test]
fn a_missing_right_to_tell_is_said_and_harms_nobody() {
    let node = Node::new();
    node.api.forbid_events();
    let proxy = node.start_with("");
    proxy.wait_for_log("let it create and patch events in API group events.k8s.io");
    proxy.wait_for_rule("10.96.0.10");
}

#[test]
fn a_port_that_is_taken_is_told_before_the_process_ends() {
    for (setting, port, reason) in [
        ("healthzBindAddress: 127.0.0.1:4711", 4711, "FailedToStartProxierHealthcheck"),
        ("metricsBindAddress: 127.0.0.1:4712", 4712, "FailedToStartMetricServer"),
    ] {
        let node = Node::new();
        let taken = node.namespace.run(|| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
        let (status, log) = node.start_with(&format!("bindAddressHardFail: true\n{setting}")).wait_for_end();
        assert_eq!(status.code(), Some(1), "{log}");
        let told = with_reason(&node.api.events(), reason);
        assert_eq!(told.len(), 1, "{:#?}", node.api.events());
        assert_eq!((&told[0]["type"], &told[0]["regarding"]["kind"]), (&json!("Warning"), &json!("Node")));
        assert!(told[0]["note"].as_str().unwrap().contains(&format!("cannot listen on 127.0.0.1:{port}")), "{told:?}");
        drop(taken);
    }
}

#[test]
fn a_health_check_port_that_is_taken_is_told_about_the_service() {
    let node = Node::new();
    let _taken = node.namespace.run(|| std::net::TcpListener::bind(("0.0.0.0", 32_000)).unwrap());
    let balanced = service("shop", "web").cluster_ip("10.96.0.10").port("http", "TCP", 80);
    let balanced = balanced.set("/spec/type", "LoadBalancer").set("/spec/externalTrafficPolicy", "Local");
    node.api.put(balanced.set("/spec/healthCheckNodePort", 32_000));
    let _proxy = node.start_with("nodePortAddresses: [0.0.0.0/0]");
    let reason = "FailedToStartServiceHealthcheck";
    node.api.wait_for_events(reason, |events| !with_reason(events, reason).is_empty());
    let told = &with_reason(&node.api.events(), reason)[0];
    let regarding = json!({"apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web"});
    assert_eq!((&told["action"], &told["regarding"]), (&json!("Listen"), &regarding));
    let note = told["note"].as_str().unwrap();
    assert!(note.starts_with(r#"node node-1 failed to start healthcheck "shop/web" on port 32000: "#), "{note}");
}
