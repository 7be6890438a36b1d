//! Objects as Kubernetes' types know them, and nothing else in them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Refuses an object with a field that its kind does not have, or with a value of another type.
///
/// # Errors
/// What is wrong, and where.
pub(crate) fn check(object: &Value) -> Result<(), String> {
    let kind = (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    match kind {
        ("apps/v1", "DaemonSet") => strictly::<DaemonSet>(object).map(drop),
        ("v1", "ConfigMap") => strictly::<ConfigMap>(object).map(drop),
        ("v1", "ServiceAccount") => strictly::<ServiceAccount>(object).map(drop),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => strictly::<ClusterRole>(object).map(drop),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => strictly::<ClusterRoleBinding>(object).map(drop),
        ("monitoring.coreos.com/v1", "PodMonitor") => strictly::<Custom<PodMonitor>>(object).map(drop),
        ("monitoring.coreos.com/v1", "PrometheusRule") => strictly::<Custom<PrometheusRule>>(object).map(drop),
        other => Err(format!("{other:?} is a kind that this test does not know")),
    }
    .map_err(|error| format!("{} {}: {error}", object["kind"], object["metadata"]["name"]))
}

/// Parses an object, every field of which has to be known.
///
/// # Errors
/// As [`check`].
pub(crate) fn strictly<T: DeserializeOwned>(object: &Value) -> Result<T, String> {
    let mut unknown = Vec::new();
    let parsed = serde_ignored::deserialize(object, |path| unknown.push(path.to_string()));
    let parsed = parsed.map_err(|error| error.to_string())?;
    if unknown.is_empty() { Ok(parsed) } else { Err(format!("unknown fields: {}", unknown.join(", "))) }
}

/// A custom resource of the Prometheus operator: as much of it as is used.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "read by its parser only")]
pub(crate) struct Custom<T> {
    api_version: String,
    kind: String,
    metadata: ObjectMeta,
    pub(crate) spec: T,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "read by its parser only")]
pub(crate) struct PodMonitor {
    job_label: String,
    selector: LabelSelector,
    pod_metrics_endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read by its parser only")]
struct Endpoint {
    relabelings: Vec<Relabeling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "read by its parser only")]
struct Relabeling {
    source_labels: Vec<String>,
    regex: Option<String>,
    replacement: Option<String>,
    target_label: Option<String>,
    action: Option<Action>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Drop,
}

#[derive(Deserialize)]
pub(crate) struct PrometheusRule {
    pub(crate) groups: Vec<Group>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read by its parser only")]
pub(crate) struct Group {
    name: String,
    pub(crate) rules: Vec<Alert>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read by its parser only")]
pub(crate) struct Alert {
    pub(crate) alert: String,
    pub(crate) expr: String,
    r#for: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[test]
fn a_field_that_is_misspelt_is_found() {
    let role = serde_json::json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "r"}, "rules": [{"apiGroups": [""], "resource": ["nodes"], "verbs": ["get"]}],
    });
    assert!(check(&role).unwrap_err().contains("unknown fields: rules.?.0.resource"), "{:?}", check(&role));
}
