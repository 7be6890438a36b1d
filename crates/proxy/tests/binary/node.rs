//! What the Node object decides: whether load balancers may send traffic here, and which pods are ours (contract §3.2).

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use testing::api::Resource;
use testing::netns::Namespace;
use testing::objects::{node, service, slice};

use crate::api::Node;
use crate::process::{HEALTH_PORT, Proxy, table, write};

/// Our Node as [`Node::new`] puts it, with other fields.
fn ours(patch: &[(&str, Value)]) -> Value {
    let mut object = node("node-1", &["10.1.0.0/24"], &["192.0.2.10"]);
    for (pointer, value) in patch {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[field] = value.clone();
    }
    object
}

fn leaving() -> [Value; 2] {
    let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "value": "1767323045", "effect": "NoSchedule"}]);
    [ours(&[("/spec/taints", taint)]), ours(&[("/metadata/deletionTimestamp", json!("2026-01-02T03:04:05Z"))])]
}

#[test]
fn load_balancers_are_sent_away_from_a_node_that_leaves() {
    let node = Node::new();
    let proxy = node.start_with("");
    proxy.wait_for_rule("10.96.0.10");
    proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
    for object in leaving() {
        node.api.put(object);
        let body = proxy.wait_for_status(HEALTH_PORT, "/healthz", 503);
        assert!(body.contains(r#""nodeEligible":false,"healthy":true"#), "{body}");
        assert_eq!(proxy.get(HEALTH_PORT, "/livez").unwrap().0, 200, "no reason to restart the proxy");
        node.api.put(ours(&[]));
        proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
    }
    node.api.delete(Resource::Nodes, "", "node-1");
    proxy.wait_for_log("the Node object is gone; what was known of it stays in use");
    assert_eq!(proxy.get(HEALTH_PORT, "/healthz").unwrap().0, 200);
    node.put("late", "10.96.0.20");
    proxy.wait_for_rule("10.96.0.20");
}

#[test]
fn a_node_that_appears_late_is_waited_for() {
    let node = Node::new();
    node.api.delete(Resource::Nodes, "", "node-1");
    let proxy = node.start_with("");
    node.api.wait_for_watch(Resource::Nodes);
    assert!(proxy.wait_for_status(HEALTH_PORT, "/healthz", 503).contains(r#""nodeEligible":false"#));
    assert_eq!(table(&node.namespace), "");
    node.api.put(ours(&[]));
    proxy.wait_for_log("Successfully retrieved NodeIPs");
    proxy.wait_for_rule("10.96.0.10");
    proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
}

#[test]
fn changed_addresses_are_logged_once_and_the_proxy_goes_on() {
    let node = Node::new();
    let proxy = node.start_with("detectLocalMode: NodeCIDR");
    proxy.wait_for_rule("10.96.0.10");
    let moved = ours(&[("/status/addresses/0/address", json!("192.0.2.11"))]);
    node.api.put(moved.clone());
    proxy.wait_for_log("NodeIPs changed for the node");
    let mut labelled = moved;
    labelled["metadata"]["labels"]["topology.kubernetes.io/zone"] = "zone-a".into();
    node.api.put(labelled);
    proxy.wait_for_log("the node is in another zone");
    assert_eq!(proxy.log().matches("NodeIPs changed").count(), 1, "{}", proxy.log());
}

#[test]
fn pods_are_told_by_the_prefixes_of_the_node_and_other_prefixes_end_the_process() {
    let node = Node::new();
    let proxy = node.start_with("detectLocalMode: NodeCIDR");
    proxy.wait_for_rule("10.96.0.10");
    assert!(table(&node.namespace).contains("ip saddr != 10.1.0.0/24"), "{}", table(&node.namespace));
    node.api.put(ours(&[("/spec/podCIDR", json!("10.2.0.0/24")), ("/spec/podCIDRs", json!(["10.2.0.0/24"]))]));
    let (status, log) = proxy.wait_for_end();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = log.trim_end().lines().next_back().unwrap_or_default();
    assert!(last.contains(r#""command failed" err="PodCIDRs changed for the node"#), "{last}");
    assert!(table(&node.namespace).contains("10.96.0.10"), "the rules stay");
}

#[test]
fn other_prefixes_matter_in_no_other_mode() {
    let node = Node::new();
    let proxy = node.start_with("clusterCIDR: 10.1.0.0/16");
    proxy.wait_for_rule("10.96.0.10");
    let zone = json!({"topology.kubernetes.io/zone": "zone-a"});
    node.api.put(ours(&[("/spec/podCIDRs", json!(["10.2.0.0/24"])), ("/metadata/labels", zone)]));
    proxy.wait_for_log("the node is in another zone");
    node.put("late", "10.96.0.20");
    proxy.wait_for_rule("10.96.0.20");
}

#[test]
fn prefixes_of_the_other_family_alone_are_refused() {
    let node = Node::new();
    node.api.put(ours(&[("/spec/podCIDRs", json!(["fd00:1::/64"]))]));
    let (status, log) = node.start_with("detectLocalMode: NodeCIDR").wait_for_end();
    assert_eq!(status.code(), Some(1), "{log}");
    let wanted =
        "kube-proxy configuration is incorrect: cluster is IPv4-primary but spec.podCIDRs of the Node has only IPv6";
    assert!(log.contains(wanted), "{log}");
}

#[test]
fn interfaces_may_tell_pods() {
    let node = Node::new();
    for (fields, rule) in [
        ("detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}", r#"iifname != "cni0""#),
        ("detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}", r#"iifname != "veth*""#),
    ] {
        let proxy = node.start_with(fields);
        proxy.wait_for_rule(rule);
    }
}

#[test]
fn a_missing_right_to_the_node_is_named() {
    let node = Node::new();
    node.api.forbid(Resource::Nodes);
    let proxy = node.start_with("");
    proxy.wait_for_log(r#"apiGroups [\"\"], resources [nodes], verbs [list, watch]"#);
    assert!(proxy.wait_for_status(HEALTH_PORT, "/healthz", 503).contains(r#""nodeEligible":false"#));
    node.api.allow(Resource::Nodes);
    proxy.wait_for_rule("10.96.0.10");
}

/// A directory with a Service and these objects.
fn directory(objects: &[Value]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let web = service("shop", "web").cluster_ip("10.96.0.10").port("http", "TCP", 80).into();
    let pods = slice("shop", "web-1", "web").port("http", "TCP", 8080).endpoint("10.1.0.2").into();
    write(directory.path(), "web.yaml", &[web, pods]);
    write(directory.path(), "node.yaml", objects);
    directory
}

fn arguments(directory: &Path, fields: &str) -> [String; 3] {
    let config = directory.join("config.conf");
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n";
    fs::write(&config, format!("{head}{fields}\n")).unwrap();
    [
        format!("--config={}", config.display()),
        format!("--manifest-dir={}", directory.display()),
        "--hostname-override=node-1".to_owned(),
    ]
}

fn start<'a>(namespace: &'a Namespace, directory: &TempDir, fields: &str) -> Proxy<'a> {
    Proxy::start(namespace, &arguments(directory.path(), fields).each_ref().map(String::as_str))
}

#[test]
fn a_node_in_the_directory_is_followed() {
    let namespace = Namespace::new("node").unwrap();
    let directory = directory(&[ours(&[])]);
    let proxy = start(&namespace, &directory, "detectLocalMode: NodeCIDR");
    proxy.wait_for_rule("ip saddr != 10.1.0.0/24");
    proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
    for object in leaving() {
        write(directory.path(), "node.yaml", &[object]);
        proxy.wait_for_status(HEALTH_PORT, "/healthz", 503);
        write(directory.path(), "node.yaml", &[ours(&[])]);
        proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
    }
    fs::remove_file(directory.path().join("node.yaml")).unwrap();
    proxy.wait_for_log("the Node object is gone");
    assert_eq!(proxy.get(HEALTH_PORT, "/healthz").unwrap().0, 200);

    write(directory.path(), "node.yaml", &[ours(&[("/spec/podCIDRs", json!(["10.2.0.0/24"]))])]);
    let (status, log) = proxy.wait_for_end();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("PodCIDRs changed for the node"), "{log}");
}

#[test]
fn a_directory_without_the_prefixes_that_tell_pods_is_refused_at_once() {
    let namespace = Namespace::new("node").unwrap();
    for objects in [&[][..], &[node("node-1", &[], &["192.0.2.10"])]] {
        let directory = directory(objects);
        let (status, log) = start(&namespace, &directory, "detectLocalMode: NodeCIDR").wait_for_end();
        assert_eq!(status.code(), Some(1), "{log}");
        assert!(log.contains(r#"has no Node \"node-1\" with spec.podCIDRs"#), "{log}");
    }
}
