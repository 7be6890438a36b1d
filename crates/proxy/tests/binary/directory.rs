//! With a directory of manifests.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;

use model::Family;
use serde_json::Value;
use tempfile::TempDir;
use testing::netns::{Cluster, Namespace};
use testing::objects::{node, service, slice};
use testing::traffic::{Echo, ask_tcp};

use crate::process::{HEALTH_PORT, METRICS_PORT, Proxy, table, write};

fn web() -> [Value; 2] {
    [
        service("shop", "web").cluster_ip("10.96.0.10").port("http", "TCP", 80).node_port(30080).into(),
        slice("shop", "web-1", "web").port("http", "TCP", 8080).endpoint("10.1.0.2").on_node("node-1").into(),
    ]
}

fn other() -> [Value; 2] {
    [
        service("shop", "other").cluster_ip("10.96.0.20").port("http", "TCP", 80).into(),
        slice("shop", "other-1", "other").port("http", "TCP", 8080).endpoint("10.1.0.3").into(),
    ]
}

fn directory(files: &[(&str, &[Value])]) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    files.iter().for_each(|(name, objects)| write(directory.path(), name, objects));
    directory
}

fn start<'a>(namespace: &'a Namespace, directory: &TempDir) -> Proxy<'a> {
    Proxy::start(namespace, &["--manifest-dir", directory.path().to_str().unwrap(), "--hostname-override=node-1"])
}

#[test]
fn connections_reach_endpoints_as_long_as_the_files_say_so() {
    let cluster = Cluster::new().unwrap();
    let (server, client) = (cluster.pod("server").unwrap(), cluster.pod("client").unwrap());
    assert_eq!(server.v4.to_string(), "10.1.0.2");
    let _echo = Echo::tcp(&server.namespace, "web", (server.v4, 8080).into()).unwrap();
    let directory = directory(&[("web.yaml", &web())]);
    let proxy = start(&cluster.node, &directory);
    proxy.wait_for_rule("10.96.0.10 . tcp . 80");

    let cluster_ip: SocketAddr = "10.96.0.10:80".parse().unwrap();
    assert_eq!(ask_tcp(&client.namespace, None, cluster_ip).unwrap().endpoint, "web");
    let node_port = SocketAddr::new(Cluster::node_address(Family::V4), 30080);
    assert_eq!(ask_tcp(&cluster.client, None, node_port).unwrap().endpoint, "web", "the primary address was guessed");

    write(directory.path(), "other.yaml", &other());
    proxy.wait_for_rule("10.96.0.20 . tcp . 80");
    fs::remove_file(directory.path().join("web.yaml")).unwrap();
    proxy.wait_for_no_rule("10.96.0.10");
    assert!(table(&cluster.node).contains("10.96.0.20"));
    assert!(ask_tcp(&client.namespace, None, cluster_ip).is_err());
}

#[test]
fn it_tells_its_health_its_mode_and_its_metrics() {
    let namespace = Namespace::new("node").unwrap();
    let directory = directory(&[("web.yaml", &web())]);
    let proxy = start(&namespace, &directory);
    proxy.wait_for_rule("10.96.0.10");
    let body = proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
    let health: Value = serde_json::from_str(&body).unwrap();
    for pointer in ["/nodeEligible", "/healthy", "/status/IPv4/healthy", "/status/IPv6/healthy"] {
        assert_eq!(health.pointer(pointer), Some(&Value::Bool(true)), "{pointer} in {body}");
    }
    assert_eq!(proxy.get(HEALTH_PORT, "/livez").unwrap().0, 200);
    assert_eq!(proxy.get(HEALTH_PORT, "/metrics").unwrap().0, 404);
    assert_eq!(proxy.get(METRICS_PORT, "/proxyMode").unwrap(), (200, "nftables".to_owned()));
    assert_eq!(proxy.get(METRICS_PORT, "/healthz").unwrap(), (200, "ok".to_owned()));

    // Once the first sync has been counted.
    let synced = r#"kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1"#;
    proxy.wait("the first sync in /metrics", || proxy.get(METRICS_PORT, "/metrics").unwrap().1.contains(synced));
    let metrics = proxy.get(METRICS_PORT, "/metrics").unwrap().1;
    for name in [
        "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
        "kubeproxy_sync_proxy_rules_service_changes_total",
        "kubeproxy_sync_proxy_rules_service_changes_pending",
        "kubeproxy_proxy_healthz_total",
        "kubeproxy_proxy_livez_total",
        "process_resident_memory_bytes",
    ] {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "{name} in {metrics}");
    }
    let last = metrics.lines().find(|line| line.starts_with("kubeproxy_sync_proxy_rules_last_timestamp_seconds{"));
    let seconds: f64 = last.unwrap().split(' ').next_back().unwrap().parse().unwrap();
    assert!(seconds > 1.7e9, "{last:?}");
}

