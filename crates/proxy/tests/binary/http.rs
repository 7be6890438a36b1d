//! What its servers answer.

use std::collections::BTreeSet;

use serde_json::json;
use testing::api::Resource;
use testing::metrics::{parse, tables};
use testing::objects::{service, slice};

use crate::api::Node;
use crate::process::{HEALTH_PORT, METRICS_PORT, Proxy};

/// Metrics of what a healthy kernel does not do. Those of the fast path need one that has flowtables.
const OF_FAILURES: [&str; 4] = [
    "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total",
    "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
    "slipstream_conntrack_reconciler_failures_total",
    "slipstream_services_set_aside",
];

/// Makes happen what metrics tell of.
fn exercise(node: &Node, proxy: &Proxy<'_>) {
    proxy.wait_for_rule("10.96.0.10");
    for path in ["/healthz", "/livez"] {
        proxy.get(HEALTH_PORT, path).unwrap();
    }
    node.api.put(service("shop", "odd").cluster_ip("10.96.0.666").port("http", "TCP", 80));
    let triggered = json!({"endpoints.kubernetes.io/last-change-trigger-time": jiff::Timestamp::now().to_string()});
    node.api.put(service("shop", "late").cluster_ip("10.96.0.20").port("http", "TCP", 80));
    let slice = slice("shop", "late", "late").port("http", "TCP", 8080).endpoint("10.1.0.2");
    node.api.put(slice.set("/metadata/annotations", triggered));
    proxy.wait_for_rule("10.96.0.20");
    node.api.forbid(Resource::EndpointSlices);
    node.api.expire_watches();
    proxy.wait_for_log("resources [endpointslices]");
    node.api.allow(Resource::EndpointSlices);
    node.namespace.sh("nft flush ruleset").unwrap();
    proxy.wait_for_rule("10.96.0.20");
}

#[test]
fn all_metrics_are_as_listed() {
    let node = Node::new();
    let proxy = node.start_with("clusterCIDR: 10.1.0.0/16");
    exercise(&node, &proxy);
    let list = include_str!("../../../../docs/metrics.md");
    let listed: BTreeSet<_> = list.lines().filter(|line| line.starts_with("| `")).collect();
    let page = || parse(&proxy.get(METRICS_PORT, "/metrics").unwrap().1).unwrap();
    let absent = || {
        let (metrics, buckets) = tables(&page());
        for row in metrics.iter().chain(&buckets) {
            assert!(listed.contains(row.as_str()), "docs/metrics.md does not have {row}");
        }
        let names: BTreeSet<_> = page().into_keys().collect();
        let listed = listed.iter().filter_map(|row| row.split('`').nth(1));
        let absent = listed.filter(|name| !names.contains(*name) && !name.contains("fastpath"));
        absent.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    eprintln!("{:#?}", absent());
    proxy.wait("all metrics but those of failures", || absent() == OF_FAILURES);
}
