//! Metric names, types, labels and buckets are an interface: dashboards and alerts are built on them.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use model::Family;
use telemetry::{Metrics, SyncKind};

/// Metrics after one event of each kind.
fn exercised() -> Metrics {
    let metrics = Metrics::new().expect("all metrics can be registered");
    let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    metrics.sync_queued(Family::V4, at);
    metrics.services_changed(2, 3);
    metrics.endpoints_changed(1, 7);
    metrics.committed(Family::V4, 12, Duration::from_micros(300));
    metrics.synced(Family::V4, SyncKind::Full, Duration::from_millis(20), at);
    metrics.sync_failed(Family::V6, SyncKind::Partial, Duration::from_millis(3));
    metrics.cleanup_failed(Family::V6);
    metrics.programmed(Family::V4, Duration::from_millis(700));
    metrics.frontends_in_conflict(Family::V4, 2);
    metrics.connections_reconciled(Family::V4, Duration::from_millis(5), 3);
    metrics.connections_reconciled(Family::V4, Duration::from_millis(1), 0);
    metrics.connections_not_reconciled(Family::V6);
    metrics.foreign_edit(Family::V6);
    metrics.services_set_aside(Family::V6, 1);
    metrics.localhost_wanted(Family::V4);
    metrics.localhost_listener_opened(Family::V4);
    metrics.localhost_listener_opened(Family::V4);
    metrics.localhost_listener_closed(Family::V4);
    metrics.localhost_listener_failed(Family::V6);
    metrics.object_problem("Service");
    metrics.watch_failed("endpointslices");
    metrics.healthz_answered(503);
    metrics.livez_answered(200);
    metrics
}

/// `name type label,label bucket bucket` for each family.
fn interface(text: &str) -> String {
    let mut families: BTreeMap<&str, (&str, Vec<&str>, Vec<&str>)> = BTreeMap::new();
    let mut current = "";
    for line in text.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').expect("a name and a type");
            families.insert(name, (kind, Vec::new(), Vec::new()));
            current = name;
        } else if let Some((_, labels)) = line.split_once('{') {
            let (labels, _) = labels.split_once('}').expect("a closing brace");
            let (_, names, buckets) = families.get_mut(current).expect("a type before the first sample");
            for (name, value) in labels.split(',').filter_map(|label| label.split_once('=')) {
                let (list, item) =
                    if name == "le" { (&mut *buckets, value.trim_matches('"')) } else { (&mut *names, name) };
                if !list.contains(&item) {
                    list.push(item);
                }
            }
        }
    }
    let line = |(name, (kind, labels, buckets)): (&&str, &(&str, Vec<&str>, Vec<&str>))| {
        let text = format!("{name} {kind} {} {}", labels.join(","), buckets.join(" "));
        text.trim_end().to_owned() + "\n"
    };
    families.iter().map(line).collect()
}

#[test]
fn the_interface_is_the_one_checked_in() {
    let actual = interface(&exercised().render());
    assert_eq!(actual, include_str!("metrics.txt"), "\nwrite this to tests/metrics.txt if it is meant:\n{actual}");
}

#[test]
fn help_of_kube_proxys_metrics_tells_their_stability() {
    let text = exercised().render();
    let helps: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# HELP kubeproxy_")).collect();
    assert_eq!(helps.len(), 18);
    assert!(helps.iter().all(|help| help.contains(" [ALPHA] ")), "{helps:#?}");
}

#[test]
fn events_are_counted_where_they_belong() {
    let text = exercised().render();
    let samples = [
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"} 1",
        "kubeproxy_sync_full_proxy_rules_duration_seconds_sum{ip_family=\"IPv4\"} 0.02",
        "kubeproxy_sync_partial_proxy_rules_duration_seconds_sum{ip_family=\"IPv6\"} 0.003",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1700000000.25",
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} 1700000000.25",
        "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"1\"} 1",
        "kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv6\"} 1",
        "kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total{ip_family=\"IPv6\"} 1",
        "kubeproxy_sync_proxy_rules_service_changes_total 2",
        "kubeproxy_sync_proxy_rules_service_changes_pending 0",
        "kubeproxy_sync_proxy_rules_endpoint_changes_total 1",
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
        "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
        "kubeproxy_proxy_livez_total{code=\"200\"} 1",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_count{ip_family=\"IPv4\"} 2",
        "kubeproxy_conntrack_reconciler_sync_duration_seconds_sum{ip_family=\"IPv4\"} 0.006",
        "kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"} 3",
        "kubeproxy_nftables_localhost_nodeport_listeners{ip_family=\"IPv4\"} 1",
        "kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total{ip_family=\"IPv4\"} 0",
        "kubeproxy_nftables_localhost_nodeport_listener_creation_failures_total{ip_family=\"IPv6\"} 1",
        "slipstream_conntrack_reconciler_failures_total{ip_family=\"IPv6\"} 1",
        "slipstream_kernel_commit_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.0005\"} 1",
        "slipstream_transaction_operations_total{ip_family=\"IPv4\"} 12",
        "slipstream_frontends_in_conflict{ip_family=\"IPv4\"} 2",
        "slipstream_foreign_edits_total{ip_family=\"IPv6\"} 1",
        "slipstream_object_problems_total{kind=\"Service\"} 1",
        "slipstream_watch_failures_total{resource=\"endpointslices\"} 1",
    ];
    for sample in samples {
        assert!(text.lines().any(|line| line == sample), "{sample} is not in\n{text}");
    }
    // A failed sync is not the last successful one.
    assert!(!text.contains("last_timestamp_seconds{ip_family=\"IPv6\"}"));
}

#[test]
fn pending_changes_show_until_the_next_sync() {
    let metrics = exercised();
    metrics.services_changed(1, 4);
    metrics.endpoints_changed(1, 9);
    let text = metrics.render();
    assert!(text.contains("\nkubeproxy_sync_proxy_rules_service_changes_pending 4\n"));
    assert!(text.contains("\nkubeproxy_sync_proxy_rules_endpoint_changes_pending 9\n"));
}
