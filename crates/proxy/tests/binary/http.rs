//! What its servers answer.

use std::collections::BTreeSet;

use serde_json::json;
use testing::api::Resource;
use testing::http;
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
    node.api.put(service("shop", "late").cluster_ip("10.96.0.20").port("dns", "UDP", 53));
    let slice = slice("shop", "late", "late").port("dns", "UDP", 5353).endpoint("10.1.0.2");
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
    let proxy = node.start_with("clusterCIDR: 10.1.0.0/16\nnodePortAddresses: [primary, localhost]");
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
    // They are looked at after the rules are in place.
    let connections = "kubeproxy_conntrack_reconciler_sync_duration_seconds";
    proxy.wait(connections, || !absent().contains(&connections));
    assert_eq!(absent(), OF_FAILURES);
}

/// Status, content type and a part of the body for each request, its parts as [`http::request`] takes them.
type Row<'a> = (&'a str, &'a str, &'a str, u16, &'a str, &'a str);

fn check(node: &Node, port: u16, rows: &[Row<'_>]) {
    for (line, accept, body, status, content_type, part) in rows {
        let accept = Some(("Accept", *accept)).filter(|(_, value)| !value.is_empty());
        let answer = http::request(&node.namespace, port, line, accept.as_slice(), body).unwrap();
        assert_eq!(answer.status, *status, "{line}: {answer:?}");
        assert_eq!(answer.header("content-type"), Some(*content_type), "{line}: {answer:?}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{line}: {answer:?}");
        assert!(answer.body.contains(part), "{line}: {answer:?}");
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4";

#[test]
fn every_path_answers() {
    let node = Node::new();
    let proxy = node.start_with("clusterCIDR: 10.1.0.0/16\nenableProfiling: true\nlogging: {verbosity: 0}");
    proxy.wait_for_rule("10.96.0.10");
    proxy.wait_for_status(HEALTH_PORT, "/healthz", 200);
    check(
        &node,
        HEALTH_PORT,
        &[
            (
                "GET /healthz",
                "",
                "",
                200,
                JSON,
                r#""nodeEligible":true,"healthy":true,"status":{"IPv4":{"lastUpdated":"#,
            ),
            ("POST /livez", "", "x", 200, JSON, r#","healthy":true,"status":{"#),
        ],
    );
    let flagz = "application/json;as=Flagz;g=config.k8s.io;v=v1beta1";
    let statusz = "application/yaml;as=Statusz;g=config.k8s.io;v=v1alpha1";
    check(
        &node,
        METRICS_PORT,
        &[
            (
                "GET /metrics",
                "",
                "",
                200,
                PROMETHEUS,
                "\nkubernetes_feature_enabled{name=\"ComponentFlagz\",stage=\"BETA\"} 1\n",
            ),
            ("GET /metrics", "", "", 200, PROMETHEUS, ",git_version=\"v1.36.2+slipstream."),
            ("GET /healthz?verbose", "", "", 200, TEXT, "[+]ping ok\n"),
            ("GET /metrics/slis", "", "", 200, PROMETHEUS, "{name=\"ping\",status=\"success\",type=\"healthz\"} 1\n"),
            ("DELETE /metrics/slis", "", "", 200, TEXT, "metrics reset"),
            ("GET /healthz/ping", "", "", 200, TEXT, "ok"),
            ("GET /proxyMode", "", "", 200, TEXT, "nftables"),
            ("GET /configz", "", "", 200, JSON, r#""kind":"KubeProxyConfiguration""#),
            ("GET /configz", "", "", 200, JSON, r#""clusterCIDR":"10.1.0.0/16""#),
            ("GET /flagz", "", "", 200, TEXT, "\nhostname-override=node-1\n"),
            ("GET /flagz", flagz, "", 200, JSON, r#""hostname-override":"node-1""#),
            ("GET /flagz", JSON, "", 406, TEXT, "as=Flagz"),
            ("GET /statusz", "", "", 200, TEXT, "\nPaths: /configz /flagz /healthz /metrics /proxyMode\n"),
            ("GET /statusz", statusz, "", 200, "application/yaml", "kind: Statusz\n"),
            ("GET /debug/pprof/", "", "", 200, TEXT, "no profiles"),
            ("GET /debug/pprof/heap", "", "", 404, TEXT, "no profiles"),
            ("GET /debug/flags", "", "", 200, TEXT, "/debug/flags/v"),
            ("PUT /debug/flags/v", "", "all", 400, TEXT, "not a number"),
            ("POST /debug/flags/v", "", "4", 406, TEXT, "PUT"),
            ("GET /", "", "", 404, TEXT, "404 page not found\n"),
        ],
    );
    let answer = http::request(&node.namespace, METRICS_PORT, "GET /statusz", &[("Accept", statusz)], "").unwrap();
    assert!(answer.header("warning").is_some_and(|warning| warning.starts_with("299 - ")), "{answer:?}");
    let moved = http::request(&node.namespace, METRICS_PORT, "GET /debug/pprof", &[], "").unwrap();
    assert_eq!((moved.status, moved.header("location")), (302, Some("/debug/pprof/")));
}

#[test]
fn the_verbosity_follows_a_request() {
    let node = Node::new();
    let proxy = node.start_with("enableProfiling: true");
    proxy.wait_for_rule("10.96.0.10");
    let set = |number: &str| {
        let answer = http::request(&node.namespace, METRICS_PORT, "PUT /debug/flags/v", &[], number).unwrap();
        assert_eq!(answer.body, format!("successfully set klog.logging.verbosity to {number}"));
    };
    assert_eq!(proxy.debug_lines(), 0);
    set("2");
    node.put("second", "10.96.0.20");
    proxy.wait("details in the log", || proxy.debug_lines() > 0);
    set("0");
    let before = proxy.debug_lines();
    node.put("third", "10.96.0.30");
    proxy.wait_for_rule("10.96.0.30");
    assert_eq!(proxy.debug_lines(), before, "{}", proxy.log());
}

#[test]
fn what_is_switched_off_is_not_there() {
    let node = Node::new();
    let proxy = node.start_with("featureGates: {ComponentFlagz: false, ComponentStatusz: false}");
    proxy.wait_for_status(METRICS_PORT, "/proxyMode", 200);
    for path in ["/flagz", "/statusz", "/debug/pprof", "/debug/pprof/", "/debug/flags", "/debug/flags/v"] {
        assert_eq!(proxy.get(METRICS_PORT, path).unwrap().0, 404, "{path}");
    }
}

#[test]
fn requests_to_the_api_server_are_measured() {
    let node = Node::new();
    let proxy = node.start_with("");
    proxy.wait_for_rule("10.96.0.10");
    let host = node.api.url().replace("http://", "");
    let sample = |family: &str, suffix: &str, labels: &str| {
        let page = parse(&proxy.get(METRICS_PORT, "/metrics").unwrap().1).unwrap();
        let labels = labels.replace("HOST", &host);
        page.get(family)
            .and_then(|family| family.samples.get(&(suffix.to_owned(), labels)).copied())
            .unwrap_or_default()
    };
    // Lists and watches of four kinds of objects.
    let answered = || sample("rest_client_requests_total", "", "code=\"200\",host=\"HOST\",method=\"GET\"");
    proxy.wait("eight answers", || answered() >= 8.0);
    let of_get = "host=\"HOST\",verb=\"GET\"";
    assert_eq!(sample("rest_client_request_duration_seconds", "_count", of_get), 4.0);
    assert_eq!(sample("rest_client_request_size_bytes", "_sum", of_get), 0.0);
    assert!(sample("rest_client_response_size_bytes", "_sum", of_get) > 1_000.0);
    node.api.go_down();
    let failed = || sample("rest_client_requests_total", "", "code=\"<error>\",host=\"HOST\",method=\"GET\"");
    proxy.wait("requests without an answer", || failed() > 0.0);
}
