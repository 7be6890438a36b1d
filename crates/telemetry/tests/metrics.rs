//! Metric names, types, labels and buckets are an interface: dashboards and alerts are built on them.

use std::fs;
use std::time::{Duration, UNIX_EPOCH};

use model::Family;
use telemetry::{FullSync, InterfaceSync, Invalidation, Metrics, Slis, SyncKind};
use testing::metrics::{parse, tables};

/// Metrics after one event of each kind.
fn exercised() -> Metrics {
    let metrics = Metrics::new().expect("all metrics can be registered");
    let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
    metrics.sync_queued(Family::V4, at);
    metrics.services_changed(2, 3);
    metrics.endpoints_changed(1, 7);
    metrics.committed(Family::V4, 12, Duration::from_micros(300));
    metrics.committed(Family::V4, 1, Duration::from_micros(100));
    metrics.synced(Family::V4, SyncKind::Full, Duration::from_millis(20), at);
    metrics.sync_failed(Family::V6, SyncKind::Partial, Duration::from_millis(3));
    metrics.cleanup_failed(Family::V6);
    metrics.programmed(Family::V4, Duration::from_millis(700));
    metrics.frontends_in_conflict(Family::V4, 2);
    metrics.connections_reconciled(Family::V4, Duration::from_millis(5), 3);
    metrics.connections_reconciled(Family::V4, Duration::from_millis(1), 0);
    metrics.connections_not_reconciled(Family::V6);
    metrics.foreign_edit(Family::V6);
    metrics.foreign_edits_missed();
    metrics.clock_jumped();
    metrics.fully_synced(Family::V4, FullSync::Changed);
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
    metrics.no_local_endpoints(Family::V4, 1, 2);
    metrics.fast_path_enabled(Family::V4, true);
    metrics.fast_path_devices(Family::V4, 3);
    metrics.fast_path_flows(Family::V4, 4);
    metrics.fast_path_counted(Family::V4, 5, 6, 7);
    metrics.fast_path_invalidated(Invalidation::Endpoint, 8);
    metrics.interfaces_synced(Family::V4, InterfaceSync::Done, Duration::from_millis(2));
    metrics.stands_in_for("v1.36.2");
    metrics.feature("ComponentFlagz", "BETA", true);
    metrics.request_answered(Some(200), "GET", "10.96.0.1:443");
    metrics.request_completed("GET", "10.96.0.1:443", Duration::from_millis(30), 0, Some(70_000));
    metrics.request_answered(None, "POST", "10.96.0.1:443");
    metrics.request_completed("POST", "10.96.0.1:443", Duration::from_secs(10), 300, None);
    metrics
}

const LIST: &str = include_str!("../../../docs/metrics.md");

#[test]
fn the_interface_is_the_one_checked_in() {
    let families = parse(&exercised().render()).unwrap();
    let (metrics, buckets) = tables(&families);
    let actual = format!(
        "# Metrics\n\nAll that `/metrics` serves; those with labels appear with their first event.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n{}\n\n\
         ## Buckets\n\n| histogram | buckets |\n|---|---|\n{}\n",
        metrics.join("\n"),
        buckets.join("\n")
    );
    let file = concat!(env!("CARGO_TARGET_TMPDIR"), "/metrics.md");
    fs::write(file, &actual).unwrap();
    assert!(actual == LIST, "the metrics are not those of docs/metrics.md; if that is meant, copy {file} there");
}

#[test]
fn every_metric_has_had_its_event() {
    let families = parse(&exercised().render()).unwrap();
    let counted = families["registered_metrics_total"].samples.values().sum::<f64>();
    let shown = families.values().filter(|family| family.help.starts_with('[')).count();
    assert_eq!(counted, shown as f64, "an event is missing in this test");
}

