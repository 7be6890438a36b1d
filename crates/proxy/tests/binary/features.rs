//! What the configuration switches on and off, seen from outside.

use serde_json::Value;
use testing::netns::Namespace;
use testing::objects::service;

use crate::api::Node;
use crate::process::{HEALTH_PORT, METRICS_PORT, Proxy, table, write};

#[test]
fn external_ips_are_served_unless_their_gate_is_off() {
    let directory = tempfile::tempdir().unwrap();
    let web: Value =
        service("shop", "web").cluster_ip("10.96.0.10").external_ip("203.0.113.9").port("http", "TCP", 80).into();
    write(directory.path(), "web.yaml", &[web]);
    for (gate, served) in [("true", true), ("false", false)] {
        let namespace = Namespace::new("node").unwrap();
        let gate = format!("--feature-gates=AllowServiceExternalIPs={gate}");
        let proxy = Proxy::start(&namespace, &["--manifest-dir", directory.path().to_str().unwrap(), &gate]);
        proxy.wait_for_rule("10.96.0.10 . tcp . 80");
        assert_eq!(table(&namespace).contains("203.0.113.9"), served, "{gate}");
    }
}

#[test]
fn a_health_port_of_zero_closes_the_health_server() {
    let namespace = Namespace::new("node").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let manifests = directory.path().to_str().unwrap();
    let proxy = Proxy::start(&namespace, &["--manifest-dir", manifests, "--healthz-port=0"]);
    proxy.wait_for_status(METRICS_PORT, "/proxyMode", 200);
    proxy.wait_for_rule("chain services");
    assert_eq!(proxy.get(HEALTH_PORT, "/healthz"), None);
}

/// With a kubeconfig that leads nowhere, and with none at all.
#[test]
fn the_master_flag_says_where_the_api_server_is() {
    let node = Node::new();
    let files = tempfile::tempdir().unwrap();
    let kubeconfig = node.api.kubeconfig(files.path()).unwrap();
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    assert!(text.contains(&node.api.url()), "{text}");
    std::fs::write(&kubeconfig, text.replace(&node.api.url(), "http://127.0.0.1:9")).unwrap();
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let url = node.api.url();
    let host = url.trim_start_matches("http://");
    for arguments in [[format!("--master={url}"), kubeconfig], [format!("--master={host}"), "--v=0".to_owned()]] {
        let arguments: Vec<_> = arguments.iter().map(|argument| &argument[..]).collect();
        let proxy = Proxy::start(&node.namespace, &[&arguments[..], &["--hostname-override=node-1"]].concat());
        proxy.wait_for_rule("10.96.0.10 . tcp . 80");
        drop(proxy);
        node.namespace.sh("nft delete table ip kube-proxy").unwrap();
    }
}