#[test]
fn one_odd_object_is_named_and_takes_nothing_else_down() {
    let namespace = Namespace::new("node").unwrap();
    let odd: Value = service("shop", "odd").cluster_ip("10.96.0.666").port("http", "TCP", 80).into();
    let [service, slice] = web();
    let directory = directory(&[("web.yaml", &[odd, service, slice]), ("other.yaml", &other())]);
    fs::write(directory.path().join("broken.yaml"), "kind: Service\n  metadata: [").unwrap();
    let proxy = start(&namespace, &directory);
    proxy.wait_for_rule("10.96.0.10");
    proxy.wait_for_rule("10.96.0.20");
    for part in ["shop/odd", "10.96.0.666", "broken.yaml"] {
        proxy.wait_for_log(part);
    }
    let counted = |kind| format!(r#"slipstream_object_problems_total{{kind="{kind}"}} 1"#);
    let metrics = proxy.get(METRICS_PORT, "/metrics").unwrap().1;
    assert!(metrics.contains(&counted("Service")), "{metrics}");

    // It still follows changes.
    fs::remove_file(directory.path().join("other.yaml")).unwrap();
    proxy.wait_for_no_rule("10.96.0.20");
}

#[test]
fn a_node_in_the_directory_says_who_we_are() {
    let namespace = Namespace::new("node").unwrap();
    namespace.ip("address add 192.0.2.44/32 dev lo").unwrap();
    namespace.ip("address add 192.0.2.45/32 dev lo").unwrap();
    let directory = directory(&[("web.yaml", &web()), ("node.yaml", &[node("edge-7", &[], &["192.0.2.44"])])]);
    let proxy = Proxy::start(&namespace, &["--manifest-dir", directory.path().to_str().unwrap()]);
    proxy.wait_for_rule("10.96.0.10");
    let table = table(&namespace);
    assert!(table.contains("192.0.2.44") && !table.contains("192.0.2.45"), "{table}");
}

/// Contract §10.5.
#[test]
fn a_table_of_another_process_makes_syncs_fail_until_it_goes() {
    let namespace = Namespace::new("node").unwrap();
    let mut owner = namespace.command("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let commands = owner.stdin.as_mut().unwrap();
    commands.write_all(b"add table ip kube-proxy { flags owner; }\n").unwrap();
    namespace.sh("timeout 20 sh -c 'until nft list tables | grep --quiet kube-proxy; do :; done'").unwrap();
    let directory = directory(&[("web.yaml", &web())]);
    let proxy = start(&namespace, &directory);
    proxy.wait_for_log(r#"] "nftables sync failed, the rules in place stay" ipFamily="IPv4" err=""#);
    proxy.wait_for_log(r#"] "Sync failed" ipFamily="IPv4" retryingTime=""#);
    drop(owner.stdin.take());
    owner.wait().unwrap();
    proxy.wait_for_log("nftables sync works again, all changes are in place");
    assert!(!proxy.log().contains("this Service is not served"), "no Service is to blame: {}", proxy.log());
    proxy.wait_for_rule("10.96.0.10");
}

#[test]
fn a_signal_ends_it_at_once_and_leaves_the_rules() {
    let directory = directory(&[("web.yaml", &web())]);
    for signal in ["TERM", "INT"] {
        let namespace = Namespace::new("node").unwrap();
        let proxy = start(&namespace, &directory);
        proxy.wait_for_rule("10.96.0.10");
        proxy.signal(signal);
        let (status, log) = proxy.wait_for_end();
        assert!(status.success(), "{status}");
        assert!(log.ends_with(&format!("\"SIG{signal} received: exiting, the rules stay in place\"\n")), "{log}");
        assert!(table(&namespace).contains("10.96.0.10"));
    }
}

#[test]
fn a_restart_replaces_what_is_there() {
    let namespace = Namespace::new("node").unwrap();
    let directory = directory(&[("web.yaml", &web()), ("other.yaml", &other())]);
    let proxy = start(&namespace, &directory);
    proxy.wait_for_rule("10.96.0.10");
    proxy.signal("KILL");
    proxy.wait_for_end();
    fs::remove_file(directory.path().join("web.yaml")).unwrap();
    let proxy = start(&namespace, &directory);
    proxy.wait_for_no_rule("10.96.0.10");
    assert!(table(&namespace).contains("10.96.0.20"));
}

/// Go's runtime sees to that, so that kube-proxy does not know the limit that most services are started with.
#[test]
fn all_files_that_may_be_open_can_be() {
    let (namespace, directory) = (Namespace::new("node").unwrap(), directory(&[("web.yaml", &web())]));
    let argument = format!("--manifest-dir={}", directory.path().display());
    let proxy = Proxy::start_by(&namespace, &["prlimit", "--nofile=1024:4096"], &[&argument]);
    proxy.wait_for_rule("10.96.0.10");
    let limits = proxy.proc("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(files.contains("4096                 4096"), "{files}");
}