/// What README and the table of faults name is there, what README says is not there is not.
#[test]
fn the_names_in_documents_are_true() {
    let readme = include_str!("../../../README.md");
    let (there, rest) = readme.split_once("\n### Metrics that are not there\n").unwrap();
    let (not_there, there_too) = rest.split_once("\n##").unwrap();
    // What goes on after an underscore stands for all that begin so.
    let is_listed = |name: &str| LIST.contains(&format!("`{name}{}", if name.ends_with('_') { "" } else { "`" }));
    for name in names(there).chain(names(there_too)).chain(names(include_str!("../../../docs/faults.md"))) {
        assert!(is_listed(name), "README or docs/faults.md names {name}");
    }
    let absent: Vec<_> = names(not_there).collect();
    assert!(absent.len() > 4 && !absent.iter().any(|name| is_listed(name)), "{absent:?}");
}

/// Names of metrics in a text: those with a prefix that only they have.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let prefixes = ["kubeproxy_", "slipstream_", "rest_client_", "kubernetes_", "process_", "registered_"];
    words.filter(move |word| prefixes.iter().any(|prefix| word.starts_with(prefix)))
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
        "slipstream_kernel_commit_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.0005\"} 2",
        "slipstream_kernel_commit_longest_seconds{ip_family=\"IPv4\"} 0.0003",
        "slipstream_transaction_operations_total{ip_family=\"IPv4\"} 13",
        "slipstream_frontends_in_conflict{ip_family=\"IPv4\"} 2",
        "slipstream_foreign_edits_total{ip_family=\"IPv6\"} 1",
        "slipstream_object_problems_total{kind=\"Service\"} 1",
        "slipstream_watch_failures_total{resource=\"endpointslices\"} 1",
        "kubernetes_feature_enabled{name=\"ComponentFlagz\",stage=\"BETA\"} 1",
        "rest_client_requests_total{code=\"200\",host=\"10.96.0.1:443\",method=\"GET\"} 1",
        "rest_client_requests_total{code=\"<error>\",host=\"10.96.0.1:443\",method=\"POST\"} 1",
        "rest_client_request_duration_seconds_sum{host=\"10.96.0.1:443\",verb=\"GET\"} 0.03",
        "rest_client_request_duration_seconds_sum{host=\"10.96.0.1:443\",verb=\"POST\"} 10",
        "rest_client_request_size_bytes_sum{host=\"10.96.0.1:443\",verb=\"POST\"} 300",
        "rest_client_response_size_bytes_sum{host=\"10.96.0.1:443\",verb=\"GET\"} 70000",
        "disabled_metrics_total 0",
        "hidden_metrics_total 0",
    ];
    for sample in samples {
        assert!(text.lines().any(|line| line == sample), "{sample} is not in\n{text}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let build = format!(
        "\nkubernetes_build_info{{build_date=\"\",compiler=\"rustc\",git_commit=\"\",git_tree_state=\"\",\
         git_version=\"v1.36.2+slipstream.{version}\",go_version=\"\",major=\"1\",minor=\"36\",platform=\"linux"
    );
    assert!(text.contains(&build), "{text}");
    // No answer has no size.
    assert!(!text.contains("response_size_bytes_sum{host=\"10.96.0.1:443\",verb=\"POST\"}"));
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

/// A bug that was: the library's collector counts whole seconds, of which rates are spikes.
#[test]
fn cpu_time_is_counted_in_fractions_of_a_second() {
    let families = parse(&Metrics::new().unwrap().render()).unwrap();
    let seconds = families["process_cpu_seconds_total"].samples.values().sum::<f64>();
    assert!(seconds > 0.0 && seconds.fract() != 0.0, "{seconds}");
}

#[test]
fn health_checks_are_counted_until_they_are_reset() {
    let slis = Slis::new().unwrap();
    let names = || parse(&slis.render()).unwrap().into_keys().collect::<Vec<_>>();
    assert_eq!(names(), ["process_start_time_seconds"]);
    slis.answered();
    slis.answered();
    assert_eq!(names(), ["kubernetes_healthcheck", "kubernetes_healthchecks_total", "process_start_time_seconds"]);
    let text = slis.render();
    assert!(text.contains("\nkubernetes_healthcheck{name=\"ping\",type=\"healthz\"} 1\n"), "{text}");
    let total = "\nkubernetes_healthchecks_total{name=\"ping\",status=\"success\",type=\"healthz\"} 2\n";
    assert!(text.contains(total), "{text}");
    slis.reset();
    assert_eq!(names(), ["process_start_time_seconds"]);
}
