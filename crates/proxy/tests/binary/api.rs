//! With a fake API server on the node.

use std::fs;

use serde_json::json;
use tempfile::TempDir;
use testing::api::{Expiry, FakeApi, Resource};
use testing::netns::Namespace;
use testing::objects::{node, service, slice};

use crate::process::{HEALTH_PORT, METRICS_PORT, Proxy, table};

/// A node with an API server on it that knows the node and one Service.
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) api: FakeApi,
    files: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let namespace = Namespace::new("node").unwrap();
        let api = namespace.run(FakeApi::start).unwrap();
        api.put(node("node-1", &["10.1.0.0/24"], &["192.0.2.10"]));
        let node = Self { namespace, api, files: tempfile::tempdir().unwrap() };
        node.put("web", "10.96.0.10");
        node
    }

    pub(crate) fn put(&self, name: &str, cluster_ip: &str) {
        self.api.put(service("shop", name).cluster_ip(cluster_ip).port("http", "TCP", 80));
        self.api.put(slice("shop", name, name).port("http", "TCP", 8080).endpoint("10.1.0.2"));
    }

    /// Starts the proxy as kubeadm does.
    fn start(&self) -> Proxy<'_> {
        self.start_with("clusterCIDR: 10.1.0.0/16")
    }

    /// The same with these fields in its configuration.
    pub(crate) fn start_with(&self, fields: &str) -> Proxy<'_> {
        let kubeconfig = self.api.kubeconfig(self.files.path()).unwrap();
        let config = self.files.path().join("config.conf");
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: nftables\n\
             {fields}\nclientConnection: {{kubeconfig: {}}}\n",
            kubeconfig.display()
        );
        fs::write(&config, text).unwrap();
        let config = format!("--config={}", config.display());
        Proxy::start(&self.namespace, &[&config, "--hostname-override=node-1"])
    }
}

#[test]
fn rules_follow_the_api_server() {
    let node = Node::new();
    let proxy = node.start();
    proxy.wait_for_rule("10.96.0.10 . tcp . 80");
    assert!(table(&node.namespace).contains("10.1.0.0/16"), "the cluster CIDR of the configuration");
    proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);

    node.put("late", "10.96.0.20");
    proxy.wait_for_rule("10.96.0.20");
    node.api.delete(Resource::Services, "shop", "web");
    proxy.wait_for_no_rule("10.96.0.10");
    assert!(table(&node.namespace).contains("10.96.0.20"));
}

/// Contract §10.5.
#[test]
fn the_log_has_what_is_looked_for_in_kube_proxys() {
    let node = Node::new();
    let proxy = node.start_with("clusterCIDR: fd01::/48\nlogging: {verbosity: 4}");
    proxy.wait_for_rule("10.96.0.10");
    let triggered = json!({"endpoints.kubernetes.io/last-change-trigger-time": jiff::Timestamp::now().to_string()});
    let slice = slice("shop", "web", "web").port("http", "TCP", 8080).endpoint("10.1.0.3");
    node.api.put(slice.set("/metadata/annotations", triggered));
    for message in [
        r#"] "Version info" version="#,
        "Successfully retrieved NodeIPs",
        "kube-proxy running in dual-stack mode",
        r#""Using nftables Proxier" ipFamily="IPv4""#,
        r#""Using nftables Proxier" ipFamily="IPv6""#,
        "Starting service config controller",
        "Starting endpoint slice config controller",
        "Starting serviceCIDR config controller",
        "Starting node config controller",
        "Caches are synced",
        "Kube-proxy configuration may be incomplete or incorrect",
        "Detect-local-mode set to ClusterCIDR, but no cluster CIDR specified for primary IP family",
        "Defaulting to no-op detect-local",
        r#""Using nftables mark for masquerade" mark="0x00004000""#,
        r#""NFTables sync params" minSyncPeriod="1s" syncPeriod="30s""#,
        r#""Reloading service nftables data" ipFamily="IPv4" numServices=1 numEndpoints=1"#,
        r#""SyncProxyRules complete" ipFamily="IPv6" elapsed=""#,
        r#""Network programming" ipFamily="IPv4" elapsed=""#,
    ] {
        proxy.wait_for_log(message);
    }
}

#[test]
fn rules_outlive_the_api_server_and_catch_up_with_it() {
    let node = Node::new();
    let proxy = node.start();
    proxy.wait_for_rule("10.96.0.10");
    node.api.go_down();
    proxy.wait_for_log("what was known stays in use");
    assert!(table(&node.namespace).contains("10.96.0.10"));
    assert_eq!(proxy.get(HEALTH_PORT, "/healthz").unwrap().0, 200, "the rules are as true as can be");

    node.put("late", "10.96.0.20");
    node.api.delete(Resource::Services, "shop", "web");
    node.api.come_up().unwrap();
    proxy.wait_for_rule("10.96.0.20");
    proxy.wait_for_no_rule("10.96.0.10");
}

#[test]
fn nothing_is_missed_when_watches_break_or_expire() {
    let node = Node::new();
    let proxy = node.start();
    proxy.wait_for_rule("10.96.0.10");
    node.api.wait_for_watch(Resource::Services);
    node.api.wait_for_watch(Resource::EndpointSlices);
    node.api.break_watches();
    node.put("a", "10.96.0.21");
    proxy.wait_for_rule("10.96.0.21");

    node.api.expire_watches();
    node.put("b", "10.96.0.22");
    proxy.wait_for_rule("10.96.0.22");

    // Gone while nobody watched, and the server has forgotten that it ever was.
    node.api.wait_for_watch(Resource::Services);
    node.api.end_watches();
    node.api.delete(Resource::Services, "shop", "a");
    node.api.compact(Expiry::Status);
    proxy.wait_for_no_rule("10.96.0.21");
    assert!(table(&node.namespace).contains("10.96.0.22"));
}

#[test]
fn a_missing_permission_is_named_and_nothing_is_written_without_it() {
    let node = Node::new();
    node.api.forbid(Resource::EndpointSlices);
    let proxy = node.start();
    proxy.wait_for_log(r#"apiGroups [\"discovery.k8s.io\"], resources [endpointslices], verbs [list, watch]"#);
    node.api.wait_for_requests("the Services to be listed", |requests| {
        requests.iter().any(|request| request.path == Resource::Services.path())
    });
    assert_eq!(table(&node.namespace), "", "half of the truth is no reason to write");
    let metrics = proxy.get(METRICS_PORT, "/metrics").unwrap().1;
    assert!(metrics.contains("\nslipstream_watch_failures_total{resource=\"endpointslices\"} "), "{metrics}");
    node.api.allow(Resource::EndpointSlices);
    proxy.wait_for_rule("10.96.0.10");
}

#[test]
fn an_api_server_that_is_not_there_yet_is_waited_for() {
    let node = Node::new();
    node.api.go_down();
    let proxy = node.start();
    proxy.wait_for_log("check that the server runs and can be reached from this node");
    proxy.wait_for_status(HEALTH_PORT, "/livez", 200);
    assert_eq!(proxy.get(HEALTH_PORT, "/healthz").unwrap().0, 503, "no traffic should be sent here yet");
    assert_eq!(table(&node.namespace), "");
    node.api.come_up().unwrap();
    proxy.wait_for_rule("10.96.0.10");
    proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
}
