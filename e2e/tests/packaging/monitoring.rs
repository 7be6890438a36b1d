//! Alerts and dashboard: every expression is one, of metrics that exist, and every alert goes off when it should.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::render::{find, kustomize, printed, tool};
use crate::schema::{Alert, Custom, PrometheusRule, strictly};

/// What has an underscore in an expression and is no metric.
const NO_METRICS: [&str; 4] = ["histogram_quantile", "label_values", "ip_family", "traffic_policy"];

fn rules() -> Value {
    find(&kustomize("overlays/monitoring"), "PrometheusRule", "slipstream").clone()
}

fn alerts() -> Vec<Alert> {
    let rules: Custom<PrometheusRule> = strictly(&rules()).unwrap();
    rules.spec.groups.into_iter().flat_map(|group| group.rules).collect()
}

fn dashboard() -> Value {
    let objects = kustomize("overlays/monitoring");
    let config_map = find(&objects, "ConfigMap", "slipstream-dashboard");
    assert_eq!(config_map["metadata"]["labels"]["grafana_dashboard"], "1");
    serde_json::from_str(config_map["data"]["slipstream.json"].as_str().unwrap()).unwrap()
}

/// Every expression of the dashboard's panels.
fn panel_expressions() -> Vec<String> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row");
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

/// Runs promtool on these files.
fn promtool(arguments: &[&str], files: &[(&str, &str)]) -> Result<String, String> {
    let directory = TempDir::new().unwrap();
    for (name, text) in files {
        fs::write(directory.path().join(name), text).unwrap();
    }
    let output = Command::new(tool("promtool")).args(arguments).current_dir(directory.path()).output().unwrap();
    // Both of its outputs have something to say about a failure.
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    printed(output).map_err(|stderr| stdout + &stderr)
}

#[test]
fn every_expression_can_be_evaluated() {
    let panels = panel_expressions().into_iter().enumerate().map(|(number, expression)| {
        let expression = expression.replace("$__rate_interval", "5m");
        assert_eq!(expression.matches('$').count(), expression.matches("\"$instance\"").count(), "{expression}");
        json!({"record": format!("panel:{number}"), "expr": expression})
    });
    let panels = json!({"groups": [{"name": "panels", "rules": panels.collect::<Vec<_>>()}]});
    let files = [("rules.yaml", rules()["spec"].to_string()), ("panels.yaml", panels.to_string())];
    for (name, text) in &files {
        promtool(&["check", "rules", "--lint=all", "--lint-fatal", name], &[(name, text)]).unwrap();
    }
}

#[test]
fn every_metric_exists() {
    // All that the proxy serves, which a test of telemetry keeps true, and what Prometheus says itself.
    let list = include_str!("../../../docs/metrics.md").lines();
    let mut exist: BTreeSet<_> = list.filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    exist.insert("up");
    let alerts = alerts().into_iter().map(|alert| alert.expr);
    let queries = dashboard()["templating"]["list"].as_array().unwrap().clone();
    let queries = queries.iter().map(|variable| variable["query"].as_str().unwrap().to_owned());
    for expression in alerts.chain(panel_expressions()).chain(queries) {
        for name in names(&expression) {
            let of_histogram = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let known = exist.contains(name) || of_histogram.is_some_and(|name| exist.contains(name));
            assert!(known, "there is no metric {name}, used in {expression}");
        }
    }
}

/// All names of metrics in an expression.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| *word == "up" || word.contains('_') && !word.starts_with('_') && !NO_METRICS.contains(word))
}

#[test]
fn every_alert_goes_off_when_it_should_and_only_then() {
    let mut tests: Value = serde_saphyr::from_str(include_str!("alerts.yaml")).unwrap();
    let names: BTreeSet<_> = alerts().into_iter().map(|alert| alert.alert).collect();
    for test in tests["tests"].as_array_mut().unwrap() {
        let firing = test["firing"].take();
        let samples = firing.as_array().unwrap().iter().map(|name| {
            assert!(names.contains(name.as_str().unwrap()), "there is no alert {name}");
            json!({"labels": format!("{{alertname={name}}}"), "value": 1})
        });
        let samples: Vec<_> = samples.collect();
        let expression = "count by (alertname) (ALERTS{alertstate=\"firing\"})";
        test["promql_expr_test"] = json!([{"expr": expression, "eval_time": "2h", "exp_samples": samples}]);
        test.as_object_mut().unwrap().remove("firing");
    }
    let files = [("rules.yaml", rules()["spec"].to_string()), ("tests.yaml", tests.to_string())];
    let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
    promtool(&["test", "rules", "tests.yaml"], &files).unwrap_or_else(|error| panic!("{error}"));
    let tested = include_str!("alerts.yaml");
    assert!(names.iter().all(|name| tested.contains(name.as_str())), "an alert of {names:?} is not in alerts.yaml");
}

#[test]
fn every_alert_says_what_it_means() {
    for alert in alerts() {
        assert!(["info", "warning", "critical"].contains(&alert.labels["severity"].as_str()), "{}", alert.alert);
        assert!(["summary", "description"].iter().all(|key| alert.annotations.contains_key(*key)), "{}", alert.alert);
    }
}

#[test]
fn no_panel_hides_another() {
    let dashboard = dashboard();
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64()), "{panel}");
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{panel}");
        assert!((x..x + w).all(|x| (y..y + h).all(|y| cells.insert((x, y)))), "{panel}");
    }
}
